"""How a stage ends, the order of work over threads, the device."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import pytest

from vit_finetune.runtime import end_with_dvc, ordered_map, progress, run_stage

ROOT = Path(__file__).resolve().parent.parent


def start(body, folder=None, patience=10, **variables):
    """A stage named "train" in a process of its own; its main has this one line."""
    script = f"""
import time
from vit_finetune import runtime
from vit_finetune.runtime import run_stage
runtime.LOCK_PATIENCE = {patience}
def main():
    {body}
run_stage("train", main)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VIT_")}
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=folder or tempfile.mkdtemp(), env={**environment, "PYTHONPATH": str(ROOT / "src"), **variables},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell leaves it ignored
    )  # fmt: skip


def end(body, **variables):
    """Exit status and standard error."""
    process = start(body, **variables)
    output, errors = process.communicate()
    assert bool(re.fullmatch(r"train: \d+\.\d s\n", output)) == (process.returncode == 0)
    return process.returncode, errors


def test_a_stage_that_succeeds_says_how_long_it_took_and_exits_with_0():
    assert end("pass") == (0, "")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise ValueError('lr is 0')", "train: lr is 0"),
        ("raise OSError('no network')", "train: no network"),
        ("raise RuntimeError('NaN in an image')", "train: NaN in an image"),
        ("raise ValueError('first\\nsecond')", "train: first\ntrain: second"),
        ("raise ValueError", "train: ValueError"),
        ("raise MemoryError('anything')", "train: out of memory; try a smaller batch_size"),
        ("__import__('torch').zeros(1 << 60)", "train: out of memory; try a smaller batch_size"),
        ("bytearray(1 << 62)", "train: out of memory; try a smaller batch_size"),
        ("open('absent.json')", "train: [Errno 2] No such file or directory: 'absent.json'"),
        ("raise ValueError('\\ud800 café')", "train: \\ud800 café"),
        ("raise KeyboardInterrupt", "train: interrupted"),
    ],
)
def test_an_expected_error_is_its_message_and_exit_status_1(body, line):
    assert end(body, PYTHONIOENCODING="utf-8") == (1, f"{line}\n")


def test_a_variable_shows_the_traceback_and_the_line_stays_last():
    status, errors = end("raise ValueError('lr is 0')", VIT_TRACEBACK="1")
    assert status == 1
    assert errors.startswith("Traceback (most recent call last):\n")
    assert errors.endswith("\nValueError: lr is 0\ntrain: lr is 0\n")


@pytest.mark.parametrize("body", ["{}['lost']", "None.lost", "assert 1 == 2", "1 / 0"])
def test_an_unexpected_error_keeps_its_traceback(body):
    status, errors = end(body)
    assert status == 1
    assert errors.startswith("Traceback (most recent call last):\n")
    assert "in main" in errors
    assert "train: " not in errors


