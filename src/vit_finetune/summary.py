"""`vit-finetune summary`: the headline numbers of the run in the work tree, and where to look."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from vit_finetune.core.errors import readable_errors
from vit_finetune.core.files import read_json
from vit_finetune.report.headline import collect_warnings, headline, table

METRICS = ("train", "evaluation", "attention")
WHERE = [
    ("metrics", "dvc metrics show"),
    ("report", "report.html"),
    ("attention", "attention/index.html"),
    ("plots", "dvc plots show"),
    ("mistakes, a page", "vit-finetune mistakes mistakes.html"),
    ("what changed", "dvc params diff, dvc metrics diff, dvc plots diff"),
    ("image by image", "vit-finetune compare HEAD"),
]


def outdated(status: dict[str, Any]) -> list[str]:
    """Stages that have not run since a file or parameter of theirs changed, from what `dvc status
    --json` prints.

    Missing files do not count: a clone has the numbers of a run without its data.
    """
    return [stage for stage, changes in status.items() if has_changed(changes)]


def has_changed(changes: Any) -> bool:
    """Whether anything is `modified` or `new` in nested lists and dictionaries of states."""
    if isinstance(changes, str):
        return changes in ("modified", "new")
    values = changes.values() if isinstance(changes, dict) else changes
    return any(has_changed(value) for value in values)


def read_status() -> dict[str, Any]:
    """The output of `dvc status`; nothing if it fails, as it does outside of a repository."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    status = subprocess.run(command, capture_output=True, text=True)
    return json.loads(status.stdout) if status.returncode == 0 else {}


def summarise(
    metrics: dict[str, dict[str, Any]], warnings: Sequence[str], where: list[tuple[str, str]]
) -> str:
    """The headline numbers, warnings, and where to look, each in lines of its own.

    Args:
        metrics: {"train": metrics/train.json, ...}, for each of METRICS.
        where: rows of two columns.
    """
    lines = ["", table(headline(metrics))]
    lines += [f"warning: {warning}" for warning in warnings]
    lines += ["", table(where)]
    return "\n".join(lines)


def main() -> None:
    metrics = {name: read_json(f"metrics/{name}.json") for name in METRICS}
    warnings = collect_warnings(metrics)
    stages = outdated(read_status())
    if stages:
        warnings.append(
            f"an earlier run has these numbers; {', '.join(stages)} changed since: dvc repro"
        )
    print(summarise(metrics, warnings, WHERE))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="vit-finetune summary", description=__doc__).parse_args()
    with readable_errors("summary"):
        main()
