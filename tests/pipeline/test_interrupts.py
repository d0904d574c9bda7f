"""Real signals to real processes in the middle of a run: nothing is lost, nothing half-written is
believed."""

import shutil
import signal
import time
from itertools import count, cycle

import pytest

from tests.faults import RWLOCK, RWLOCK_BROKEN, inject, plan, undisturbed
from tests.graph import STAGES
from tests.warm_python import KILL_AT


def wait_for(found, process):
    """What `found()` gives as soon as it gives something, while the process runs."""
    while process.poll() is None:
        if result := found():
            return result
        time.sleep(0.005)
    raise AssertionError(process.communicate())


def force(project, stage, variables=None):
    """Compute one stage under DVC, whatever its cache holds."""
    shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)
    return project.run("dvc", "repro", "--force", "--single-item", stage, env=variables)


def checkpoint(project, pattern):
    return lambda: list((project.folder / ".checkpoints").glob(pattern))


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_stage_ends_itself_when_its_dvc_is_killed(finished, tmp_path, shell):
    path = shutil.which(shell)
    if not path:
        pytest.skip(f"no {shell} here")
    project = finished.copy(tmp_path / "p")
    project.set(**{"train.epochs": 1000})
    dvc = project.start("dvc", "repro", env={"SHELL": path})
    wait_for(checkpoint(project, "train/*/last.pt"), dvc)
    (stage,) = project.processes("train")
    dvc.kill()
    _, errors = dvc.communicate()  # ends when the stage, which writes to the same pipe, has ended
    stage.wait(30)  # its pipes close before it is gone
    assert "train: the process that started it is gone; ending\n" in errors
    for output in ("plots/history.csv", "metrics/train.json"):  # it may end while it writes one
        (project.folder / f"{output}.partial").unlink(missing_ok=True)
    project.set(**{"train.epochs": 2})
    assert project.repro() == []
    assert finished.outputs() == project.outputs()


@pytest.mark.slow
def test_the_embed_pass_goes_on_after_its_last_chunk_to_the_same_bytes(finished, tmp_path):
    project = finished.copy(tmp_path / "p")
    project.set(**{"subset.train_size": 800, "embed.batch_size": 1})
    twin = project.copy(tmp_path / "twin")
    twin.repro()
    dvc = project.start("dvc", "repro")
    wait_for(checkpoint(project, "embed/*/train/*"), dvc)
    (stage,) = project.processes("embed")
    stage.kill()
    dvc.communicate()
    assert dvc.returncode != 0
    assert not (project.folder / "data/embedded").exists()
    second = project.run("dvc", "repro")
    assert second.returncode == 0, second.stderr
    assert "embed: train continues after " in second.stdout
    assert project.outputs() == twin.outputs()
    assert not list((project.folder / ".checkpoints").glob("embed/*"))


@pytest.mark.slow
def test_training_goes_on_after_its_last_epoch_to_the_same_bytes(finished, tmp_path):
    project = finished.copy(tmp_path / "p")
    project.set(**{"train.epochs": 40})
    twin = project.copy(tmp_path / "twin")
    twin.repro()
    dvc = project.start("dvc", "repro")
    wait_for(checkpoint(project, "train/*/last.pt"), dvc)
    (stage,) = project.processes("train")
    stage.send_signal(signal.SIGINT)
    _, errors = dvc.communicate()
    assert "train: interrupted\n" in errors
    assert project.repro()[0] == "train"
    assert project.outputs() == twin.outputs()
    assert not list((project.folder / ".checkpoints").glob("train/*"))


def test_training_that_was_killed_after_an_epoch_goes_on_to_the_same_bytes(finished, tmp_path):
    project = finished.copy(tmp_path / "p")
    killed = force(project, "train", {KILL_AT: str(BEHIND_AN_EPOCH)})
    assert killed.returncode != 0
    assert checkpoint(project, "train/*/last.pt")()
    resumed = force(project, "train")
    assert resumed.returncode == 0, resumed.stderr
    assert project.outputs() == finished.outputs()
    assert not checkpoint(project, "train/*")()
    assert project.repro() == []


def test_an_adaptation_that_was_killed_is_not_taken_up_with_another_preprocessing(
    finished, tmp_path
):
    project = finished.copy(tmp_path / "p")
    twin = finished.copy(tmp_path / "twin")
    killed = force(project, "adapt", {KILL_AT: str(BEHIND_AN_EPOCH)})
    assert killed.returncode != 0
    assert checkpoint(project, "adapt/*/last.pt")()
    for copy in (project, twin):
        copy.set(**{"model.crop_pct": 0.6})
        assert copy.repro("adapt") == ["adapt"]
    assert project.outputs() == twin.outputs()
    assert project.outputs() != finished.outputs()


BEHIND_AN_EPOCH = 26  # changes to the disk, with the checkpoint of the first epoch among them
STRIDE = {"embed": 2, "train": 2}  # of the points at which a stage is killed; 8 for the others


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_between_two_changes_to_the_disk_loses_nothing(finished, tmp_path, stage):
    """Points from the first change to behind the last, under both shells in turn."""
    project = finished.copy(tmp_path / "p")
    before = finished.outputs()
    shells = cycle(path for path in map(shutil.which, ("sh", "bash")) if path)
    for point in count(1, STRIDE.get(stage, 8)):
        killed = force(project, stage, {KILL_AT: str(point), "SHELL": next(shells)}).returncode != 0
        again = force(project, stage)
        assert again.returncode == 0, again.stderr
        after = project.outputs()
        assert [name for name in before if before[name] != after.get(name)] == [], (
            f"killed before change {point}"
        )
        assert not list(project.folder.rglob("*.partial"))
        assert not list((project.folder / ".checkpoints").glob("*/*"))
        if not killed:
            break
    assert point > 8


@pytest.mark.slow
def test_a_file_that_dvc_left_empty_when_killed_is_deleted_and_nothing_else_lost(
    finished, tmp_path
):
    project = finished.copy(tmp_path / "p")
    (project.folder / RWLOCK).write_text("")
    broken = project.run("dvc", "repro")
    assert broken.returncode
    assert RWLOCK_BROKEN in broken.stderr
    (project.folder / RWLOCK).unlink()
    assert project.repro() == []
    assert project.outputs() == finished.outputs()


@pytest.mark.slow
def test_faults_at_random_moments_leave_the_outputs_of_an_undisturbed_run(finished, tmp_path):
    """A few of the many that `python -m tests.faults` injects."""
    faults = plan(5, seed=1)
    seconds = undisturbed(finished, tmp_path, (fault.stage for fault in faults))
    results = [
        inject(finished, tmp_path / str(i), fault, seconds[fault.stage])
        for i, fault in enumerate(faults)
    ]
    assert [
        (fault, found.problems)
        for fault, found in zip(faults, results, strict=True)
        if found.problems
    ] == []
    assert any(found.hit for found in results)
