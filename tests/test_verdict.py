"""The verdict on the maps, in words."""

import pytest

from vit_finetune.verdict import (
    BARS,
    IMAGE,
    NOT_JUDGED,
    UNCLEAR,
    bars_in_words,
    verdict,
    word_for,
)


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


@pytest.mark.parametrize(
    ("decides", "end"),
    [
        (BARS, "So the bars decide more than the image does, and these maps do not show that."),
        (IMAGE, "So the image decides more than the bars do."),
        (UNCLEAR, "Whether the image or the bars decide more is not clear."),
    ],
)
def test_what_bars_do_is_said_with_both_fractions_and_their_intervals(decides, end):
    bars = {"exchanged": 96, "decides": decides}
    bars |= {"follow_bars": 0.75, "follow_bars_ci95": [0.66, 0.83]}
    bars |= {"follow_image": 0.2, "follow_image_ci95": [0.13, 0.29]}
    assert bars_in_words({"bars": bars}) == (
        "Maps of single images are not drawn on the bars of padded images. With the bars of an "
        "image of another predicted class, 96 images are predicted as that class in 0.75 "
        f"[0.66, 0.83] of the cases, and as before in 0.20 [0.13, 0.29]. {end}"
    )


def test_bars_that_could_not_be_exchanged_are_no_bars_that_do_nothing():
    assert "was not tested" in bars_in_words({"bars": {"exchanged": 0}})
    assert bars_in_words({"images": 200}) == ""
