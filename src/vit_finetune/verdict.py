"""Which attention maps are better than a centred Gaussian, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_finetune.intervals import LEVEL

WORDS = ("better", "no better", "worse")
NOT_JUDGED = "not judged"


def word_for(low: float, high: float) -> str:
    """Of a map, from the 95 % interval of its score minus that of the centred Gaussian."""
    return "better" if low > 0 else "worse" if high < 0 else "no better"


def in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which maps are better, from the rows of plots/attention_maps.csv."""
    judged = [row for row in rows if row["verdict"]]
    if any(row["verdict"] == NOT_JUDGED for row in judged):
        return "The model is not clearly more accurate than its most frequent class, so no map of it is judged."
    groups = {word: [row["map"] for row in judged if row["verdict"] == word] for word in WORDS}
    found = [(word, ", ".join(names)) for word, names in groups.items() if names]
    first = [
        f"Attention maps that are {word} than a centred Gaussian: {names}."
        for word, names in found[:1]
    ]
    return " ".join([*first, *(f"{word.capitalize()}: {names}." for word, names in found[1:])])


def caution(rows: Sequence[Mapping[str, Any]]) -> str:
    """How sure that is; empty if no map is judged."""
    judged = [row for row in rows if row["verdict"] and row["verdict"] != NOT_JUDGED]
    if not judged:
        return ""
    # Bonferroni's inequality: the maps are judged on the same images
    chance = min(1, (1 - LEVEL) * len(judged))
    return (
        f"Judged on {judged[0]['n']} test images, each map by its own 95 % interval. The chance that at least one of "
        f"these {len(judged)} intervals is wrong is at most {100 * chance:.0f} %."
    )


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Both sentences."""
    return f"{in_words(rows)} {caution(rows)}".rstrip()
