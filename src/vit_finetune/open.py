"""`vit-finetune open`: the pages of the newest run in a browser."""

import argparse
import webbrowser
from pathlib import Path

from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.profiles import PAGES, RUNS


def newest_run() -> Path:
    """The folder that holds the pages of the newest run: the project, or that of a profile.

    DVC links an output to its cache, and the link keeps the time at which the file was first
    written. The time of its last change (ctime) is when the name was put there.

    Raises:
        UserError: there is no page yet.
    """
    report = PAGES[0]
    found = [path for path in (Path(report), *RUNS.glob(f"*/{report}")) if path.exists()]
    if not found:
        raise UserError(
            f"there is no {report} yet; run make demo (a minute or two) or make repro (CIFAR-10), "
            "or in a clone of a finished run dvc pull"
        )
    return max(found, key=lambda path: path.lstat().st_ctime_ns).parent


def run() -> None:
    """Open the pages, and print where they are."""
    folder = newest_run()
    for page in PAGES:
        path = folder / page
        if not path.exists():
            print(f"open: {path} is missing; run dvc repro")
        elif webbrowser.open_new_tab(path.resolve().as_uri()):
            print(f"open: {path}")
        else:
            print(f"open: no browser was found; open {path} yourself")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="vit-finetune open", description=__doc__).parse_args()
    with readable_errors("open"):
        run()
