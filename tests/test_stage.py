"""What every stage does, tried with a script of one line: how it ends, and what it says."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stages.__main__ import SCRIPTS

from tests.core.test_ranks import free_port
from tests.graph import STAGES
from tests.project import ROOT
from vit_finetune.params import KEYS

SCRIPT = """
import sys, time
from vit_finetune.core.errors import UserError
def main(stage):
    {body}
"""
RUN = (
    "from vit_finetune.stage import Script, run; run(Script('trial', 'train.batch_size'{options}))"
)


PARAMS = (ROOT / "params.yaml").read_text()


def start(folder, body, options="", params=PARAMS, **variables):
    """A stage named "trial", whose main has this one line."""
    (folder / "stages").mkdir()
    (folder / "stages/trial.py").write_text(SCRIPT.format(body=body))
    (folder / "params.yaml").write_text(params)
    ours = ("VIT_", "DVC_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return subprocess.Popen(
        [sys.executable, "-c", RUN.format(options=options)],
        cwd=folder,
        env={**environment, "PYTHONPATH": f"{ROOT / 'src'}", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a background shell leaves it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def end_of(folder, body, options="", **variables):
    """Exit status, standard output and standard error."""
    process = start(folder, body, options, **variables)
    output, errors = process.communicate()
    return process.returncode, output, errors


def test_a_stage_that_succeeds_says_how_long_it_took_and_exits_with_status_0(tmp_path):
    body = "stage.say('work'); stage.warn(f'seed {stage.params.seed}')"
    status, output, errors = end_of(tmp_path, body)
    assert (status, errors) == (0, "")
    assert re.fullmatch(r"trial: work\ntrial: warning: seed 0\ntrial: \d+\.\d s\n", output)


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        # also text that no encoding has
        ("raise UserError('\\ud800 café')", "trial: \\ud800 café\n"),
        ("raise MemoryError", "trial: out of memory; try a smaller train.batch_size\n"),
    ],
)
def test_an_expected_error_is_one_line_with_exit_status_1(tmp_path, body, lines):
    assert end_of(tmp_path, body, PYTHONIOENCODING="utf-8") == (1, "", lines)


ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
SECOND = {**ALONE, "RANK": "1", "WORLD_SIZE": "2"}


def test_an_interrupt_from_the_keyboard_is_one_line(tmp_path):
    body = "print('started', flush=True); time.sleep(60)"
    process = start(tmp_path, body, ", parallel=True", **ALONE)
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert output == ""
    assert (process.returncode, errors) == (1, "trial: interrupted\n")


def test_of_several_processes_only_the_first_runs_a_stage_that_is_not_parallel(tmp_path):
    told = "trial: process 1 has nothing to do, process 0 runs this stage alone\n"
    assert end_of(tmp_path, "raise UserError('it ran')", **SECOND) == (0, told, "")


def test_a_launchers_variables_left_in_the_environment_of_dvc_are_named(tmp_path):
    """Without outputs the stage would not have succeeded, whatever its exit status."""
    status, output, errors = end_of(tmp_path, "stage.say('it ran')", **SECOND, DVC_STAGE="trial")
    assert (status, output) == (1, "")
    assert errors == (
        "trial: RANK is 1 in the environment, and process 0 alone runs this stage; unset RANK "
        "WORLD_SIZE, which a launcher has left\n"
    )


def test_variables_of_no_launcher_are_one_line_and_the_stage_does_not_run(tmp_path):
    status, output, errors = end_of(tmp_path, "stage.say('it ran')", RANK="0")
    assert (status, output) == (1, "")
    assert errors.startswith("trial: RANK in the environment would make this one of several")
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_of_two_processes_the_second_prints_errors_only_and_says_which_it_is(tmp_path):
    second = {**SECOND, "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    first = start(tmp_path / "0", "time.sleep(60)", ", parallel=True", **{**second, "RANK": "0"})
    body = "stage.say('work'); raise UserError('train.lr is 0')"
    ended = end_of(tmp_path / "1", body, ", parallel=True", **second)
    first.kill()
    first.communicate()
    assert ended == (1, "", "trial, process 1: train.lr is 0\n")


NUMPY = "'numpy' in sys.modules"
THREADS = "import os; from vit_finetune.core.processors import available_threads; "
THREADS += f"print({NUMPY}, os.environ.get('OMP_NUM_THREADS'), available_threads())"


def test_a_stage_bounds_its_threads_before_it_imports_what_computes(tmp_path):
    process = start(tmp_path, THREADS, OMP_NUM_THREADS="7")
    assert process.communicate()[0].startswith("False 7 7\n")
    (tmp_path / "again").mkdir()
    three = re.sub("threads:.*", "threads: 3", PARAMS)
    process = start(tmp_path / "again", THREADS, params=three)
    assert process.communicate()[0].startswith("False 3 3\n")


def test_the_scripts_are_the_stages_of_dvc_yaml_and_name_keys_that_there_are():
    assert [script.name for script in SCRIPTS] == list(STAGES)
    assert {script.memory_key for script in SCRIPTS} - {None} <= set(KEYS)
    for script in SCRIPTS:
        source = (ROOT / f"stages/{script.name}.py").read_text()
        assert script.parallel == ("stage.ranks" in source)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "stages: name one stage: python -m stages NAME; the stages are download, subset, "),
        (["trian"], "stages: trian is not a stage; the stages are download, subset, "),
    ],
)
def test_without_the_name_of_a_stage_one_line_says_which_there_are(names, message):
    command = [sys.executable, "-m", "stages", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(message)


def test_a_python_of_another_environment_is_told_to_activate_this_one():
    """As where `dvc` is started by its path: DVC finds whatever `python` comes first."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "stages", "subset"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert re.fullmatch(
        rf"stages: {re.escape(sys.executable)} has no \w+: activate the environment "
        r"\(\. \.venv/bin/activate\), or run make repro\n",
        done.stderr,
    )


def test_importing_the_stages_edits_the_path_and_nothing_else():
    script = "import os, sys, threading; before = dict(os.environ); import stages\n" \
             "print(sys.path[0], threading.active_count(), dict(os.environ) == before,\n" \
             "      [name for name in sys.modules if name.startswith('vit_finetune')])"  # fmt: skip
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "DVC_STAGE": "x"}, capture_output=True, text=True
    )
    assert done.stdout == f"{ROOT / 'src'} 1 True []\n"


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="only Linux says what is running")
def test_beside_a_busy_process_a_stage_waits_passively_and_decides_so_before_it_imports_torch(
    tmp_path,
):
    body = "import os; print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY'))"
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(0.2)
        _, output, errors = end_of(tmp_path, body)
        busy.kill()
    assert output.startswith("False PASSIVE\n"), errors
