"""Shared fixtures. Real files come from the variables that a user would set; what needs them skips without."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)  # the same examples in every run
settings.load_profile("same")

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

TINY_MODEL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A folder with a small ViT of random weights (3 blocks, 17 tokens), as timm saves it."""
    import timm
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY_MODEL)
    for parameter in model.parameters():  # norms, biases and position embeddings start at 0 or 1: move them
        torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    folder = tmp_path_factory.mktemp("tiny")
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


@pytest.fixture
def tiny_vit(tiny_model_folder):
    """The model of `tiny_model_folder` with a random head for three classes, in eval mode."""
    import torch

    from vit_finetune.backbone import load_model

    model = load_model(tiny_model_folder, num_classes=3)
    torch.nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="session")
def real_files():
    """Skip unless the original CIFAR-10 files and the pretrained weights are at hand."""
    if not os.environ.get("VIT_DATA_DIR"):
        pytest.skip("needs the original CIFAR-10 files: set VIT_DATA_DIR")
