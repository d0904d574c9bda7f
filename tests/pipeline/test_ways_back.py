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
