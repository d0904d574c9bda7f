"""The default model on real images: needs the original CIFAR-10 files (VIT_DATA_DIR) and the
pretrained weights."""

import numpy as np
import pytest
import torch

from tests.training.examples import plain_settings
from tests.training.test_trainer import losses_of_the_usual_loop, losses_of_trainer
from vit_finetune.core.errors import UserError
from vit_finetune.model.boundary import SplitModel, run_prefix
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.freezing import freeze

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@pytest.fixture(scope="module")
def images_and_labels(real_files):
    from vit_finetune.data.cifar import load_cifar

    dataset = load_cifar("cifar10")
    return torch.from_numpy(dataset.images["train"][:40]), torch.from_numpy(
        dataset.labels["train"][:40]
    )


def pretrained_model():
    """With the head of zeros that `load_model` gives."""
    try:
        model = build_model(NAME, pretrained=True, image_size=None, seed=0)
    except UserError as error:
        pytest.skip(f"needs the pretrained weights: {error}")
    model.reset_classifier(10)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-4)])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_real_losses_from_stored_activations_are_those_of_the_full_network(
    images_and_labels, blocks, dtype, tolerance, monkeypatch
):
    images, labels = images_and_labels
    settings = plain_settings(lr=0.0003)
    model = pretrained_model()
    naive = pretrained_model()
    pixels = preprocessing(model, 1.0)(images)
    freeze(naive, blocks)
    expected = losses_of_the_usual_loop(naive, pixels, labels, settings, seed=1)
    freeze(model, blocks)
    with torch.no_grad():
        stored = torch.cat([run_prefix(model, some, blocks) for some in pixels.split(8)]).to(dtype)
    suffix = SplitModel(model, blocks, lambda x: x, torch.device("cpu"), torch.float32)
    found = losses_of_trainer(suffix, stored, labels, settings, 1, monkeypatch)
    assert len(found) == 20
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
