"""The headline numbers of a run, in words and as rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_finetune.verdict import BARS

Metrics = Mapping[str, Mapping[str, Any]]  # {"train": metrics/train.json, ...}


def headline(metrics: Metrics) -> list[tuple[str, str]]:
    """Name and value of each headline number."""
    train = metrics["train"]
    test = metrics["evaluation"]
    low, high = test["accuracy_ci95"]
    error = metrics["attention"]["selfcheck_max_rel_err"]
    return [
        (
            "test accuracy, 95 % interval",
            f"{test['accuracy']:.4f}  [{low:.4f}, {high:.4f}], {test_images(test)}",
        ),
        ("macro F1", macro_f1(test)),
        ("negative log-likelihood", f"{test['nll']:.4f}"),
        ("calibration error", f"{test['ece']:.4f}"),
        ("validation accuracy", gain(train)),
        ("the model", outcome(train)),
        ("attention self-check", f"largest relative error {error:.1e}, every block"),
    ]


def test_images(test: Mapping[str, Any]) -> str:
    """How many there are, in how many groups, and how many of them were corrected."""
    words = f"n = {test['n']:,}"
    if "groups" in test:
        words += f" in {test['groups']:,} groups"
    if "corrected" in test:
        words += f", corrected by hand: {test['corrected']}"
    return words


def macro_f1(test: Mapping[str, Any]) -> str:
    score = f"{test['macro_f1']:.4f}"
    if "not_tested" in test:
        return f"{score}, of the classes with test images; without: {test['not_tested']}"
    return score


def start(train: Mapping[str, Any]) -> str:
    """The head that training starts from."""
    return "kept head" if "head" in train else "linear probe"


def gain(train: Mapping[str, Any]) -> str:
    """Accuracies on the validation images: of the start, and what each step made of it."""
    steps = [f"{train['pretrained_probe_accuracy']:.4f} {start(train)}"]
    if train["parameters_adapted"]:
        steps.append(f"{train['probe_accuracy']:.4f} adapted")
    if train["kept_epoch"]:
        steps.append(f"{train['val_accuracy']:.4f} trained")
    return " → ".join(steps)


def outcome(train: Mapping[str, Any]) -> str:
    """Which steps are part of the model."""
    parts = []
    if train["parameters_adapted"]:
        parts.append(f"{train['parameters_adapted']:,} parameters adapted, then frozen")
    trained = f"{train['parameters_trained']:,} parameters"
    if train["kept_epoch"]:
        parts.append(f"{trained} trained in {train['kept_epoch']} epochs")
    else:
        parts.append(f"a {start(train)} of {trained}")
        if not train["epochs"].endswith(" of 0"):  # of the head alone
            parts.append("training did not help")
    return "; ".join(parts)


def collect_warnings(metrics: Metrics) -> list[str]:
    """What the stages warn of: what makes the results doubtful."""
    stages = [metrics[name] for name in ("subset", "review", "train", "evaluation")]
    warnings = [stage["warning"] for stage in stages if "warning" in stage]
    if metrics["attention"].get("bars", {}).get("decides") == BARS:
        warnings.append("the bars of padded images decide more than the images do")
    return warnings


def review_in_words(review: Mapping[str, Any]) -> str:
    """What there is to correct, from metrics/review.json."""
    return (
        f"Probably wrong labels: {review['wrong_labels']:,}. "
        f"Near-copies of other images: {review['near_copies']:,}. "
        "review.html shows them and writes corrections."
    )


def interval(row: Mapping[str, Any], column: str, sign: str = "") -> str:
    """A number of a table with its interval: 0.12 [0.05, 0.19]; with the sign "+": +0.12 ..."""
    mean = float(row[column])
    low = float(row[f"{column}_low"])
    high = float(row[f"{column}_high"])
    return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def map_table(maps: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What each map is worth, from plots/attention_maps.csv; the first row is the header."""
    rows = [
        [
            f"map (n = {maps[0]['n']})",
            "score minus a random map's, should be above 0",
            "score minus the Gaussian's, should be above 0",
            "fraction on the right one of 4 joined images, 0.25 by chance",
            "fraction on the right one of 9 joined images, 0.11 by chance",
            "correlation with itself, classifier shuffled, should be far below 1",
            "against the Gaussian",
        ]
    ]
    for row in maps:
        if not row["verdict"]:
            continue
        rows.append(
            [
                row["map"],
                interval(row, "minus_random", "+"),
                interval(row, "minus_centre", "+"),
                interval(row, "mosaic_share"),
                interval(row, "mosaic_share_3x3"),
                interval(row, "head_shuffled"),
                row["verdict"],
            ]
        )
    return rows


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Text in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
