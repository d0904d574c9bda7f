"""The device, its threads, its precision, and determinism. torch is imported when it is needed."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vit_finetune.core.errors import UserError

if TYPE_CHECKING:
    import torch

# of what runs beside a stage: a process that ends within them is not worth a slower wait
SAMPLES = 3


def share_cores() -> None:
    """Where other processes are running, let waiting threads sleep. To be called before torch is
    imported.

    OpenMP's threads spin while they wait for each other. On free cores that is fastest; where one
    of them is taken, all spin for the one that is not running, and a stage takes three times as
    long. The results are the same bits.
    """
    if "OMP_WAIT_POLICY" not in os.environ and all(_others_running() for _ in range(SAMPLES)):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _others_running() -> bool:
    """Whether another thread than this one is running or ready to run, on any core (Linux;
    elsewhere not known)."""
    time.sleep(0.005)
    try:
        runnable = Path("/proc/loadavg").read_text(encoding="ascii").split()[3]
    except OSError:
        return False
    return int(runnable.partition("/")[0]) > 1


def set_up_torch(
    device: str,
    threads: int | None,
    local_rank: int = 0,
    local_size: int = 1,
    key: str = "runtime.device",
) -> "torch.device":
    """Fix the number of threads, ask for deterministic algorithms, and resolve the device
    (UserError).

    Of several processes on a machine, each gets its share of the threads, and a GPU of its own.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS
    import torch

    if threads is not None or local_size > 1:
        torch.set_num_threads(max(1, (threads or torch.get_num_threads()) // local_size))
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that fills every new tensor
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, there in present.items() if there)
    if not present[device]:
        there = ", ".join(name for name, is_there in present.items() if is_there)
        raise UserError(f"{key} is {device}, which this machine does not have; it has: {there}")
    if device != "cuda" or local_size == 1:
        return torch.device(device)
    if torch.cuda.device_count() < local_size:
        raise UserError(
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
            "cpu": lambda: (
                torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            ),
            "cuda": lambda: torch.cuda.get_device_capability() >= (8, 0),
            "mps": lambda: False,
        }
        precision = "bfloat16" if units[device.type]() else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
