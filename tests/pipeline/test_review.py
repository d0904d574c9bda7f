"""The stage `review` in a real run: its inputs, and the loop of looking and correcting."""

import csv

import numpy as np
import pytest
import torch

from vit_finetune.core.arrays import read_split
from vit_finetune.data.corrections import COLUMNS
from vit_finetune.model.boundary import SplitModel
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import load_model


@pytest.mark.parametrize(
    ("model", "folder", "splits"),
    [
        ("pretrained", "pretrained_features", ("train", "val")),
        ("adapted", "embedded", ("train", "val", "test")),
    ],
)
def test_kept_features_are_those_of_the_whole_model(finished, model, folder, splits):
    network = load_model(finished.folder / "models" / model)
    whole = SplitModel(
        network, "all", preprocessing(network, None), torch.device("cpu"), torch.float32
    )
    for split in splits:
        (images,) = read_split(finished.folder / "data/subset", split, "images")
        (kept,) = read_split(finished.folder / "data" / folder, split, "features")
        expected = whole.predict_features(torch.from_numpy(np.array(images))).numpy()
        np.testing.assert_allclose(kept, expected, rtol=1e-2, atol=1e-2)


def suspects(project):
    with (project.folder / "plots/review.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def correct(project, *rows):
    with (project.folder / "data/corrections.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


@pytest.mark.slow
def test_an_image_that_is_kept_is_no_longer_listed_and_nothing_is_trained_again(finished, tmp_path):
    project = finished.copy(tmp_path / "p")
    before = suspects(project)
    assert before
    file = before[0]["file"]
    correct(project, ["digits", file, "keep", "", "looked at"])
    assert project.repro() == ["subset", "review", "report"]
    assert file in {row["file"] for row in before}
    assert file not in {row["file"] for row in suspects(project)}
    assert "looked at" in (project.folder / "review.html").read_text()
    correct(project)
    project.repro()
    assert suspects(project) == before
