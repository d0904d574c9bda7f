"""What goes wrong: a line for what a user can mend, a traceback for a bug."""

import pytest
import torch

from vit_finetune.core.errors import UserError, readable_errors


def fail(error):
    raise error


def lines_of(work, memory_key=None):
    """What Python prints to standard error as it exits with status 1."""
    with pytest.raises(SystemExit) as end, readable_errors("train", memory_key):
        work()
    assert isinstance(end.value.code, str)
    return end.value.code


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("VIT_TRACEBACK", raising=False)


@pytest.mark.parametrize(
    ("work", "lines"),
    [
        (lambda: fail(UserError("train.lr is 0")), "train: train.lr is 0"),
        (lambda: fail(UserError("first\nsecond")), "train: first\ntrain: second"),
        (lambda: open("absent.json"), "train: [Errno 2] No such file or directory: 'absent.json'"),  # noqa: PTH123, SIM115
        (lambda: fail(ConnectionRefusedError(111, "refused")), "train: [Errno 111] refused"),
    ],
)
def test_what_a_user_can_mend_is_its_text_after_the_name_of_the_stage(work, lines, capsys):
    assert lines_of(work) == lines
    assert capsys.readouterr() == ("", "")


OUT_OF_MEMORY = [
    lambda: fail(MemoryError("anything")),
    lambda: bytearray(1 << 62),
    lambda: torch.zeros(1 << 60),
    lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
]


@pytest.mark.parametrize("work", OUT_OF_MEMORY)
def test_out_of_memory_names_the_key_to_lower(work):
    assert (
        lines_of(work, "train.batch_size") == "train: out of memory; try a smaller train.batch_size"
    )


def test_out_of_memory_where_no_key_bounds_it_says_what_else_to_do():
    assert lines_of(OUT_OF_MEMORY[0]) == "train: out of memory; free some, then run it again"


@pytest.mark.parametrize(
    "error",
    [
        KeyError("lost"),
        AttributeError("lost"),
        AssertionError("1 == 2"),
        ZeroDivisionError("1 / 0"),
        ValueError("a library's"),
        RuntimeError("a library's"),
        OSError("without a number of the operating system"),
    ],
)
def test_any_other_error_is_a_bug_that_says_so_and_is_raised_on_for_its_traceback(error, capsys):
    with pytest.raises(type(error)) as caught, readable_errors("train", "train.batch_size"):
        raise error
    assert caught.value is error
    assert (
        capsys.readouterr().err == "train: this is a bug; please report it with the lines below\n"
    )


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_and_an_exit_pass_untouched(end, capsys):
    with pytest.raises(type(end)) as caught, readable_errors("train"):
        raise end
    assert caught.value is end
    assert capsys.readouterr() == ("", "")


def test_a_variable_shows_the_traceback_of_what_a_user_can_mend(monkeypatch, capsys):
    monkeypatch.setenv("VIT_TRACEBACK", "1")
    assert lines_of(lambda: fail(UserError("train.lr is 0"))) == "train: train.lr is 0"
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback (most recent call last):\n")
    assert errors.endswith("UserError: train.lr is 0\n")


def test_without_an_error_nothing_happens(capsys):
    with readable_errors("train"):
        print("work")
    assert capsys.readouterr() == ("work\n", "")
