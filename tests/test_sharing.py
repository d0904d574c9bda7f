"""Many machines: a remote that others pull from, and jobs of a cluster that run side by side."""

import json
import re
import shutil
import subprocess
import time

from tests.graph import STAGES
from tests.project import ROOT, Project, stages_run


def committed(project):
    for name, value in (("user.name", "Test"), ("user.email", "test@example.org")):
        project.git("config", name, value)
    project.git("add", "-A")
    project.git("commit", "-qm", "first run")
    return project


def test_a_clone_that_can_reach_the_remote_computes_nothing(finished, tmp_path):
    project = finished.copy(tmp_path / "p")
    project.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "storage"))
    committed(project)
    pushed = project.run("dvc", "push", "--run-cache")
    assert pushed.returncode == 0, pushed.stderr
    project.git("clone", "-q", ".", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    assert clone.repro("--pull") == []
    assert clone.outputs() == finished.outputs()


def test_four_jobs_at_once_bring_four_experiments_and_none_embeds_again(finished, tmp_path):
    project = committed(finished.copy(tmp_path / "p"))
    cache, bare = tmp_path / "cache", tmp_path / "bare.git"
    shutil.copytree(project.folder / ".dvc/cache", cache)
    project.git("clone", "-q", "--bare", ".", str(bare))
    rates = {f"job{i}": i / 1000 for i in range(1, 5)}
    jobs = [
        project.start(str(ROOT / "tools/job.sh"), str(bare), str(cache), name, "-S", f"train.lr={rate}")
        for name, rate in rates.items()
    ]
    for job in jobs:
        output, errors = job.communicate()
        assert job.returncode == 0, errors
        assert stages_run(output) == [*STAGES[STAGES.index("train") :]]
    project.git("remote", "add", "origin", str(bare))
    pulled = project.run("dvc", "exp", "pull", "--no-cache", "origin", *rates)
    assert pulled.returncode == 0, pulled.stderr
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    found = {
        run["revs"][0]["name"]: run["revs"][0]["data"]["params"]["params.yaml"]["data"]["train"]["lr"]
        for revision in shown
        for run in revision["experiments"] or []
    }
    assert found == rates


def test_a_job_without_arguments_says_how_it_is_called():
    said = subprocess.run([ROOT / "tools/job.sh"], capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "tools/job.sh REPOSITORY CACHE NAME" in said.stderr
    assert "sbatch" in said.stderr


def test_a_queue_of_two_workers_trains_alone_and_with_the_code_that_was_queued(finished, tmp_path):
    project = committed(finished.copy(tmp_path / "p"))
    queued = project.run("dvc", "exp", "run", "--queue", "-S", "train.lr=0.001,0.002")
    names = re.findall(r"Queueing experiment '([\w-]+)'", queued.stdout) or re.findall(r"'([\w-]+)'", queued.stdout)
    assert len(names) == 2, queued.stdout + queued.stderr
    (project.folder / "stages/train.py").write_text("raise SystemExit('this is not what was queued')\n")
    assert project.run("dvc", "queue", "start", "-j", "2").returncode == 0
    deadline = time.monotonic() + 300
    while (status := project.run("dvc", "queue", "status").stdout).count("Success") < 2:
        assert "Failed" not in status, project.run("dvc", "queue", "logs", names[0]).stdout
        assert time.monotonic() < deadline, status
        time.sleep(2)
    for name in names:
        log = project.run("dvc", "queue", "logs", name).stdout
        assert stages_run(log) == [*STAGES[STAGES.index("train") :]]
    project.run("dvc", "queue", "stop", "--kill")
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    rates = {
        run["revs"][0]["data"]["params"]["params.yaml"]["data"]["train"]["lr"]
        for revision in shown
        for run in revision["experiments"] or []
    }
    assert rates == {0.001, 0.002}
