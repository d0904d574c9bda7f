"""`vit-finetune summary`: the headline numbers of the run in the work tree, and where to look."""

import argparse
import json
import subprocess
import sys
from typing import Any

from vit_finetune.core.environment import complete_environment
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import read_json
from vit_finetune.params import read_params
from vit_finetune.report.headline import collect_warnings, headline, review_in_words, table

METRICS = ("subset", "train", "evaluation", "attention", "review")
WHERE = [
    ("metrics", "dvc metrics show"),
    ("report", "report.html"),
    ("attention", "attention/index.html"),
    ("images to look at", "review.html"),
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


def not_here(status: dict[str, Any]) -> list[str]:
    """Stages of which outputs are missing, from the same."""
    stages = []
    for stage, changes in status.items():
        for change in changes:
            outputs = change.get("changed outs", {}) if isinstance(change, dict) else {}
            if "deleted" in outputs.values():
                stages.append(stage)
    return stages


def read_status() -> dict[str, Any]:
    """The output of `dvc status`.

    Raises:
        UserError: DVC cannot tell, in its own words.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    status = subprocess.run(command, capture_output=True, text=True, check=False)
    if status.returncode:
        reason = status.stderr.strip().partition("\n")[0].removeprefix("ERROR: ")
        raise UserError(
            "the numbers in metrics/ are not shown, because DVC cannot tell which run they are of: "
            f"{reason}"
        )
    return json.loads(status.stdout)


def notes_on(status: dict[str, Any]) -> list[str]:
    """What to know before the numbers are read: whether they are of the files that are here."""
    notes = []
    if stages := outdated(status):
        notes.append(
            f"These numbers are of an earlier run: {', '.join(stages)} changed since. "
            "Run dvc repro."
        )
    if stages := not_here(status):
        notes.append(
            f"The outputs of {', '.join(stages)} are not here, as in a clone or after a failed "
            "run. Run dvc repro."
        )
    return notes


def summarise(metrics: dict[str, dict[str, Any]], where: list[tuple[str, str]]) -> str:
    """The headline numbers, warnings, and where to look, each in lines of its own.

    Args:
        metrics: {"train": metrics/train.json, ...}, for each of METRICS.
        where: rows of two columns.
    """
    lines = ["", table(headline(metrics))]
    lines += [f"warning: {warning}" for warning in collect_warnings(metrics)]
    lines += ["", table(where), "", review_in_words(metrics["review"])]
    return "\n".join(lines)


def main() -> None:
    read_params()  # DVC runs no stage, and so checks nothing, for a key that no stage has
    notes = notes_on(read_status())
    metrics = {name: read_json(f"metrics/{name}.json") for name in METRICS}
    for note in notes:
        print(note)
    print(summarise(metrics, WHERE))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="vit-finetune summary", description=__doc__).parse_args()
    with readable_errors("summary"):
        complete_environment()
        main()
