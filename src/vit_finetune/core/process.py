"""The process of a stage: one at a time in a folder, and ended with the process that started it."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import Timeout

from vit_finetune.core.errors import UserError
from vit_finetune.core.locks import file_lock

DVC_VARIABLE = "DVC_STAGE"  # set by DVC for each stage that it starts
RUN_FOLDER = Path(".run")  # of files that mean something only while stages run
LOCK_PATIENCE = 10.0  # seconds: an orphan needs less than one to end itself
WITHOUT_LOCKS = "clone the project to a local disk; DVC's cache may stay (dvc cache dir --local)"
SHELLS = ("sh", "dash", "bash", "ash", "zsh", "ksh", "fish")


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Hold the lock of a stage in this folder.

    Raises:
        UserError: another process holds it, or the file system has no locks.
    """
    RUN_FOLDER.mkdir(exist_ok=True)
    path = RUN_FOLDER / f"{name}.lock"
    lock = file_lock(path, WITHOUT_LOCKS)
    try:
        lock.acquire(timeout=LOCK_PATIENCE, poll_interval=0.1)
    except Timeout:
        holder = path.read_text().strip() or "unknown"
        raise UserError(
            f"{name} is running in this folder already (process {holder}); wait or end it"
        ) from None
    try:
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def end_with_dvc() -> None:
    """End this process when the DVC that started it is gone. Without DVC, do nothing.

    If only dvc is killed, its stage continues, and the next `dvc repro` would start a second one
    beside it. The operating system reports the end of the direct parent only, which may be a shell.
    So a thread watches the first process above it that is none.
    """
    if DVC_VARIABLE not in os.environ:
        return
    starter = _starter()

    def watch() -> None:
        while starter and _is_running(starter):
            time.sleep(0.5)
        name = os.environ[DVC_VARIABLE]
        message = f"{name}: the process that started it is gone; ending"
        with suppress(OSError):  # whoever read the output may be gone as well
            print(message, file=sys.stderr, flush=True)
        _end_at_once()

    threading.Thread(target=watch, daemon=True).start()


def end_with_parent() -> None:
    """End this process, which `multiprocessing` started, when its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        _end_at_once()

    threading.Thread(target=watch, daemon=True).start()


def _starter() -> psutil.Process | None:
    """The nearest process above this one that is no shell; None if it is gone already."""
    try:
        for process in psutil.Process().parents():
            if process.name() in SHELLS:
                continue
            # Process 1 adopts orphans. In a container it can be DVC itself.
            adopted = process.pid == 1 and not any("dvc" in word for word in process.cmdline())
            return None if adopted else process
    except psutil.NoSuchProcess:
        pass
    return None


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end_at_once() -> None:
    """From any thread. What is half-written has a temporary name."""
    os._exit(1)
