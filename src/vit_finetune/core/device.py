"""The device, its threads, its precision, and determinism. torch is imported when it is needed."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vit_finetune.core.errors import UserError
from vit_finetune.core.processors import processors, thread_limit
from vit_finetune.core.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

# of what runs beside a stage: a process that ends within them is not worth a slower wait
SAMPLES = 3
GPUS = ("cuda", "mps")


def choose_wait_policy() -> None:
    """Where other processes are running, let waiting threads sleep. To be called before torch is
    imported.

    OpenMP's threads spin while they wait for each other. On free cores that is fastest. Where one
    of the cores is taken, all spin for the thread that is not running, and a stage takes three
    times as long. The results are the same bits.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    if all(_others_are_running() for _ in range(SAMPLES)):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _others_are_running() -> bool:
    """Whether another thread than this one is running or ready to run, on any core (Linux;
    elsewhere not known)."""
    time.sleep(0.005)
    try:
        runnable = Path("/proc/loadavg").read_text(encoding="ascii").split()[3]
    except OSError:
        return False
    return int(runnable.partition("/")[0]) > 1


def set_up_torch(
    device: str, threads: int | None, ranks: Ranks = ALONE, key: str = "runtime.device"
) -> "torch.device":
    """Fix the number of threads, ask for deterministic algorithms, and resolve the device.

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: of this process; None: as many as OMP_NUM_THREADS says; without it, as torch
            takes, but no more than there are processors.
        ranks: of several processes on a machine, each gets a GPU of its own.
        key: what the device was set by, for the message.

    Raises:
        UserError: the machine does not have the device, or too few of them.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS
    import torch

    threads = threads or thread_limit() or min(torch.get_num_threads(), processors())
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that fills every new tensor
    name = _resolve_device(device, key)
    processes = ranks.local_world_size
    if name != "cuda" or processes == 1:
        return torch.device(name)
    if torch.cuda.device_count() < processes:
        raise UserError(
            f"{processes} processes want a GPU each, and this machine has "
            f"{torch.cuda.device_count()}; set runtime.processes to that"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device(name, ranks.local_rank)


def _resolve_device(device: str, key: str) -> str:
    """`auto` -> the first of cuda, mps, cpu that this machine has."""
    import torch

    available = []
    if torch.cuda.is_available():
        available.append("cuda")
    if torch.backends.mps.is_available():
        available.append("mps")
    available.append("cpu")
    if device == "auto":
        return available[0]
    if device not in available:
        raise UserError(
            f"{key} is {device}, which this machine does not have; it has: {', '.join(available)}"
        )
    return device


def resolve_precision(precision: str, device: "torch.device") -> "torch.dtype":
    """`auto` -> bfloat16 where the hardware multiplies it faster than float32, else float32."""
    import torch

    if precision == "auto":
        precision = "bfloat16" if _is_fast_in_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def resolve_shards(shards: int | Literal["auto"], device: str) -> int:
    """`auto` -> four parts of a batch on a CPU, whose cores compute one each; the whole batch on a
    GPU, which mostly waits for the next operation where parts are small.

    Args:
        device: its type; `auto` counts as a CPU.
    """
    if shards == "auto":
        return 1 if device in GPUS else 4
    return shards


def _is_fast_in_bfloat16(device: "torch.device") -> bool:
    import torch

    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if device.type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return False
