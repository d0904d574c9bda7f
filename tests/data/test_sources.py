"""`data.name` chooses the source of the images; the other keys of `data` go to the source that
reads them."""

from typing import get_args

import numpy as np
import pytest
from PIL import Image

from tests.data.loaded import load
from vit_finetune.core.arrays import decode_names
from vit_finetune.data import sources
from vit_finetune.params import Data

SETTINGS = {
    "folder": "data/images",
    "image_size": 16,
    "fit": "squash",
    "test_share": 0.5,
    "broken": "skip",
}


def section(name):
    return Data(name=name, **SETTINGS)


def test_digits_are_opened_by_their_name():
    source = sources.open_source(section("digits"), 1)
    assert source.image_shape == (8, 8, 3)
    assert len(source.files["train"]) == 901


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_opened_by_its_name(monkeypatch, name):
    monkeypatch.setattr(sources, "load_cifar", lambda name: f"opened {name}")
    assert sources.open_source(section(name), 1) == f"opened {name}"


def test_a_folder_is_read_from_data_images_with_the_settings_of_the_section(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "data" / "images" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (32, 16), "red")
            # the middle half, which is all that `crop` would keep
            image.paste("blue", (8, 0, 24, 16))
            image.save(tmp_path / "data" / "images" / name / f"{number}.png")
    (tmp_path / "data" / "images" / "cat" / "broken.png").write_bytes(b"")
    dataset = load(sources.open_source(section("folder"), 1))
    assert dataset.classes == ["cat", "dog"]
    assert {part: labels.tolist().count(1) for part, labels in dataset.labels.items()} == {
        "train": 2,
        "test": 2,
    }
    assert np.array_equal(dataset.images["train"][0, 8, [0, 8]], [(255, 0, 0), (0, 0, 255)])
    assert dataset.sizes["test"].tolist() == [[16, 32]] * len(dataset.labels["test"])
    assert len(dataset.broken) == 1
    for part, files in dataset.files.items():
        assert [name.partition("/")[0] for name in decode_names(files)] == [
            dataset.classes[k] for k in dataset.labels[part]
        ]


def test_every_name_that_params_yaml_allows_is_tried_here():
    assert set(get_args(Data.model_fields["name"].annotation)) == {
        "digits",
        "cifar10",
        "cifar100",
        "folder",
    }
