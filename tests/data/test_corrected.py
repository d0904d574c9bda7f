"""Corrections in the stage `subset`: what a row changes, and what it does not."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from stages import download, subset

from tests.project import ROOT
from vit_finetune.core.arrays import decode_names, read_split
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import read_json, write_json
from vit_finetune.data.corrections import COLUMNS, CORRECTIONS
from vit_finetune.params import read_params, read_yaml
from vit_finetune.stage import Stage

SPLITS = ("train", "val", "test")


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """The stage `download` has run on the digits."""
    monkeypatch.chdir(tmp_path)
    params = read_yaml(ROOT / "params.yaml")
    params["data"]["name"] = "digits"
    params["subset"] |= {"train_size": 100, "val_size": 50, "test_size": 60}
    params["attention"] |= {"gallery": 2, "sample": 8}
    write_json("params.yaml", params)  # JSON is YAML
    download.main(Stage("download", read_params()))


def run(*rows):
    """{split: {file: (label, bytes of the image)}} with these corrections."""
    with Path(CORRECTIONS).open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    subset.main(Stage("subset", read_params()))
    splits = {}
    for split in SPLITS:
        images, labels, files = read_split("data/subset", split, "images", "labels", "files")
        splits[split] = {
            name: (int(label), image.tobytes())
            for name, label, image in zip(decode_names(files), labels, images, strict=True)
        }
    return splits


@pytest.mark.parametrize("split", SPLITS)
def test_a_relabelled_image_changes_alone(digits, split, capsys):
    before = run()
    file, (label, image) = next(iter(before[split].items()))
    after = run(("digits", file, "relabel", str((label + 1) % 10), ""))
    assert after[split].pop(file) == ((label + 1) % 10, image)
    del before[split][file]
    assert after == before
    assert read_json("metrics/subset.json")["corrected"] == f"{split}: 1 relabelled"
    assert read_json("data/subset/dataset.json")["corrections"][split] == "1 relabelled"
    assert f"subset: {split}: 1 relabelled (data/corrections.csv)" in capsys.readouterr().out


@pytest.mark.parametrize("split", SPLITS)
def test_a_dropped_image_is_gone_and_no_other_comes(digits, split):
    before = run()
    file = next(iter(before[split]))
    after = run(("digits", file, "drop", "", ""))
    del before[split][file]
    assert after == before
    assert read_json("metrics/subset.json")["corrected"] == f"{split}: 1 dropped"


def test_what_changes_nothing_gives_the_same_bytes(digits, capsys):
    def outputs():
        return {path: path.read_bytes() for path in Path("data/subset").iterdir()}

    before = run()
    metrics = Path("metrics/subset.json").read_bytes()
    bytes_before = outputs()
    file, (label, _) = next(iter(before["train"].items()))
    drawn = {name for split in before.values() for name in split}
    all_files = decode_names(np.load("data/raw/train_files.npy"))
    not_drawn = next(name for name in all_files if name not in drawn)
    run(
        ("digits", file, "relabel", str(label), "it is so already"),
        ("digits", next(iter(before["test"])), "keep", "", ""),
        ("digits", not_drawn, "drop", "", ""),
        ("cifar10", file, "drop", "", ""),
        ("birds", file, "relabel", "owl", ""),
    )
    assert outputs() == bytes_before
    assert Path("metrics/subset.json").read_bytes() == metrics
    assert json.loads(metrics) == {"images": {"train": 100, "val": 50, "test": 60}, "problems": 0}
    assert (
        "subset: 2 rows of data/corrections.csv are for other data sets than digits: ignored"
    ) in capsys.readouterr().out.splitlines()


def test_a_mistake_in_the_file_stops_the_stage_before_it_writes(digits):
    with pytest.raises(UserError, match=r"line 2: the data set digits has no image 'train/9999'"):
        run(("digits", "train/9999", "drop", "", ""))
    assert not Path("metrics").exists()
    assert not Path("plots").exists()
    assert sorted(path.name for path in Path("data").iterdir()) == ["corrections.csv", "raw"]


def test_a_class_that_corrections_take_from_training_is_an_error_and_from_test_a_warning(
    digits, capsys
):
    before = run()

    def drop(split):
        return [
            ("digits", file, "drop", "", "")
            for file, (label, _) in before[split].items()
            if label == 7
        ]

    run(*drop("test"))
    warning = "test has no image of 7"
    assert f"subset: warning: {warning}" in capsys.readouterr().out.splitlines()
    assert read_json("metrics/subset.json")["warning"] == warning
    with pytest.raises(UserError, match=r"^no image of 7 is left to train on"):
        run(*drop("train"))
