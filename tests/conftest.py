"""Shared fixtures. Real files come from the variables that a user would set; what needs them skips without."""

import os
import sys
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
def finished(tmp_path_factory, tiny_model_folder):
    """A project whose whole pipeline ran once. Tests take copies."""
    from tests.graph import STAGES
    from tests.project import Project

    project = Project.create(tmp_path_factory.mktemp("finished") / "p", tiny_model_folder)
    assert project.repro() == list(STAGES)
    return project
