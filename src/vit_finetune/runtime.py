"""The process of a stage: errors in one line, the device, determinism, progress."""

import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")

# What the stages raise on purpose, and what a machine does to them (no space, no memory, no network).
EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, MemoryError)
TRACEBACK_VARIABLE = "VIT_TRACEBACK"
QUIET_VARIABLE = "VIT_QUIET"


def run_stage(name: str, main: Callable[[], None]) -> NoReturn:
    """Run a stage: exit status 0 and the time it took, or 1 with what went wrong and no traceback.

    VIT_TRACEBACK=1 shows the traceback as well. Times are printed and never written to an output.
    """
    start = time.monotonic()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted")
    except EXPECTED_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        reason = "out of memory" if isinstance(error, MemoryError) else str(error) or type(error).__name__
        sys.exit("\n".join(f"{name}: {line}" for line in reason.splitlines()))
    print(f"{name}: {time.monotonic() - start:.1f} s")
    sys.exit(0)


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


def set_up_torch(device: str, threads: int | None) -> "torch.device":
    """Fix the number of threads, ask for deterministic algorithms, and resolve the device (ValueError)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that fills every new tensor
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in present.items() if there)
    if not present[device]:
        there = ", ".join(name for name, is_there in present.items() if is_there)
        raise ValueError(f"runtime.device is {device}, which this machine does not have; it has: {there}")
    return torch.device(device)


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
