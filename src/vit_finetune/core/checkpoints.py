"""Where a stage keeps work that an interrupted run need not repeat."""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

from vit_finetune.core.hashes import key_of
from vit_finetune.core.versions import library_versions

CHECKPOINTS = Path(".checkpoints")  # outside DVC's outputs, which it deletes before a stage runs
PROJECT_PACKAGES = ("vit_finetune", "stages")


def checkpoint_folder(stage: str, *inputs: Any) -> Path:
    """The folder of a stage's checkpoints, of these inputs, this code and these libraries alone.

    Work that other code began must not be taken up: its outputs would be neither the old ones nor
    the new ones, and dvc.lock would vouch for them. The code is that of all project modules that
    this process has imported.

    Args:
        inputs: plain values that stand for everything the work depends on: parameters, digests of
            the data.
    """
    return CHECKPOINTS / stage / key_of(*inputs, imported_code(), library_versions())


def forget_checkpoints(stage: str) -> None:
    """Remove all checkpoints of a stage, also those of other inputs: they are large."""
    shutil.rmtree(CHECKPOINTS / stage, ignore_errors=True)


def imported_code() -> dict[str, str]:
    """SHA-256 of the source of each project module that is imported, by its name."""
    hashes = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)  # a folder without __init__.py has none
        if file and name.split(".")[0] in PROJECT_PACKAGES:
            hashes[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return hashes
