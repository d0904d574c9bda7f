"""`vit-finetune keep NAME`: a copy of the trained model in pretrained/NAME, to start another run
from."""

import argparse
import re
import shutil
from pathlib import Path

from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import new_folder
from vit_finetune.model.saved import trained_config

PRETRAINED = Path("pretrained")  # the folder of weights that `adapt` depends on


def keep(folder: Path, name: str) -> str:
    """Copy the model of a folder to pretrained/NAME.

    Returns:
        How a run starts from it.

    Raises:
        UserError: no trained model, this is not the root of the project, or the name is taken.
    """
    classes = trained_config(folder)["label_names"]
    target = PRETRAINED / name
    if not PRETRAINED.is_dir():
        raise UserError(f"there is no folder {PRETRAINED} here; type it in the root of the project")
    if target.exists():
        raise UserError(f"{target} exists; choose another name, or delete that folder first")
    with new_folder(target) as copy:
        for file in sorted(folder.iterdir()):
            shutil.copyfile(file, copy / file.name)  # not its permissions: DVC's are read-only
    return (
        f"{target} has the model of {folder}, {len(classes)} classes. To start a run from it, set "
        f"model.name: local-dir:{target.as_posix()}\n"
        f"keep: adapt depends on {PRETRAINED}/, so the next dvc repro runs it again. For "
        f"experiments in copies: dvc add {target} && git add {target}.dvc"
    )


def folder_name(text: str) -> str:
    """A name for a folder in pretrained/."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name of letters, digits, - and _, such as birds-2"
        )
    return text


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vit-finetune keep", description=__doc__)
    parser.add_argument("name", type=folder_name, metavar="NAME", help="of the folder")
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("models/finetuned"),
        metavar="FOLDER",
        help="folder of the trained model (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    args = make_parser().parse_args()
    with readable_errors("keep"):
        print(f"keep: {keep(args.model, args.name)}")
