"""`vit-finetune own_images FOLDER`: run the pipeline on a folder of images, as a DVC experiment in
the work tree.

The folder is set in params.yaml, as `dvc exp run -S` does, with sizes that fit it where params.yaml
has the shipped ones, and what a profile changes if one is named.
"""

import argparse
import subprocess
from pathlib import Path
from typing import Any

from vit_finetune.comparison.runs import flatten
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.data.folder_layout import Layout, read_layout
from vit_finetune.params import Params, check_params, read_yaml
from vit_finetune.profiles import merge, overrides, read_overlay, require_history

SIZES = ("train_size", "val_size", "test_size")


def changes(folder: str) -> dict[str, Any]:
    """The keys to set: {"data": {...}}. A folder in the project is named relative to it.

    Raises:
        UserError: there is no such folder.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(
            f"DATA is {folder!r}, which is not a folder; name the folder of your images"
        )
    path = path.resolve()
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return {"data": {"name": "folder", "folder": str(path)}}


def fitting_sizes(values: dict[str, Any]) -> dict[str, Any]:
    """`auto` for each size that is still the shipped one, which is for CIFAR-10: {"subset": {...}}.

    Args:
        values: of params.yaml.
    """
    shipped = Params().subset
    subset = values.get("subset")
    sizes = {}
    for key in SIZES:
        if isinstance(subset, dict) and subset.get(key) == getattr(shipped, key):
            sizes[key] = "auto"
    return {"subset": sizes}


def found(layout: Layout) -> str:
    """What is in the folder, in words."""
    counts = ", ".join(f"{len(files):,} {part}" for part, files in layout.files.items())
    return f"{len(layout.classes)} classes, images: {counts}"


def run(folder: str, profile: str | None = None) -> None:
    """Check the folder, say what is set, and run.

    Args:
        profile: its changes of params.yaml are made, too.

    Raises:
        UserError: the folder is no data set, there is no such profile, or the run failed.
    """
    values = read_yaml("params.yaml")
    of_folder = changes(folder)
    changed = merge(of_folder, fitting_sizes(values))
    if profile:
        overlay, _ = read_overlay(profile)
        changed = merge(merge(changed, overlay), of_folder)
    params = check_params(merge(values, changed))
    require_history()
    print(f"{params.data.folder}: {found(read_layout(params.data))}", flush=True)
    keys = flatten(changed)
    for key, value in keys.items():
        print(f"set in params.yaml: {key}: {value}", flush=True)
    command = ["dvc", "exp", "run"]
    for argument in overrides(keys):
        command += ["-S", argument]
    if subprocess.run(command, check=False).returncode:
        raise UserError("the run failed; DVC's and the stages' lines above say why")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vit-finetune own_images", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="with a folder of images for each class")
    parser.add_argument("--profile", metavar="NAME", help="profiles/NAME.yaml over params.yaml")
    return parser


if __name__ == "__main__":
    args = make_parser().parse_args()
    with readable_errors("own images"):
        run(args.folder, args.profile)
