"""Many machines: a remote that others pull from, and jobs of a cluster that run side by side."""

import json
import os
import re
import shlex
import subprocess
import time
from importlib.metadata import requires
from pathlib import Path

import pytest

from tests.documents import template
from tests.project import ROOT, Project, stages_run

TRAINED = ["train", "evaluate", "attention", "report"]


def committed(project):
    for name, value in (("user.name", "Test"), ("user.email", "test@example.org")):
        project.git("config", name, value)
    project.git("add", "-A")
    project.git("commit", "-qm", "first run")
    return project


def rates(project):
    """The learning rate of each experiment, by its name."""
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    found = {}
    for revision in shown:
        for run in revision["experiments"] or []:
            newest = run["revs"][0]
            found[newest["name"]] = newest["data"]["params"]["params.yaml"]["data"]["train"]["lr"]
    return found


@pytest.mark.slow
def test_a_clone_that_can_reach_the_remote_computes_nothing(finished, tmp_path):
    project = finished.copy(tmp_path / "p")
    project.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "storage"))
    committed(project)
    pushed = project.run("dvc", "push", "--run-cache")
    assert pushed.returncode == 0, pushed.stderr
    here = {
        "URL vit": f"{shlex.quote(str(project.folder))} vit",
        "make setup && . .venv/bin/activate": "true",
    }
    done = Project(tmp_path).run("bash", "-ec", "\n".join(template("git clone URL", here)))
    assert done.returncode == 0, done.stderr
    assert stages_run(done.stdout) == []
    assert Project(tmp_path / "vit").outputs() == finished.outputs()


@pytest.mark.slow
@pytest.mark.parametrize("line", range(3))
def test_other_storage_is_a_remote_of_dvc_and_its_secrets_stay_here(finished, tmp_path, line):
    project = committed(finished.copy(tmp_path / "p"))
    lines = template("dvc remote add -d storage s3:", {"NAME": "my-secret"})
    installs, add = lines[line].split("&&")
    package = installs.removeprefix("pip install ").strip()
    # DVC's own name of it
    assert any(re.match(rf"{package}\b", needed) for needed in requires("dvc"))
    assert project.run("bash", "-ec", f"{add}\n{lines[line + 3]}").returncode == 0
    assert add.split()[-1] in project.run("dvc", "remote", "list").stdout
    assert project.git("status", "--porcelain").split() == ["M", ".dvc/config"]
    assert "my-secret" not in (project.folder / ".dvc/config").read_text()
    assert "my-secret" in (project.folder / ".dvc/config.local").read_text()


SBATCH = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
{ "$@" > "$JOBS/$4" 2>&1 || echo "failed" >> "$JOBS/$4"; } &
"""


@pytest.mark.slow
def test_four_jobs_at_once_bring_four_experiments_and_none_embeds_again(finished, tmp_path):
    """Slurm is a script here that starts a job and does not wait for it."""
    project = committed(finished.copy(tmp_path / "p"))
    shared, jobs, slurm = (tmp_path / name for name in ("shared", "jobs", "bin"))
    for folder in (shared, jobs, slurm):
        folder.mkdir()
    (slurm / "sbatch").write_text(SBATCH)
    (slurm / "sbatch").chmod(0o755)
    lines = template("sbatch", {"/shared": shared})
    after = lines.index("done") + 1
    submit = f"PATH={slurm}:$PATH JOBS={jobs}\nexport JOBS\n" + "\n".join(lines[:after])
    # returns when the last job has closed its output
    assert project.run("bash", "-ec", submit).returncode == 0
    logs = {job.name: job.read_text() for job in jobs.iterdir()}
    assert {name: stages_run(log) for name, log in logs.items()} == {
        f"lr-{rate}": [] if rate == "0.0004" else TRAINED  # 0.0004 was run: the default
        for rate in ("0.0001", "0.0002", "0.0004", "0.0008")
    }, logs
    assert "failed" not in "".join(logs.values())
    pulled = project.run("bash", "-ec", "\n".join(lines[after:]))
    assert pulled.returncode == 0, pulled.stderr
    assert rates(project) == {name: float(name.removeprefix("lr-")) for name in logs}
    assert project.repro() == []  # the one that was applied


def test_a_job_without_arguments_says_how_it_is_called():
    said = subprocess.run([ROOT / "tools/job.sh"], capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "tools/job.sh REPOSITORY CACHE NAME" in said.stderr
    assert "sbatch" in said.stderr


def test_a_job_finds_the_project_in_a_folder_of_the_repository_or_says_how_to_name_it(tmp_path):
    repository = Project(tmp_path / "larger")
    (repository.folder / "part").mkdir(parents=True)
    (repository.folder / "part/dvc.yaml").write_text("stages: {}\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        repository.git(*command)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dvc").write_text('#!/bin/sh\necho "$PWD $*"\n')
    (tmp_path / "bin/dvc").chmod(0o755)

    def job(**variables):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        command = [ROOT / "tools/job.sh", "larger", "cache", "name"]
        environment = {**os.environ, **variables, "PATH": path}
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    lost = job()
    assert lost.returncode == 1
    assert lost.stderr.endswith("has no dvc.yaml; name the project's folder there in JOB_FOLDER\n")
    places = []
    arguments = []
    for line in job(JOB_FOLDER="part").stdout.splitlines():
        place, _, rest = line.partition(" ")
        places.append(Path(place).name)
        arguments.append(rest)
    assert places == ["part"] * 3
    # a relative path is one of the folder in which the job was started
    assert arguments[0] == f"cache dir --local {tmp_path / 'cache'}"


@pytest.mark.slow
def test_a_queue_of_two_workers_trains_alone_and_with_the_code_that_was_queued(finished, tmp_path):
    project = committed(finished.copy(tmp_path / "p"))
    queued = project.run("dvc", "exp", "run", "--queue", "-S", "train.lr=0.001,0.002")
    names = re.findall(r"Queueing experiment '([\w-]+)'", queued.stdout) or re.findall(
        r"'([\w-]+)'", queued.stdout
    )
    assert len(names) == 2, queued.stdout + queued.stderr
    (project.folder / "stages/train.py").write_text(
        "raise SystemExit('this is not what was queued')\n"
    )
    assert project.run("dvc", "queue", "start", "-j", "2").returncode == 0
    deadline = time.monotonic() + 300
    while (status := project.run("dvc", "queue", "status").stdout).count("Success") < 2:
        assert "Failed" not in status, project.run("dvc", "queue", "logs", names[0]).stdout
        assert time.monotonic() < deadline, status
        time.sleep(2)
    for name in names:
        log = project.run("dvc", "queue", "logs", name).stdout
        assert stages_run(log) == TRAINED
    project.run("dvc", "queue", "stop", "--kill")
    assert {*rates(project).values()} == {0.001, 0.002}


def test_a_clone_with_gits_settings_for_windows_has_the_same_bytes(finished, tmp_path):
    project = committed(finished.copy(tmp_path / "p"))
    clone = tmp_path / "clone"
    command = ["git", "clone", "-q", "-c", "core.autocrlf=true", project.folder, clone]
    subprocess.run(command, check=True)
    tracked = project.git("ls-files", "-z").split("\0")[:-1]
    assert "dvc.lock" in tracked
    for name in tracked:
        assert (clone / name).read_bytes() == (project.folder / name).read_bytes(), name
