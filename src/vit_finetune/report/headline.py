"""The headline numbers of a run, in words and as rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any


def headline(metrics: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Name and value of each headline number, from {"train": metrics/train.json, ...}."""
    train, test, attention = (metrics[name] for name in ("train", "evaluation", "attention"))
    low, high = test["accuracy_ci95"]
    return [
        (
            "test accuracy, 95 % interval",
            f"{test['accuracy']:.4f}  [{low:.4f}, {high:.4f}], n = {test['n']:,}",
        ),
        ("macro F1", f"{test['macro_f1']:.4f}"),
        ("negative log-likelihood", f"{test['nll']:.4f}"),
        ("calibration error", f"{test['ece']:.4f}"),
        ("adapted parameters", f"{train['parameters_adapted']:,}, then frozen"),
        ("trained parameters", f"{train['parameters_trained']:,}"),
        ("best epoch", f"{train['best_epoch']}; {train['epochs']} epochs done"),
        (
            "validation accuracy",
            f"{train['val_accuracy']:.4f}; probe, before training: {train['probe_accuracy']:.4f}",
        ),
        (
            "attention self-check",
            f"largest relative error {attention['selfcheck_max_rel_err']:.1e}, every block",
        ),
    ]


def warnings_of(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """Signs that the run did not work, as its stages found them."""
    return [
        metrics[stage]["warning"]
        for stage in ("train", "evaluation")
        if "warning" in metrics[stage]
    ]


def interval(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    """0.12 [0.05, 0.19]: a column of a table with those of its ends."""
    mean, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def maps_judged(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of a table, the first its header: what each map is worth, from
    plots/attention_maps.csv."""
    head = [
        "score minus a random map's, should be above 0",
        "score minus the Gaussian's, should be above 0",
    ]
    head += [
        "share in the quadrant of the class, 0.25 by chance",
        "correlation with itself, classifier shuffled, should be far below 1",
    ]
    table = [[f"map (n = {rows[0]['n']})", *head, "against the Gaussian"]]
    for row in (row for row in rows if row["verdict"]):
        numbers = [interval(row, "minus_random", "+"), interval(row, "minus_centre", "+")]
        numbers += [interval(row, "mosaic_share"), interval(row, "head_shuffled")]
        table.append([row["map"], *numbers, row["verdict"]])
    return table


def table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
