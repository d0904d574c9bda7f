"""The ways back that the documents teach, for someone who cloned the project and ran it."""

import pytest

from tests.documents import template
from tests.pipeline.test_sharing import committed
from tests.project import Project, stages_run


@pytest.fixture
def clone(finished, tmp_path):
    """A fresh clone of a project whose results are in git, without the cache that holds the
    outputs."""
    author = committed(finished.copy(tmp_path / "author"))
    project = Project(tmp_path / "clone")
    author.git("clone", "-q", str(author.folder), str(project.folder))
    for name, value in (("user.name", "Test"), ("user.email", "test@example.org")):
        project.git("config", name, value)
    return project


@pytest.mark.slow
def test_a_run_that_was_committed_comes_back_after_another_was_applied(clone):
    clone.set(**{"train.lr": 0.002})
    clone.repro()
    mine = clone.outputs()
    clone.git("switch", "-qc", "mine")
    clone.git("commit", "-qam", "My run")
    other = clone.run("dvc", "exp", "run", "--temp", "-n", "other", "-S", "evaluate.mistakes=3")
    assert other.returncode == 0, other.stderr
    assert clone.run("dvc", "exp", "apply", "other").returncode == 0
    assert clone.outputs() != mine
    clone.git("restore", ".")
    back = clone.run("dvc", "checkout")
    assert back.returncode == 0, back.stderr
    assert clone.outputs() == mine
    assert clone.repro() == []


STAGE = """\
stages:
  double:
    cmd: python double.py
    params: [value]
    outs: [doubled]
"""
DOUBLE = """\
from pathlib import Path
value = int(Path("params.yaml").read_text().split()[1])
Path("doubled").write_text(str(2 * value))
Path("runs").open("a").write("x")
"""


@pytest.fixture
def experiments(tmp_path):
    """A small project with an experiment for each of three commits; the last one was amended."""
    project = Project(tmp_path)
    files = {
        "dvc.yaml": STAGE,
        "double.py": DOUBLE,
        "params.yaml": "value: 1\n",
        ".gitignore": "/doubled\n/runs\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    project.git("init", "-q")
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@example.org")
    succeed(project, "dvc", "init", "-q")
    for number, name in enumerate(("first", "second", "third")):
        project.git("add", "-A")
        project.git("commit", "-qm", name, "--allow-empty")
        succeed(project, "dvc", "exp", "run", "-n", name, "-S", f"value={number + 2}")
        project.git("restore", ".")
    project.git("commit", "-q", "--amend", "--allow-empty", "-m", "third, amended")
    return project


def succeed(project, *command):
    done = project.run(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(project, *options):
    table = succeed(project, "dvc", "exp", "show", "--csv", "--only-changed", *options)
    return {line.split(",")[0] for line in table.splitlines()} & {"first", "second", "third"}


@pytest.mark.slow
def test_experiments_are_listed_by_the_options_that_the_documents_name(experiments):
    assert listed(experiments) == set()
    assert listed(experiments, "-n", "2") == {"second"}
    assert listed(experiments, "-A") == {"first", "second"}
    names = succeed(experiments, "dvc", "exp", "list", "--all", "--name-only").split()
    assert sorted(names) == ["first", "second", "third"]


@pytest.mark.slow
def test_any_experiment_can_be_applied_and_a_run_without_a_name_comes_back_from_the_cache(
    experiments,
):
    folder = experiments.folder
    experiments_run = (folder / "runs").stat().st_size
    (folder / "params.yaml").write_text("value: 9\n")
    succeed(experiments, "dvc", "repro")  # never committed
    for name, doubled in (("third", "8"), ("first", "4")):
        succeed(experiments, "dvc", "exp", "apply", name)
        assert (folder / "doubled").read_text() == doubled
    (folder / "params.yaml").write_text("value: 9\n")
    succeed(experiments, "dvc", "repro")
    assert (folder / "doubled").read_text() == "18"
    assert (folder / "runs").stat().st_size == experiments_run + 1  # only the first time


@pytest.mark.slow
def test_the_runs_of_two_branches_are_merged_and_nothing_runs_again(finished, tmp_path):
    project = committed(finished.copy(tmp_path / "p"))
    for branch, rate in (("theirs", 0.002), ("mine", 0.003)):
        project.git("switch", "-qc", branch, "master")
        project.run("dvc", "checkout")
        project.set(**{"train.lr": rate})
        project.repro()
        project.git("commit", "-qam", branch)
        outputs = project.outputs()
        if branch == "theirs":
            theirs = outputs
    assert theirs != outputs
    merge, *after = template("git checkout --ours", {"BRANCH": "theirs"})
    assert "CONFLICT (content): Merge conflict in dvc.lock" in project.run("sh", "-c", merge).stdout
    project.git("checkout", "--theirs", "params.yaml")
    done = project.run("sh", "-ec", "\n".join(after))
    assert done.returncode == 0, done.stderr
    assert stages_run(done.stdout) == []
    assert project.outputs() == theirs
    assert project.git("status", "--porcelain") == ""
