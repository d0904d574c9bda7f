"""DVC runs experiments in copies of the project, which hold only what git or DVC tracks."""

import os
from pathlib import Path

from vit_finetune.core.errors import UserError

COPIES = (".dvc", "tmp", "exps")  # where DVC makes them, below the project


def origin(folder: Path) -> Path | None:
    """The project that DVC copied to `folder`, or None if `folder` is no copy of DVC's."""
    parts = folder.parts
    for start in reversed(range(len(parts))):
        if parts[start : start + len(COPIES)] == COPIES:
            return Path(*parts[:start])
    return None


def require_whole(name: str, otherwise: str = "") -> None:
    """UserError if this is a copy in which files below the folder `name` are missing that the
    project has.

    Every stage asks this: DVC skips the stage that reads the folder if an earlier run read the
    same incomplete one.
    """
    here = Path.cwd()
    project = origin(here)
    if project is None or Path(name).is_absolute():
        return
    missing = sorted(files_below(project / name) - files_below(here / name))
    if missing:
        raise not_in_copies(name, missing, otherwise)


def files_below(folder: Path) -> set[str]:
    """Files below a folder by their path in it, without hidden ones and DVC's own."""
    files = set()
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(root).relative_to(folder)
        for name in names:
            if not name.startswith(".") and not name.endswith(".dvc"):
                files.add((below / name).as_posix())
    return files


def not_in_copies(name: str, missing: list[str], otherwise: str) -> UserError:
    """The error where files below the folder `name` are missing in a copy; `otherwise` is another
    way out than to track the folder."""
    return UserError(
        f"{len(missing)} files of {name} are not in the copy that DVC makes for such a run, such "
        f"as {missing[0]}: it copies what is tracked; dvc add the folder they are in and git "
        f"add the .dvc file that this writes{otherwise}"
    )
