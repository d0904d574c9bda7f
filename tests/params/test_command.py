"""params.yaml in a process: `python -m vit_finetune.params`, which runs before DVC, and the stages
themselves."""

import os
import subprocess
import sys
from pathlib import Path

from tests.params.edited import TEXT, changed
from tests.project import ROOT


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True
    )


def test_the_check_command_is_silent_on_a_good_file():
    Path("params.yaml").write_text(TEXT, encoding="utf-8")
    done = run("vit_finetune.params")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_check_command_prints_the_lines_and_fails_on_a_bad_file():
    Path("params.yaml").write_text(
        changed(("train.lr", '"\\uD800"'), ("seed", "-1")), encoding="utf-8"
    )
    done = run("vit_finetune.params")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "params: params.yaml: seed is -1: it should be greater than or equal to 0",
        r"params: params.yaml: train.lr is '\ud800': it should be a valid number",
    ]


def test_a_stage_starts_no_work_on_a_bad_file():
    Path("params.yaml").write_text(changed(("runtime.device", "gpu")), encoding="utf-8")
    done = run("stages", "download")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "download: params.yaml: runtime.device is 'gpu': "
        "it should be 'auto', 'cpu', 'cuda' or 'mps'\n"
    )
    # which holds the lock
    assert {path.name for path in Path().iterdir()} == {"params.yaml", ".run"}
