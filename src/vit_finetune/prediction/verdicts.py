"""What the run that trained a model found of its attention maps."""

from collections.abc import Mapping
from pathlib import Path

from vit_finetune.core.files import read_csv
from vit_finetune.verdict import WORDS


def read_verdicts(model: Path) -> dict[str, str]:
    """The verdict on each map, the best first, from plots/attention_maps.csv of the project in
    which the folder of the model, models/finetuned, lies; empty without that table."""
    table = model.resolve().parent.parent / "plots" / "attention_maps.csv"
    if model.name != "finetuned" or not table.is_file():
        return {}
    return {row["map"]: row["verdict"] for row in read_csv(table) if row["verdict"]}


def marked_methods(verdicts: Mapping[str, str]) -> list[str]:
    """Every map by its name: in the order of the verdicts, and those that are not better than a
    centred Gaussian with that word."""
    from vit_finetune.attention.maps import METHODS

    found = []
    names = [name for name in verdicts if name in METHODS]
    for name in [*names, *(other for other in METHODS if other not in names)]:
        word = verdicts.get(name, "")
        found.append(f"{name} ({word} than a centred Gaussian)" if word in WORDS[1:] else name)
    return found
