"""The process of a stage: one at a time, ended with its DVC, errors in plain words, progress
bars."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

import psutil
from tqdm import tqdm
from zc.lockfile import LockError, LockFile

from vit_finetune.core.errors import UserError, readable_errors

T = TypeVar("T")

QUIET_VARIABLE = "VIT_QUIET"

# Set by DVC for each stage, and by a stage for the processes that it starts beside itself.
DVC_VARIABLE, RANKS_VARIABLE = "DVC_STAGE", "VIT_RANKS"

LOCKS, LOCK_PATIENCE = Path(".run"), 10.0  # seconds: an orphan needs less than one to end itself
SHELLS = ("sh", "dash", "bash", "ash", "zsh", "ksh", "fish")


def run_stage(
    name: str, main: Callable[[], None], *, several: bool = False, smaller: str | None = None
) -> NoReturn:
    """Run a stage and exit: with 0 and the time it took, or with 1 and what went wrong.

    Errors are those of `readable_errors`. Times are printed and never written to an output.

    Args:
        several: whether the processes of a launcher (RANK) all take part; if not, the first one
            runs alone. Only the first prints, except for errors.
        smaller: the key of params.yaml to lower when memory runs out.
    """
    start, rank = time.monotonic(), int(os.environ.get("RANK", 0))
    if rank:
        if not several:
            sys.exit(0)
        name, os.environ[QUIET_VARIABLE] = f"{name}, process {rank}", "1"
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    try:
        with readable_errors(name, smaller), only_one(name):
            main()
    except KeyboardInterrupt:
        sys.exit(130 if rank else f"{name}: interrupted")
    print(f"{name}: {time.monotonic() - start:.1f} s")
    sys.exit(0)


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Hold the lock of a stage in this folder; UserError if another process keeps it.

    The operating system releases a lock when its process ends, however that happens.
    """
    LOCKS.mkdir(exist_ok=True)
    path, deadline = LOCKS / f"{name}.lock", time.monotonic() + LOCK_PATIENCE
    lock = None
    while lock is None:
        try:
            lock = LockFile(str(path))
        except LockError:
            if time.monotonic() > deadline:
                holder = path.read_text().strip() or "unknown"
                raise UserError(
                    f"{name} is running in this folder already (process {holder}); wait or end it"
                ) from None
            time.sleep(0.1)
    try:
        yield
    finally:
        lock.close()


def end_with_dvc() -> None:
    """End this process when the DVC or stage process that started it is gone. Without such a
    process, do nothing.

    If only dvc is killed, its stage goes on, and the next `dvc repro` would start a second one
    beside it. The operating system reports the end of the direct parent only, which may be a shell;
    so a thread watches the process above it.
    """
    if DVC_VARIABLE not in os.environ and RANKS_VARIABLE not in os.environ:
        return
    starter = next((p for p in psutil.Process().parents() if p.name() not in SHELLS), None)
    adopted = starter is None or (
        starter.pid == 1 and not any("dvc" in word for word in starter.cmdline())
    )

    def watch() -> None:
        while (
            starter
            and not adopted
            and starter.is_running()
            and starter.status() != psutil.STATUS_ZOMBIE
        ):
            time.sleep(0.5)
        with suppress(OSError):  # whoever read the output may be gone as well
            name = os.environ.get(DVC_VARIABLE, "stage")
            print(
                f"{name}: the process that started it is gone; ending", file=sys.stderr, flush=True
            )
        os._exit(1)  # at once, from a thread: what is half-written has a temporary name

    threading.Thread(target=watch, daemon=True).start()


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None) -> "tqdm[T]":
    """A progress bar with rate and remaining time; silent where output is no terminal or VIT_QUIET
    is set."""
    disable = True if os.environ.get(QUIET_VARIABLE) else None
    return tqdm(items, desc=label, unit=unit, total=total, disable=disable, dynamic_ncols=True)
