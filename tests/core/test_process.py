"""The process of a stage: how it ends, that it is alone, that it does not outlive what started
it."""

import os
import re
import signal
import subprocess
import sys
import termios
import threading

import pytest

from tests.project import ROOT
from vit_finetune.core.process import end_with_dvc, progress, run_stage

STAGE = """
import time
from vit_finetune.core import process
from vit_finetune.core.errors import UserError
process.LOCK_PATIENCE = {patience}
def main():
    {body}
process.run_stage("train", main{options})
"""


def start(folder, script, **variables):
    ours = ("VIT_", "DVC_", "RANK")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT / "src"), **variables},
        # a background shell leaves it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def start_stage(folder, body, options="", patience=10, **variables):
    """A stage named "train" in a process of its own; its main has this one line."""
    return start(folder, STAGE.format(body=body, options=options, patience=patience), **variables)


def end_of_stage(folder, body, options="", **variables):
    """Exit status, standard output and standard error."""
    process = start_stage(folder, body, options, **variables)
    output, errors = process.communicate()
    return process.returncode, output, errors


def test_a_stage_that_succeeds_says_how_long_it_took_and_exits_with_status_0(tmp_path):
    status, output, errors = end_of_stage(tmp_path, "print('work')")
    assert (status, errors) == (0, "")
    assert re.fullmatch(r"work\ntrain: \d+\.\d s\n", output)


def test_the_time_and_status_are_also_right_without_a_process_of_its_own(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as done:
        run_stage("train", lambda: print("work"))
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("work\ntrain: ")


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("raise UserError('train.lr is 0')", "train: train.lr is 0\n"),
        # also text that no encoding has
        ("raise UserError('\\ud800 café')", "train: \\ud800 café\n"),
        ("raise MemoryError", "train: out of memory; try a smaller train.batch_size\n"),
    ],
)
def test_an_expected_error_is_one_line_with_exit_status_1(tmp_path, body, lines):
    options = ", smaller='train.batch_size'"
    assert end_of_stage(tmp_path, body, options, PYTHONIOENCODING="utf-8") == (1, "", lines)


def test_a_variable_shows_the_traceback_of_an_expected_error_before_its_line(tmp_path):
    status, _, errors = end_of_stage(
        tmp_path, "raise UserError('train.lr is 0')", VIT_TRACEBACK="1"
    )
    assert status == 1
    assert errors.startswith("Traceback (most recent call last):\n")
    assert errors.endswith("UserError: train.lr is 0\ntrain: train.lr is 0\n")


def test_a_bug_is_called_one_and_keeps_its_traceback_with_exit_status_1(tmp_path):
    status, output, errors = end_of_stage(tmp_path, "{}['lost']")
    assert (status, output) == (1, "")
    first, second, *_, last = errors.splitlines()
    assert first == "train: this is a bug; please report it with the lines below"
    assert second == "Traceback (most recent call last):"
    assert "in main" in errors
    assert last == "KeyError: 'lost'"


@pytest.mark.parametrize(("rank", "end"), [("0", (1, "train: interrupted\n")), ("1", (130, ""))])
def test_an_interrupt_from_the_keyboard_is_one_line_of_the_first_process(tmp_path, rank, end):
    body = "import sys; print('started', file=sys.__stdout__, flush=True); time.sleep(60)"
    process = start_stage(tmp_path, body, ", several=True", RANK=rank)
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert output == ""
    assert (process.returncode, errors) == end


def test_of_several_processes_only_the_first_runs_a_stage_that_does_not_share_its_work(tmp_path):
    assert end_of_stage(tmp_path, "raise UserError('it ran')", RANK="1") == (0, "", "")


def test_of_several_processes_the_others_print_errors_only_and_say_which_they_are(tmp_path):
    body = "print('work'); raise UserError('train.lr is 0')"
    ended = end_of_stage(tmp_path, body, ", several=True", RANK="1")
    assert ended == (1, "", "train, process 1: train.lr is 0\n")


