"""The headline numbers of a run, in words and as rows of a table."""

from typing import Any


def headline(metrics: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Name and value of each headline number, from {"train": metrics/train.json, ...}."""
    train, test, attention = (metrics[name] for name in ("train", "evaluation", "attention"))
    low, high = test["accuracy_ci95"]
    return [
        ("test accuracy", f"{test['accuracy']:.4f}  [{low:.4f}, {high:.4f}], n = {test['n']:,}"),
        ("macro F1", f"{test['macro_f1']:.4f}"),
        ("negative log-likelihood", f"{test['nll']:.4f}"),
        ("calibration error", f"{test['ece']:.4f}"),
        ("adapted parameters", f"{train['parameters_adapted']:,}, then frozen"),
        ("trained parameters", f"{train['parameters_trained']:,}"),
        ("best epoch", f"{train['best_epoch']}; {train['epochs']} epochs done"),
        ("validation accuracy", f"{train['val_accuracy']:.4f}; probe, before training: {train['probe_accuracy']:.4f}"),
        ("attention self-check", f"largest relative error {attention['selfcheck_max_rel_err']:.1e}, every block"),
    ]


def warnings_of(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """Signs that the run did not work, as its stages found them."""
    return [metrics[stage]["warning"] for stage in ("train", "evaluation") if "warning" in metrics[stage]]


def interval(value: dict[str, Any], sign: str = "") -> str:
    """0.12 [0.05, 0.19]"""
    low, high = value["ci95"]
    return f"{value['mean']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def maps_judged(attention: dict[str, Any]) -> list[list[str]]:
    """Rows of a table, the first its header: what each map is worth, from metrics/attention.json."""
    faithful, sanity = attention["faithfulness"], attention["sanity_correlation"]["head_shuffled"]
    shuffled = f"head shuffled (n = {min(value['n'] for value in sanity.values())})"
    rows = [[f"map (n = {attention['images']})", "minus random", "minus centre prior", "mosaic quadrant", shuffled]]
    for name, margin in faithful["minus_centre_prior"].items():
        over = interval(faithful["minus_random"][name], "+"), interval(margin, "+")
        rows.append([name, *over, interval(attention["mosaic_share"][name]), interval(sanity[name])])
    return rows


def table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
