"""Mirrored images that look like another class are told."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.project import ROOT
from vit_finetune.activations.views import ImageView
from vit_finetune.model.boundary import SplitModel
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.training.adaptation import with_head
from vit_finetune.training.data import TrainingData
from vit_finetune.training.features import Features
from vit_finetune.training.mirrored import mirrored_warnings, nearest_mean_accuracy


@pytest.fixture(scope="module")
def split_model():
    """The small pretrained ViT of the project, not split."""
    name = f"local-dir:{ROOT / 'pretrained/glyph-vit'}"
    backbone = build_model(name, pretrained=True, image_size=None, seed=0)
    model = with_head(backbone, 2)
    preprocess = preprocessing(backbone, None)
    return SplitModel(model, "all", preprocess, torch.device("cpu"), torch.float32)


def arrow(rng, direction):
    """An arrow of any length and place, 32 x 32 pixels, that points to the right or left."""
    image = Image.new("L", (32, 32), 20)
    draw = ImageDraw.Draw(image)
    x, y = rng.uniform(13, 19, size=2)
    half = rng.uniform(6, 9)
    tip = x + direction * half
    draw.line((x - half, y, x + half, y), fill=230, width=3)
    draw.polygon([(tip - direction * 6, y - 5), (tip - direction * 6, y + 5), (tip, y)], fill=230)
    return np.asarray(image.convert("RGB"))


def data_of(split_model, turned):
    """Arrows of two classes, left and right, or up and down where they are turned."""
    rng = np.random.default_rng(0)
    images = np.stack([arrow(rng, 1 - 2 * (number % 2)) for number in range(80)])
    if turned:
        images = images.swapaxes(1, 2).copy()
    labels = torch.arange(80) % 2
    train = ImageView(images[:60])
    val = ImageView(images[60:])
    data = TrainingData(
        train, labels[:60], np.arange(60), val, labels[60:], np.arange(len(labels) - 60), train
    )
    features = Features(
        train=split_model.predict_features(train), val=split_model.predict_features(val)
    )
    return data, features


def test_arrows_to_the_left_and_right_must_not_be_mirrored(split_model):
    (warning,) = mirrored_warnings(split_model, *data_of(split_model, turned=False), "adapt")
    assert warning.startswith("mirrored images look like other classes: by their features, 0.")
    assert "of 60 mirrored training images belong to their class" in warning
    assert warning.endswith("Set adapt.flip to false")


def test_arrows_up_and_down_may_be_mirrored(split_model):
    assert mirrored_warnings(split_model, *data_of(split_model, turned=True), "adapt") == []


def test_the_nearest_mean_is_the_class():
    means = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    features = torch.tensor([[1.0, 9.0], [1.9, 0.0], [2.1, 0.0], [9.0, 0.0]])
    assert nearest_mean_accuracy(means, features, torch.tensor([0, 1, 1, 1])) == 0.75
