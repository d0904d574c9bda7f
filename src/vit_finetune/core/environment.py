"""What a command needs of its surroundings, completed where a container or a shell lacks it.

`python -m vit_finetune.core.environment COMMAND...` runs a command so; the Makefile does.
"""

import getpass
import os
import sys
from pathlib import Path

from vit_finetune.core.experiment_copies import origin

HOME = ".home"  # in the project, ignored by git: for downloads and settings of a user without one
DVC_FOLDER = Path("/var/tmp")  # where DVC keeps what it knows of files, outside of the project


def complete_environment() -> None:
    """Set the variables that are missing or name a folder that cannot be used; keep all others.

    - PATH begins with this interpreter's folder, so that `dvc` and `python` are this environment's.
    - HOME, for DVC's settings and the downloads: a user without a name has none, or `/`.
    - USER, which DVC asks for.
    - MPLCONFIGDIR, which matplotlib complains about in every stage.
    - TMPDIR and DVC_SITE_CACHE_DIR, where /tmp and /var/tmp cannot be written.
    """
    here = Path.cwd()
    spare = (origin(here) or here) / HOME
    own = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != own:
        os.environ["PATH"] = os.pathsep.join([own, os.environ.get("PATH", os.defpath)])
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  # which stays "~" for a user without one
    if not home.is_dir() or (home == Path("/") and not _is_writable(home)):
        _use(spare, "HOME")
        home = spare
    try:
        getpass.getuser()
    except (KeyError, OSError):  # Python 3.13 raises the latter
        os.environ["USER"] = str(os.getuid())
    if "MPLCONFIGDIR" not in os.environ and not _is_writable(home):
        _use(spare / "matplotlib", "MPLCONFIGDIR")
    if not _is_writable(Path(os.environ.get("TMPDIR") or "/tmp")):
        _use(spare / "tmp", "TMPDIR")
    if "DVC_SITE_CACHE_DIR" not in os.environ and not _is_writable(DVC_FOLDER):
        _use(spare / "dvc", "DVC_SITE_CACHE_DIR")


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _use(folder: Path, variable: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[variable] = str(folder)


if __name__ == "__main__":
    complete_environment()
    os.execvp(sys.argv[1], sys.argv[1:])
