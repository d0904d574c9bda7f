"""Locks on files. The operating system releases them when their process ends, however that
happens."""

import errno
import fcntl
from pathlib import Path

from filelock import FileLock

from vit_finetune.core.errors import UserError

HELD = (errno.EWOULDBLOCK, errno.EAGAIN)


def file_lock(path: Path, way_on: str) -> FileLock:
    """The lock of a file, which is made if it is missing; it is not taken yet.

    Args:
        way_on: what a user can do where the file system has no locks, for the message.

    Raises:
        UserError: the file system has no locks.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in HELD:
                raise UserError(
                    f"{path} cannot be locked ({error.strerror}): its file system has no locks, "
                    f"which keep two runs apart; {way_on}"
                ) from None
    # a soft lock is a file that a killed process would leave behind
    return FileLock(path, fallback_to_soft=False)
