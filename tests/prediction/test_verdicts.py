"""Maps are listed by the verdict of the run that trained the model."""

from pathlib import Path

import pytest

from vit_finetune.attention.maps import METHODS
from vit_finetune.core.files import write_csv
from vit_finetune.prediction.page import DrawnMap, predictions_page
from vit_finetune.prediction.verdicts import marked_methods, read_verdicts


@pytest.fixture
def model(tmp_path) -> Path:
    """The folder of a model in a project whose run judged three maps."""
    rows = [("LeGrad", "better"), ("relevance", "no better"), ("rollout", "worse"), ("centre", "")]
    (tmp_path / "plots").mkdir()
    table = [{"map": name, "verdict": word} for name, word in rows]
    write_csv(tmp_path / "plots/attention_maps.csv", table)
    folder = tmp_path / "models/finetuned"
    folder.mkdir(parents=True)
    return folder


def test_maps_come_in_the_order_of_the_run_and_those_that_are_not_better_are_marked(model):
    assert marked_methods(read_verdicts(model))[:3] == [
        "LeGrad",
        "relevance (no better than a centred Gaussian)",
        "rollout (worse than a centred Gaussian)",
    ]
    assert len(marked_methods(read_verdicts(model))) == len(METHODS)


def test_without_a_run_the_maps_come_in_their_own_order(tmp_path, model):
    copied = tmp_path / "some/where/finetuned"
    assert read_verdicts(copied) == {}
    assert read_verdicts(model.rename(tmp_path / "models/other")) == {}
    assert marked_methods({}) == [*METHODS]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("no better", "this map was no better than a centred Gaussian"),
        ("not judged", "The maps of this model were not judged"),
        (None, "has to be measured"),
    ],
)
def test_the_page_says_what_the_run_found_of_its_map(verdict, expected):
    assert expected in predictions_page([], DrawnMap("rollout", None, verdict))


def test_the_page_says_that_bars_have_no_map_only_where_there_may_be_some():
    words = "No map is drawn on bars"
    assert words in predictions_page([], DrawnMap("rollout", None, None, bars=True))
    assert words not in predictions_page([], DrawnMap("rollout", None, None))