def test_a_second_start_is_told_who_runs_or_waits_until_the_first_has_ended(tmp_path):
    first = start_stage(tmp_path, "print('started', flush=True); time.sleep(60)")
    assert first.stdout.readline() == "started\n"
    refused = start_stage(tmp_path, "pass", patience=0)
    message = (
        f"train: train is running in this folder already (process {first.pid}); wait or end it\n"
    )
    assert refused.communicate()[1] == message
    assert refused.returncode == 1
    waiting = start_stage(tmp_path, "pass")  # for as long as an orphan may take to end itself
    first.kill()
    assert waiting.wait() == 0
    first.communicate()
    waiting.communicate()


def test_no_thread_watches_a_process_that_dvc_did_not_start(monkeypatch):
    for name in ("DVC_STAGE", "VIT_RANKS"):
        monkeypatch.delenv(name, raising=False)
    before = threading.active_count()
    end_with_dvc()
    assert threading.active_count() == before


@pytest.mark.parametrize("variable", ["DVC_STAGE", "VIT_RANKS"])
def test_a_process_ends_itself_when_the_one_that_started_it_is_killed(tmp_path, variable):
    """There is a shell between the two, as with DVC. It is the starter that counts."""
    child = "from vit_finetune.core.process import end_with_dvc; import time\n" \
            "end_with_dvc(); print('started', flush=True); time.sleep(60)"  # fmt: skip
    script = "import subprocess, sys\n" \
             f"subprocess.run(['sh', '-c', '\"$0\" -c \"$1\"; true', sys.executable, {child!r}])"  # fmt: skip
    starter = start(tmp_path, script, **{variable: "train"})
    assert starter.stdout.readline() == "started\n"
    starter.kill()
    # ends when the child, which has the same pipe, has ended
    _, errors = starter.communicate(timeout=20)
    assert (
        errors
        == f"{'train' if variable == 'DVC_STAGE' else 'stage'}: the process that started it is gone; ending\n"
    )


def test_a_stage_whose_dvc_was_gone_before_it_looked_ends_itself(tmp_path):
    """The shell between has ended as well, so that the stage was adopted by another process."""
    script = "from vit_finetune.core.process import end_with_dvc; import time, psutil\n" \
             "psutil.Process.parents = lambda self: []\nend_with_dvc(); time.sleep(60)"  # fmt: skip
    process = start(tmp_path, script, DVC_STAGE="train")
    assert process.communicate() == ("", "train: the process that started it is gone; ending\n")
    assert process.returncode == 1


def test_progress_passes_items_on_and_is_silent_without_a_terminal(capfd):
    assert list(progress(iter("abc"), "train", "epoch", total=3)) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("quiet", "shown"), [("", True), ("1", False)])
def test_progress_shows_on_a_terminal_unless_asked_to_be_quiet(monkeypatch, quiet, shown):
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    monkeypatch.setenv("VIT_QUIET", quiet)
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(progress(range(3), "embed", "batch")) == [0, 1, 2]
        terminal.write("END")
        terminal.flush()
        read = b""
        # a terminal hands over what has arrived, which may be a part
        while not read.endswith(b"END"):
            read += os.read(leader, 10_000)
    os.close(leader)
    written = read.decode()
    assert (
        ("embed" in written and "3/3" in written and "batch" in written)
        if shown
        else written == "END"
    )


def test_what_need_not_compute_loads_without_torch(tmp_path):
    """So a stage that is refused, and the check of params.yaml, end at once."""
    modules = ("process", "errors", "files", "threads", "device", "checkpoints")
    names = ", ".join(f"vit_finetune.core.{name}" for name in modules)
    process = start(
        tmp_path, f"import sys, vit_finetune.params, {names}; sys.exit('torch' in sys.modules)"
    )
    assert process.communicate() == ("", "")
    assert process.returncode == 0
