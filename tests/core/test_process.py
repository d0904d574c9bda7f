"""The process of a stage is alone, and does not outlive what started it."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.project import ROOT
from vit_finetune.core.process import end_with_dvc, only_one

HOLD = """
import os, time
from vit_finetune.core import process
from vit_finetune.core.errors import readable_errors
process.LOCK_PATIENCE = {patience}
with readable_errors("train"), process.only_one("train"):
    {body}
"""


def start(folder, script, **variables):
    environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT / "src"), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("fork", ["", "os.fork() and "])  # such as a child that loads images
def test_a_second_start_is_told_who_runs_or_waits_until_the_first_has_ended(tmp_path, fork):
    body = f"{fork}print('started', flush=True); time.sleep(60)"
    first = start(tmp_path, HOLD.format(body=body, patience=10))
    assert first.stdout.readline() == "started\n"
    refused = start(tmp_path, HOLD.format(body="pass", patience=0))
    message = (
        f"train: train is running in this folder already (process {first.pid}); wait or end it\n"
    )
    assert refused.communicate()[1] == message
    assert refused.returncode == 1
    # for as long as an orphan may take to end itself
    waiting = start(tmp_path, HOLD.format(body="print('free', flush=True)", patience=10))
    first.kill()
    assert waiting.communicate()[0] == "free\n"
    if fork:
        os.killpg(first.pid, signal.SIGKILL)  # the child is still there
    first.communicate()


def test_a_lock_that_cannot_be_taken_for_another_reason_is_not_told_as_held(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".run/train.lock").mkdir(parents=True)
    with pytest.raises(IsADirectoryError), only_one("train"):
        pass


def test_no_thread_watches_a_process_that_dvc_did_not_start(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    before = threading.active_count()
    end_with_dvc()
    assert threading.active_count() == before


GONE = "train: the process that started it is gone; ending\n"


def test_a_process_ends_itself_when_the_dvc_that_started_it_is_killed(tmp_path):
    """There is a shell between the two, as with DVC. It is the starter that counts."""
    child = "from vit_finetune.core.process import end_with_dvc; import time\n" \
            "end_with_dvc(); print('started', flush=True); time.sleep(60)"  # fmt: skip
    script = "import subprocess, sys\n" \
             "command = ['sh', '-c', '\"$0\" -c \"$1\"; true', sys.executable]\n" \
             f"subprocess.run([*command, {child!r}])"  # fmt: skip
    starter = start(tmp_path, script, DVC_STAGE="train")
    assert starter.stdout.readline() == "started\n"
    starter.send_signal(signal.SIGKILL)
    # ends when the child, which has the same pipe, has ended
    assert starter.communicate(timeout=20)[1] == GONE


def test_a_stage_whose_dvc_was_gone_before_it_looked_ends_itself(tmp_path):
    """The shell between has ended as well, so that the stage was adopted by another process."""
    script = "from vit_finetune.core.process import end_with_dvc; import time, psutil\n" \
             "psutil.Process.parents = lambda self: []\nend_with_dvc(); time.sleep(60)"  # fmt: skip
    process = start(tmp_path, script, DVC_STAGE="train")
    assert process.communicate() == ("", GONE)
    assert process.returncode == 1


def test_what_need_not_compute_loads_without_torch(tmp_path):
    """So a stage that is refused, and the check of params.yaml, end at once."""
    modules = [path.stem for path in (ROOT / "src/vit_finetune/core").glob("[a-z]*.py")]
    names = ", ".join(f"vit_finetune.core.{name}" for name in modules)
    script = f"import sys, vit_finetune.stage, {names}; sys.exit('torch' in sys.modules)"
    process = start(tmp_path, script)
    assert process.communicate() == ("", "")
    assert process.returncode == 0
