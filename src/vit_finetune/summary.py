"""`python -m vit_finetune.summary`: the headline numbers of the run in the work tree, and where to
look."""

import json
import subprocess
import sys
from typing import Any

from vit_finetune.core.errors import readable_errors
from vit_finetune.core.files import read_json
from vit_finetune.report.headline import collect_warnings, headline, table

WHERE = (
    ("metrics", "dvc metrics show"),
    ("report", "report.html"),
    ("attention", "attention/index.html"),
    ("plots", "dvc plots show"),
    ("what changed", "dvc params diff, dvc metrics diff, dvc plots diff"),
)


def outdated(status: dict[str, list[Any]]) -> list[str]:
    """Stages that have not run since something of theirs was changed, from what `dvc status --json`
    prints.

    Files that are missing do not count: a clone has the numbers of a run without its data.
    """

    def changed(found: Any) -> bool:
        values = found.values() if isinstance(found, dict) else [found]
        return any(
            changed(value) if isinstance(value, dict) else value in ("modified", "new")
            for value in values
        )

    return [stage for stage, found in status.items() if any(changed(one) for one in found)]


def read_status() -> dict[str, list[Any]]:
    """What DVC says of the stages; nothing where it cannot say anything, such as outside a
    repository."""
    run = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], capture_output=True, text=True
    )
    return json.loads(run.stdout) if run.returncode == 0 else {}


if __name__ == "__main__":
    with readable_errors("summary"):
        metrics = {
            name: read_json(f"metrics/{name}.json") for name in ("train", "evaluation", "attention")
        }
        signs = "".join(f"warning: {sign}\n" for sign in collect_warnings(metrics))
        if stages := outdated(read_status()):
            signs += f"warning: an earlier run has these numbers; {', '.join(stages)} changed since: dvc repro\n"
        print(f"\n{table(headline(metrics))}\n{signs}\n{table(list(WHERE))}")
