"""The card of a trained model: true numbers, a front matter that the hub reads, lines of use that
run."""

import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image, ImageOps

from vit_finetune.activations.manifest import Manifest
from vit_finetune.model.build import preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import save_model
from vit_finetune.training.data import TrainingData
from vit_finetune.training.history import History
from vit_finetune.training.model_card import model_card
from vit_finetune.training.temperature import Calibration, Quality

ROW = {"train_loss": 0.5, "train_accuracy": 0.9, "lr": 0.1, "val_loss": 0.25}
HISTORY = History(
    [ROW | {"epoch": e, "val_accuracy": a} for e, a in enumerate((0.25, 0.75))], probe_c=0.5
)
DATASET = {
    "name": "cifar10",
    "classes": ["cat", "dog", "owl"],
    "image_shape": [32, 48, 3],
    "fit": "pad",
    "reading": {
        "transparency_over": [255, 255, 255],
        "grey_of_16_bits_divided_by": 257,
        "fit_interpolation": "bilinear",
        "pad_colour": [1, 2, 3],
    },
}
MANIFEST = Manifest(
    weights_sha256="",
    images_sha256={},
    preprocessing={},
    trainable_blocks=0,
    boundary="features",
    precision="bfloat16",
    storage="float16",
    shapes={},
)
CALIBRATION = Calibration(
    temperature=0.5812,
    before=Quality(nll=0.25, ece=0.1),
    after=Quality(nll=0.125, ece=0.025),
    confidence=np.ones(3),
    right=np.ones(3, dtype=bool),
)


def card_of(model, history=HISTORY, dataset=DATASET):
    freeze(model, 0)
    train = torch.zeros(7, 32), torch.zeros(7)
    data = TrainingData(
        *train, np.arange(len(train[1])), torch.zeros(3, 32), torch.arange(3), np.arange(3)
    )
    return model_card(model, dataset, data, history, MANIFEST, CALIBRATION)


def test_the_card_gives_the_numbers_of_the_training(tiny_vit):
    text = card_of(tiny_vit)
    total = sum(p.numel() for p in tiny_vit.parameters())
    for line in (
        "3 classes: cat, dog, owl.",
        "| images | 7 for training, 3 for validation |",
        "| validation accuracy | 0.7500 (n = 3) |",
        "| before training | 0.2500 (a probe, C = 0.5) |",
        "| epochs of training | 1 |",
        f"| parameters | 99 trained from stored activations, {total - 99:,} frozen before that |",
        "| activations | features, stored as float16, computed in bfloat16 |",
        "| temperature | 0.5812 |",
        "| negative log-likelihood of validation images | 0.2500 before the temperature, 0.1250 ",
        "| calibration error of validation images | 0.1000 before the temperature, 0.0250 after ",
        f"| trained with | torch {torch.__version__.partition('+')[0]}, timm {timm.__version__}, ",
        "laid over the colour (255, 255, 255), and greys of 16 bits were divided by 257.",
    ):
        assert line in text


def test_a_linear_probe_is_called_one(tiny_vit):
    text = card_of(tiny_vit, replace(HISTORY, keeps_start=True))
    assert "| validation accuracy | 0.2500 (n = 3) |" in text
    assert "| epochs of training | none: the start was better, training did not help |" in text
    assert "trained from stored activations" not in text
    alone = card_of(tiny_vit, History(HISTORY.rows[:1]))
    assert "| epochs of training | none: the head alone is not trained in epochs |" in alone


def test_the_front_matter_names_licence_and_source_where_they_are_known(tiny_vit):
    tiny_vit.pretrained_cfg = tiny_vit.pretrained_cfg | {
        "license": "apache-2.0",
        "architecture": "vit",
        "tag": "in1k",
    }
    front = yaml.safe_load(card_of(tiny_vit).split("---")[1])
    (described,) = front.pop("model-index")
    assert front == {
        "license": "apache-2.0",
        "base_model": "timm/vit.in1k",
        "datasets": ["uoft-cs/cifar10"],
        "library_name": "timm",
        "metrics": ["accuracy"],
        "pipeline_tag": "image-classification",
    }
    (result,) = described["results"]
    assert result["dataset"] == {
        "name": "cifar10",
        "type": "uoft-cs/cifar10",
        "split": "validation",
    }
    (metric,) = result["metrics"]
    assert (metric["type"], metric["name"]) == ("accuracy", "validation accuracy, n = 3")
    assert metric["value"] == 0.75
    tiny_vit.pretrained_cfg = {"architecture": "vit"}
    front = yaml.safe_load(card_of(tiny_vit).split("---")[1])
    assert not {"license", "base_model"} & set(front)
    assert "| licence of the pretrained weights | not stated by their source |" in card_of(tiny_vit)


SIZE = (48, 32)
BILINEAR = Image.Resampling.BILINEAR


@pytest.mark.parametrize(
    ("fit", "fitted"),
    [
        ("crop", lambda image: ImageOps.fit(image, SIZE, BILINEAR)),
        ("pad", lambda image: ImageOps.pad(image, SIZE, BILINEAR, (1, 2, 3))),
        ("squash", lambda image: image.resize(SIZE, BILINEAR)),
    ],
)
def test_the_lines_of_use_run_and_bring_an_image_to_the_size_of_the_training_images(
    tiny_vit, tmp_path, monkeypatch, fit, fitted
):
    dataset = DATASET | {"fit": fit}
    save_model(tiny_vit, tmp_path / "models/finetuned", preprocessing(tiny_vit, None), dataset)
    noise = np.random.default_rng(0).integers(256, size=(30, 90, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(tmp_path / "photo.jpg", "PNG")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    card = card_of(tiny_vit, dataset=dataset)
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    assert f"does what `fit: {fit}` did with the images of this run" in card
    assert names["label_names"] == ["cat", "dog", "owl"]
    pixels = preprocessing(tiny_vit, None)(torch.from_numpy(np.array(fitted(image))[None]))
    expected = tiny_vit(pixels).softmax(dim=1)
    torch.testing.assert_close(names["probabilities"], expected, rtol=0, atol=1e-5)
