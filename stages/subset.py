"""subset: data/raw, data/corrections.csv -> data/subset (images, labels, files, groups, indices of
train, val and test), problems, class counts"""

from collections.abc import Sequence

from vit_finetune.core.arrays import read_split
from vit_finetune.core.files import new_folder, write_bytes, write_csv, write_json
from vit_finetune.data.checks import COLUMNS, find_problems, in_words
from vit_finetune.data.corrections import CORRECTIONS, Correction, read_corrections
from vit_finetune.data.dataset import RAW, Dataset, balance_rows, class_counts
from vit_finetune.data.figures import sample_grid
from vit_finetune.data.split import (
    absent_classes,
    handle_leaks,
    require_images,
    train_val_test,
)
from vit_finetune.data.subset import Split, corrected_splits, subset_size, write_subset
from vit_finetune.stage import Stage
from vit_finetune.style import font_warnings, png

PROBLEMS = "plots/image_problems.csv"


def main(stage: Stage) -> None:
    raw = Dataset.read(RAW)
    corrections = corrections_for(stage, raw)

    problems = find_problems(raw)
    write_csv(PROBLEMS, (problem.row() for problem in problems), COLUMNS)
    for line in in_words(problems, PROBLEMS):
        stage.say(line)

    splits = draw_splits(stage, raw, corrections)
    with new_folder("data/subset") as folder:
        stage.require_disk(folder, subset_size(raw, splits))
        write_subset(folder, raw, splits)

    counts = class_counts({name: split.labels for name, split in splits.items()}, raw.classes)
    numbers = {
        "images": {name: len(split.indices) for name, split in splits.items()},
        "problems": len(problems),
    }
    corrected = [
        f"{name}: {split.corrections}" for name, split in splits.items() if split.corrections
    ]
    if corrected:
        numbers["corrected"] = "; ".join(corrected)
    warnings = absent_in_words(splits, raw.classes)
    for warning in warnings:
        stage.warn(warning)
    if warnings:
        numbers["warning"] = "; ".join(warnings)
    write_json("metrics/subset.json", numbers)
    write_csv("plots/class_balance.csv", balance_rows(counts))
    (train_images,) = read_split("data/subset", "train", "images")
    samples = sample_grid(train_images, splits["train"].labels, raw.classes)
    write_bytes("plots/samples.png", png(samples))
    stage.record_versions()
    for warning in font_warnings([samples]):
        stage.warn(warning)


def corrections_for(stage: Stage, raw: Dataset) -> list[Correction]:
    corrections = read_corrections(CORRECTIONS, raw.name, raw.classes, raw.file_names())
    if corrections.of_others:
        stage.say(
            f"{corrections.of_others} rows of {CORRECTIONS} are for other data sets than "
            f"{raw.name}: ignored"
        )
    return corrections.rows


def draw_splits(stage: Stage, raw: Dataset, corrections: list[Correction]) -> dict[str, Split]:
    """Drawn with the labels as they came, then corrected."""
    settings = stage.params.subset
    seed = stage.params.seed
    drawn = train_val_test(
        raw.labels,
        train_size=settings.train_size,
        val_size=settings.val_size,
        test_size=settings.test_size,
        seed=seed,
        groups=raw.groups,
    )
    keys = [raw.same, raw.groups]
    chosen, sentence = handle_leaks(settings.leaks, drawn, raw.labels, keys, seed)
    if sentence:
        stage.say(sentence)
    splits = corrected_splits(raw, chosen, corrections)
    for name, split in splits.items():
        if split.corrections:
            stage.say(f"{name}: {split.corrections} ({CORRECTIONS})")
    require_images({name: split.labels for name, split in splits.items()}, raw.classes)
    return splits


def absent_in_words(splits: dict[str, Split], classes: Sequence[str]) -> list[str]:
    """A warning for each part that lacks classes."""
    warnings = []
    for name in ("val", "test"):
        absent = absent_classes(splits[name].labels, classes)
        if absent:
            warnings.append(f"{name} has no image of {', '.join(absent)}")
    return warnings
