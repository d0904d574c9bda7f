"""The verdict on the maps, in words."""

import pytest

from vit_finetune.verdict import NOT_JUDGED, verdict, word_for


def rows(**verdicts):
    return [
        {"map": name.replace("_", " "), "n": "200", "verdict": word}
        for name, word in verdicts.items()
    ]


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "better"),
        (-0.01, 0.2, "no better"),
        (0.0, 0.2, "no better"),
        (-0.3, -0.1, "worse"),
    ],
)
def test_a_map_is_better_only_where_the_whole_interval_is(low, high, word):
    assert word_for(low, high) == word


def test_the_verdict_sorts_the_maps_and_says_how_many_comparisons_were_made():
    words = {"LeGrad": "better", "rollout": "no better", "relevance": "better"}
    assert verdict(rows(**words, last_block="worse", random="")) == (
        "Attention maps that are better than a centred Gaussian: LeGrad, relevance. "
        "No better: rollout. Worse: last block. "
        "Judged on 200 test images, each map by its own 95 % interval. The chance that at least "
        "one of these 4 intervals is wrong is at most 20 %."
    )


@pytest.mark.parametrize("word", ["better", "no better", "worse"])
def test_the_first_heading_names_the_baseline_and_one_without_maps_is_left_out(word):
    heading = f"Attention maps that are {word} than a centred Gaussian: LeGrad. Judged"
    assert verdict(rows(LeGrad=word)).startswith(heading)


def test_maps_of_a_model_that_only_guesses_are_not_judged():
    text = verdict(rows(LeGrad=NOT_JUDGED, rollout=NOT_JUDGED, centre=""))
    assert "no map of it is judged" in text
    assert "LeGrad" not in text
