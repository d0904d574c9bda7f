"""The process of a stage: alone, never an orphan, errors in one line, the device, determinism, progress."""

import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import psutil
from tqdm import tqdm
from zc.lockfile import LockError, LockFile

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")

# What the stages raise on purpose, and what a machine does to them (no space, no memory, no network).
EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, MemoryError)
TRACEBACK_VARIABLE = "VIT_TRACEBACK"
QUIET_VARIABLE = "VIT_QUIET"

# Set by DVC for each stage, and by a stage for the processes that it starts beside itself.
DVC_VARIABLE, RANKS_VARIABLE = "DVC_STAGE", "VIT_RANKS"

LOCKS, LOCK_PATIENCE = Path(".run"), 10.0  # seconds: an orphan needs less than one to end itself
SHELLS = ("sh", "dash", "bash", "ash", "zsh", "ksh", "fish")


def run_stage(name: str, main: Callable[[], None], *, several: bool = False) -> NoReturn:
    """Run a stage: exit status 0 and the time it took, or 1 with what went wrong and no traceback.

    VIT_TRACEBACK=1 shows the traceback as well. Times are printed and never written to an output. Of processes that
    work side by side (RANK), the first alone speaks, but for errors; a stage that knows of one (`several` is false)
    runs in the first alone.
    """
    start, rank = time.monotonic(), int(os.environ.get("RANK", 0))
    if rank:
        if not several:
            sys.exit(0)
        name, os.environ[QUIET_VARIABLE] = f"{name}, process {rank}", "1"
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    try:
        with only_one(name):
            main()
    except KeyboardInterrupt:
        sys.exit(130 if rank else f"{name}: interrupted")
    except EXPECTED_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        sys.exit("\n".join(f"{name}: {line}" for line in in_words(error).splitlines()))
    print(f"{name}: {time.monotonic() - start:.1f} s")
    sys.exit(0)


def in_words(error: BaseException) -> str:
    """An error's message, or what torch means by its own."""
    text = str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return "out of memory; try a smaller batch_size"
    return text or type(error).__name__


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Hold the lock of a stage in this folder. A holder that goes on is an error (OSError) that names its process.

    The operating system drops a lock with the process that holds it, however that ends.
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
                raise OSError(f"{name} is running in this folder already (process {holder}); wait or end it") from None
            time.sleep(0.1)
    try:
        yield
    finally:
        lock.close()


def end_with_dvc() -> None:
    """From now on, end this process as soon as the DVC or stage process that started it is gone; else do nothing.

    Killing dvc alone leaves its stage running, and the next `dvc repro` would start a second one beside it. The
    operating system tells a child only of its parent's end, and a shell may stand between: hence the look around.
    """
    if DVC_VARIABLE not in os.environ and RANKS_VARIABLE not in os.environ:
        return
    starter = next((p for p in psutil.Process().parents() if p.name() not in SHELLS), None)
    adopted = starter is None or (starter.pid == 1 and not any("dvc" in word for word in starter.cmdline()))

    def watch() -> None:
        while starter and not adopted and starter.is_running() and starter.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
        with suppress(OSError):  # whoever read the output may be gone as well
            name = os.environ.get(DVC_VARIABLE, "stage")
            print(f"{name}: the process that started it is gone; ending", file=sys.stderr, flush=True)
        os._exit(1)  # at once, from a thread: what is half-written has a temporary name

    threading.Thread(target=watch, daemon=True).start()


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None) -> "tqdm[T]":
    """A progress bar with rate and remaining time; silent where output is no terminal or VIT_QUIET is set."""
    disable = True if os.environ.get(QUIET_VARIABLE) else None
    return tqdm(items, desc=label, unit=unit, total=total, disable=disable, dynamic_ncols=True)


def ordered_map(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`map` over threads, in order, with at most two items in flight for each thread."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def set_up_torch(device: str, threads: int | None, local_rank: int = 0, local_size: int = 1) -> "torch.device":
    """Fix the number of threads, ask for deterministic algorithms, and resolve the device (ValueError).

    Of several processes on a machine, each gets its share of the threads, and a GPU of its own.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS
    import torch

    if threads is not None or local_size > 1:
        torch.set_num_threads(max(1, (threads or torch.get_num_threads()) // local_size))
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that fills every new tensor
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in present.items() if there)
    if not present[device]:
        there = ", ".join(name for name, is_there in present.items() if is_there)
        raise ValueError(f"runtime.device is {device}, which this machine does not have; it has: {there}")
    if device != "cuda" or local_size == 1:
        return torch.device(device)
    if torch.cuda.device_count() < local_size:
        raise ValueError(
            f"{local_size} processes want a GPU each, and this machine has {torch.cuda.device_count()}; set "
            "runtime.processes to that"
        )
    torch.cuda.set_device(local_rank)
    return torch.device(device, local_rank)


def resolve_precision(precision: str, device: "torch.device") -> "torch.dtype":
    """`auto` -> bfloat16 where the hardware multiplies it faster than float32, else float32."""
    import torch

    if precision == "auto":
        units = {
            "cpu": lambda: torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
            "cuda": lambda: torch.cuda.get_device_capability() >= (8, 0),
            "mps": lambda: False,
        }
        precision = "bfloat16" if units[device.type]() else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
