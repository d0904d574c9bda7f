"""DVC runs experiments in copies of the project, which hold only what git or DVC tracks."""

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

    Args:
        otherwise: another way out than to track the folder, for the message.
    """
    here = Path.cwd()
    project = origin(here)
    if project is None or Path(name).is_absolute():
        return
    missing = sorted(_files(project / name) - _files(here / name))
    if missing:
        raise UserError(
            f"{len(missing)} files of {name} are not in the copy that DVC made for this run, such "
            f"as {missing[0]}: it copies what is tracked; dvc add the folder they are in and git "
            f"add the .dvc file that this writes{otherwise}"
        )


def _files(folder: Path) -> set[str]:
    """Files below a folder by their path in it, without hidden ones and DVC's own."""
    files = set()
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and path.suffix != ".dvc" and not hidden:
            files.add(relative.as_posix())
    return files
