"""Shared fixtures. Real files come from the variables that a user would set; what needs them skips
without."""

import fcntl
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # one core each, for the stages that tests start as well
    os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("same", derandomize=True, deadline=None)  # the same examples in every run
settings.load_profile("same")

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]


def pytest_runtest_setup():
    """Models of random weights are the same in every run, whichever tests run."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A folder with a small ViT of random weights (3 blocks, 17 tokens), as timm saves it."""
    from tests.project import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_vit(tiny_model_folder):
    """The model of `tiny_model_folder` with a random head for three classes, in eval mode."""
    import torch

    from vit_finetune.model.saved import load_model

    model = load_model(tiny_model_folder, num_classes=3)
    torch.nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="session")
def real_files():
    """Skip unless the original CIFAR-10 files and the pretrained weights are at hand."""
    if not os.environ.get("VIT_DATA_DIR"):
        pytest.skip("needs the original CIFAR-10 files: set VIT_DATA_DIR")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A folder that all workers of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def locked(path):
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def warm(run_folder):
    """Projects start their stages with an interpreter that has imported the libraries already."""
    from tests.project import Project
    from tests.warm_python import warm_folder

    with locked(run_folder / "warm.lock"):
        Project.python = warm_folder(run_folder)


@pytest.fixture(scope="session")
def finished(run_folder, warm, tiny_model_folder):
    """A project whose whole pipeline ran once, for all workers. Tests take copies, and change
    nothing in it."""
    from tests.graph import STAGES
    from tests.project import Project

    project = Project(run_folder / "finished" / "p")
    done = run_folder / "finished.done"
    with locked(run_folder / "finished.lock"):
        if not done.exists():
            Project.create(project.folder, tiny_model_folder)
            assert project.repro() == list(STAGES)
            done.touch()
    return project


def pytest_collection_modifyitems(items):
    """The longest tests first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: "test_every_command_works" not in item.nodeid)


SHARE = 3.0  # seconds that a test may take without being marked slow


def pytest_terminal_summary(terminalreporter):
    """Tests that took longer than their share: to be made faster, or marked."""
    seconds = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and "slow" not in report.keywords:
                seconds[report.nodeid] += report.duration if report.when == "call" else 0
    long = [(test, duration) for test, duration in seconds.most_common() if duration > SHARE]
    if long:
        terminalreporter.section(f"unmarked tests that took more than {SHARE:.0f} s (set-up apart)")
        for test, duration in long:
            terminalreporter.write_line(f"{duration:6.1f} s  {test}")
