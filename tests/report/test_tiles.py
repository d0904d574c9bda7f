"""The small images of the report: which are shown, in which order, with which words."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_finetune.core.arrays import encode_names, write_split
from vit_finetune.report import tiles

IMAGES = (
    np.zeros((6, 4, 4, 3), dtype=np.uint8) + 40 * np.arange(6, dtype=np.uint8)[:, None, None, None]
)


def grey(tile):
    """The number of the image that a tile shows."""
    return round(np.asarray(Image.open(io.BytesIO(tile.image))).mean() / 40)


def prediction(file, actual, predicted, confidence):
    return {"file": file, "actual": actual, "predicted": predicted, "confidence": str(confidence)}


@pytest.fixture
def predictions():
    return [
        prediction("a", "cat", "cat", 0.9),
        prediction("b", "cat", "dog", 0.6),
        prediction("c", "dog", "cat", 0.9999),
        prediction("d", "cat", "dog", 0.7),
        prediction("e", "dog", "dog", 0.8),
        prediction("f", "cow", "cat", 0.6),
    ]


def test_mistakes_are_the_most_confident_and_lead_to_the_maps_that_there_are(predictions):
    shown = tiles.mistakes(predictions, IMAGES, [3, 4, 2], count=3).tiles
    assert [(tile.file, grey(tile)) for tile in shown] == [("c", 2), ("d", 3), ("b", 1)]
    assert [tile.lines for tile in shown] == [
        ["cat 99.9 %", "is dog"],  # rounded down
        ["dog 70.0 %", "is cat"],
        ["dog 60.0 %", "is cat"],
    ]
    page = "attention/index.html"
    assert [tile.link for tile in shown] == [f"{page}#image=2", f"{page}#image=0", ""]


def test_confused_pairs_are_counted_of_the_true_class(predictions):
    groups = tiles.confused_pairs(predictions, IMAGES)
    assert [group.title for group in groups] == [
        "cat taken for dog: 2, 66.7% of cat",
        "cow taken for cat: 1, 100.0% of cow",
        "dog taken for cat: 1, 50.0% of dog",
    ]
    assert [[tile.file for tile in group.tiles] for group in groups] == [["b", "d"], ["f"], ["c"]]
    assert tiles.confused_pairs(predictions[:1], IMAGES[:1]) == []


def test_suspects_stand_before_their_nearest_image_three_of_each_kind(tmp_path):
    for part, rows in (("train", IMAGES[:3]), ("test", IMAGES[3:])):
        names = encode_names(f"{part}/{row}" for row in range(3))
        write_split(tmp_path, part, images=rows, files=names)
    kinds = ["wrong label"] * 4 + ["outlier"]
    rows = [
        {"kind": kind, "part": "test", "file": f"test/{row % 3}", "label": "cat"}
        | {"neighbour": "train/1", "neighbour_label": "dog", "neighbour_part": "train"}
        for row, kind in enumerate(kinds)
    ]
    groups = tiles.suspects(rows, tmp_path)
    assert [group.title for group in groups] == [
        "wrong label: 4, each before its nearest image",
        "outlier: 1, each before its nearest image",
    ]
    wrong, outlier = (group.tiles for group in groups)
    assert [grey(tile) for tile in wrong] == [3, 1, 4, 1, 5, 1]
    assert [grey(tile) for tile in outlier] == [4, 1]
    assert [tile.lines for tile in outlier] == [["cat", "test"], ["dog", "train"]]
    assert tiles.suspects([], tmp_path) == []


def test_samples_have_every_class():
    labels = np.array([1, 0, 1, 0, 0, 1])
    files = list("abcdef")
    shown = tiles.samples(IMAGES, labels, files, ["cat", "dog"]).tiles
    assert [(tile.file, *tile.lines) for tile in shown] == [
        ("b", "cat"), ("d", "cat"), ("e", "cat"), ("a", "dog"), ("c", "dog"), ("f", "dog"),
    ]  # fmt: skip
    many = [f"class {k}" for k in range(30)]
    assert len(tiles.samples(IMAGES, np.arange(6), files, many).tiles) == 6
