"""Which attention maps are better than a centred Gaussian, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_finetune.intervals import LEVEL

WORDS = {"better": "Better than a centred Gaussian", "no better": "No better", "worse": "Worse"}
NOT_JUDGED = "not judged"


def word_for(low: float, high: float) -> str:
    """Of a map, from the 95 % interval of its score minus that of the centred Gaussian."""
    return "better" if low > 0 else "worse" if high < 0 else "no better"


def in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which maps are better, from the rows of plots/attention_maps.csv."""
    judged = [row for row in rows if row["verdict"]]
    if any(row["verdict"] == NOT_JUDGED for row in judged):
        return "The model is not clearly more accurate than its most frequent class, so no map of it is judged."
    groups = {text: [row["map"] for row in judged if row["verdict"] == word] for word, text in WORDS.items()}
    return " ".join(f"{text}: {', '.join(names)}." for text, names in groups.items() if names)


def caution(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often that would be wrong by chance; empty if no map is judged."""
    judged = [row for row in rows if row["verdict"] and row["verdict"] != NOT_JUDGED]
    if not judged:
        return ""
    chance = min(1, (1 - LEVEL) * len(judged))  # Bonferroni's inequality: the maps are judged on the same images
    return (
        f"Judged on {judged[0]['n']} images, each map by its own 95 % interval: if none of the {len(judged)} "
        f"differed from the Gaussian, at least one would seem to in at most {100 * chance:.0f} % of such runs."
    )


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Both sentences."""
    return f"{in_words(rows)} {caution(rows)}".rstrip()
