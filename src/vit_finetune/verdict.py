"""Which attention maps are better than a centred Gaussian, and whether bars decide, in words.

Rows are those of plots/attention_maps.csv.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_finetune.intervals import LEVEL

WORDS = ("better", "no better", "worse")
NOT_JUDGED = "not judged"
# what decides where images have bars
BARS = "bars"
IMAGE = "image"
UNCLEAR = "not clear"
Rows = Sequence[Mapping[str, Any]]


def word_for(low: float, high: float) -> str:
    """The verdict on a map, from the 95 % interval of its score minus that of the centred
    Gaussian."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "no better"


def in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best maps first: those that are better than a centred Gaussian, then no better, then
    worse. Rows without a verdict, such as the baselines, come last in their order."""

    def place(row: Mapping[str, Any]) -> tuple[int, float]:
        if row["verdict"] in WORDS:
            return WORDS.index(row["verdict"]), -float(row["minus_centre"])
        return len(WORDS), 0.0

    return sorted(rows, key=place)


def in_words(rows: Rows) -> str:
    """Which maps are better, no better and worse."""
    judged = [row for row in rows if row["verdict"]]
    if any(row["verdict"] == NOT_JUDGED for row in judged):
        return (
            "The model is not clearly more accurate than its most frequent class, so no map of it "
            "is judged."
        )
    sentences: list[str] = []
    for word in WORDS:
        names = ", ".join(row["map"] for row in judged if row["verdict"] == word)
        if names and sentences:
            sentences.append(f"{word.capitalize()}: {names}.")
        elif names:
            sentences.append(f"Attention maps that are {word} than a centred Gaussian: {names}.")
    return " ".join(sentences)


def error_chance(rows: Rows) -> str:
    """How likely it is that a verdict is wrong; empty if no map is judged."""
    judged = [row for row in rows if row["verdict"] and row["verdict"] != NOT_JUDGED]
    if not judged:
        return ""
    # Bonferroni's inequality: the maps are judged on the same images
    chance = min(1, (1 - LEVEL) * len(judged))
    return (
        f"Judged on {judged[0]['n']} test images, each map by its own 95 % interval. The chance "
        f"that at least one of these {len(judged)} intervals is wrong is at most "
        f"{100 * chance:.0f} %."
    )


def verdict(rows: Rows) -> str:
    """Both sentences."""
    return f"{in_words(rows)} {error_chance(rows)}".rstrip()


def bars_in_words(attention: Mapping[str, Any]) -> str:
    """What exchanging the bars of padded images showed, from metrics/attention.json; empty if
    images were not padded."""
    if "bars" not in attention:
        return ""
    bars = attention["bars"]
    drawn = "Maps of single images are not drawn on the bars of padded images."
    if bars["exchanged"] == 0:
        return (
            f"{drawn} What they do to the prediction was not tested: no two images of different "
            "predicted classes have clearly different bars."
        )
    found = (
        f"{drawn} With the bars of an image of another predicted class, {bars['exchanged']} images "
        f"are predicted as that class in {_part(bars, 'follow_bars')} of the cases, and as before "
        f"in {_part(bars, 'follow_image')}."
    )
    if bars["decides"] == BARS:
        return (
            f"{found} So the bars decide more than the image does, and these maps do not show that."
        )
    if bars["decides"] == IMAGE:
        return f"{found} So the image decides more than the bars do."
    return f"{found} Whether the image or the bars decide more is not clear."


def _part(bars: Mapping[str, Any], name: str) -> str:
    low, high = bars[f"{name}_ci95"]
    return f"{bars[name]:.2f} [{low:.2f}, {high:.2f}]"