def test_an_interrupt_from_the_keyboard_is_one_line():
    process = start("print('started', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "train: interrupted\n")
    assert process.returncode == 1


def test_a_second_start_is_told_who_holds_the_lock_and_goes_on_when_it_is_free(tmp_path):
    first = start("print('started', flush=True); time.sleep(60)", tmp_path)
    assert first.stdout.readline() == "started\n"
    second = start("pass", tmp_path, patience=0)
    assert (
        second.communicate()[1]
        == f"train: train is running in this folder already (process {first.pid}); wait or end it\n"
    )
    assert second.returncode == 1
    waiting = start("pass", tmp_path)  # and one that waits for as long as an orphan may take
    first.kill()
    assert waiting.wait() == 0
    first.communicate()
    waiting.communicate()


def test_without_dvc_nothing_is_watched(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    before = threading.active_count()
    end_with_dvc()
    assert threading.active_count() == before


def test_a_stage_whose_dvc_was_gone_before_it_looked_ends_itself(tmp_path):
    """The shell between has ended as well, so that the stage was adopted by another process."""
    script = "from vit_finetune import runtime; import time, psutil\n" \
             "psutil.Process.parents = lambda self: []\nruntime.end_with_dvc(); time.sleep(60)"  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "DVC_STAGE": "train"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "train: the process that started it is gone; ending\n"


def test_exit_codes_are_also_right_within_the_process(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        run_stage("train", lambda: print("work"))
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("work\ntrain: ")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_ordered_map_keeps_the_order_however_long_each_item_takes(threads):
    def slow_at_first(i):
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i * i

    assert list(ordered_map(slow_at_first, range(20), threads)) == [i * i for i in range(20)]


@pytest.mark.parametrize("items", [[], [7]])
def test_ordered_map_of_few_items(items):
    assert list(ordered_map(str, items, 4)) == list(map(str, items))


def test_ordered_map_really_runs_side_by_side():
    barrier = threading.Barrier(3, timeout=20)  # breaks, and raises, unless three wait at once
    assert sorted(ordered_map(lambda _: barrier.wait(), range(6), 3)) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_ordered_map_never_takes_more_than_two_items_a_thread_ahead(threads):
    taken = 0

    def items():
        nonlocal taken
        while taken < 40:
            taken += 1
            yield taken

    ahead = [taken - result for result in ordered_map(lambda i: i, items(), threads)]
    assert len(ahead) == 40
    assert max(ahead) == 2 * threads - 1


def test_ordered_map_takes_nothing_before_the_first_result_is_asked_for():
    items = iter(range(3))
    ordered_map(str, items, 2)
    assert next(items) == 0


def test_ordered_map_passes_an_exception_on_at_its_place():
    def check(i):
        if i == 4:
            raise ValueError("image 4 has a NaN")
        return i

    results = ordered_map(check, range(1000), 2)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="image 4 has a NaN"):
        next(results)
    assert list(results) == []


def test_ordered_map_passes_an_exception_of_the_items_on():
    def items():
        yield 1
        raise OSError("disk is gone")

    with pytest.raises(OSError, match="disk is gone"):
        list(ordered_map(str, items(), 2))


def test_ordered_map_stops_when_its_reader_does():
    done = []
    results = ordered_map(done.append, range(10_000), 2)
    next(results)
    results.close()
    assert len(done) <= 5
    assert threading.active_count() < 50


def test_progress_passes_items_on_and_is_silent_without_a_terminal(capfd):
    assert list(progress(iter("abc"), "train", "epoch", total=3)) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("variables", "shown"), [({}, True), ({"VIT_QUIET": "1"}, False)])
def test_progress_shows_on_a_terminal_unless_asked_to_be_quiet(variables, shown):
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    environment = {key: value for key, value in os.environ.items() if key != "VIT_QUIET"}
    script = """
from vit_finetune.runtime import progress
for _ in progress(range(3), "embed", "batch"):
    pass
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=follower, text=True, check=True,
        env={**environment, "PYTHONPATH": str(ROOT / "src"), **variables},
    )  # fmt: skip
    os.write(follower, b"|")  # so that there is something to read
    os.close(follower)
    written = os.read(leader, 10_000).decode()
    os.close(leader)
    assert done.stdout == "end\n"
    assert ("embed" in written and "3/3" in written and "batch" in written) if shown else written == "|"


def test_the_module_loads_without_torch():
    script = "import sys, vit_finetune.runtime; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0


@pytest.fixture
def machine(monkeypatch):
    """A function that makes torch see a machine with these devices; torch's global settings are put back."""
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)  # the first call imports what must see the true functions

    def with_devices(*names, capability=(0, 0), cpu_bfloat16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        return torch

    yield with_devices
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize(
    ("asked", "devices", "there"),
    [
        ("cuda", ["cpu"], "cpu"),
        ("mps", ["cpu"], "cpu"),
        ("mps", ["cpu", "cuda"], "cuda, cpu"),
        ("cuda", ["cpu", "mps"], "mps, cpu"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_that_names_what_is(machine, asked, devices, there):
    from vit_finetune.runtime import set_up_torch

    machine(*devices)
    message = f"^runtime.device is {asked}, which this machine does not have; it has: {there}$"
    with pytest.raises(ValueError, match=message):
        set_up_torch(asked, None)


@pytest.mark.parametrize(
    ("asked", "devices", "found"),
    [
        ("auto", ["cpu"], "cpu"),
        ("auto", ["cpu", "mps"], "mps"),
        ("auto", ["cpu", "cuda"], "cuda"),
        ("cpu", ["cpu", "cuda"], "cpu"),
        ("cuda", ["cpu", "cuda"], "cuda"),
    ],
)
def test_auto_takes_the_first_of_cuda_mps_cpu_and_a_name_is_obeyed(machine, asked, devices, found):
    from vit_finetune.runtime import set_up_torch

    torch = machine(*devices)
    assert set_up_torch(asked, None) == torch.device(found)


def test_threads_and_deterministic_algorithms_are_set(machine):
    from vit_finetune.runtime import set_up_torch

    torch = machine("cpu")
    torch.use_deterministic_algorithms(False)
    other = 1 if torch.get_num_threads() > 1 else 2
    set_up_torch("cpu", other)
    assert torch.get_num_threads() == other
    assert torch.are_deterministic_algorithms_enabled()
    set_up_torch("cpu", None)
    assert torch.get_num_threads() == other


@pytest.mark.parametrize(
    ("precision", "device", "hardware", "found"),
    [
        ("float32", "cuda", {"capability": (9, 0)}, "float32"),
        ("bfloat16", "cpu", {}, "bfloat16"),
        ("auto", "cpu", {}, "float32"),
        ("auto", "cpu", {"cpu_bfloat16": True}, "bfloat16"),
        ("auto", "cuda", {"capability": (7, 5)}, "float32"),
        ("auto", "cuda", {"capability": (8, 0)}, "bfloat16"),
        ("auto", "mps", {}, "float32"),
    ],
)
def test_precision_is_what_is_asked_for_or_what_the_hardware_is_fast_at(machine, precision, device, hardware, found):
    from vit_finetune.runtime import resolve_precision

    torch = machine("cpu", device, **hardware)
    assert resolve_precision(precision, torch.device(device)) == getattr(torch, found)


def test_auto_precision_of_this_machine_is_known():
    torch = pytest.importorskip("torch")
    from vit_finetune.runtime import resolve_precision

    assert resolve_precision("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)
