"""`python -m vit_finetune.summary`: the headline numbers of the run in the work tree, and where to look."""

from typing import Any

from vit_finetune.files import read_json

WHERE = (
    ("metrics", "metrics/evaluation.json, metrics/train.json, metrics/attention.json"),
    ("attention", "attention/index.html"),
    ("plots", "dvc plots show"),
    ("what changed", "dvc params diff, dvc metrics diff, dvc plots diff"),
)


def headline(metrics: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Name and value of each headline number, from {"train": metrics/train.json, ...}."""
    train, test, attention = (metrics[name] for name in ("train", "evaluation", "attention"))
    low, high = test["accuracy_ci95"]
    total = train["parameters_trainable"] + train["parameters_frozen"]
    return [
        ("test accuracy", f"{test['accuracy']:.4f}  [{low:.4f}, {high:.4f}], n = {test['n']}"),
        ("macro F1", f"{test['macro_f1']:.4f}"),
        ("negative log-likelihood", f"{test['nll']:.4f}"),
        ("calibration error", f"{test['ece']:.4f}"),
        ("trained parameters", f"{train['parameters_trainable']:,} of {total:,}"),
        ("best epoch", f"{train['best_epoch']} of {train['epochs']}, validation accuracy {train['val_accuracy']:.4f}"),
        ("attention self-check", f"{attention['selfcheck_max_rel_err']:.1e} relative, all "
                                 f"{attention['blocks_total']} blocks"),
    ]  # fmt: skip


def table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


if __name__ == "__main__":
    found = {name: read_json(f"metrics/{name}.json") for name in ("train", "evaluation", "attention")}
    print("\n" + table(headline(found)) + "\n\n" + table(list(WHERE)))
