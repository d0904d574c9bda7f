"""Several processes of one stage: which part each one computes, and how they exchange results.

A stage starts its own (`runtime.processes`), or a launcher does: torchrun, or whatever sets the
same variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT). One
process alone opens no process group.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vit_finetune.core.errors import UserError
from vit_finetune.core.process import RANKS_VARIABLE

S = TypeVar("S", bound=Sequence[object])

# where processes on one machine find each other; no port that another could take
MEETING = Path(".run/ranks")
# a process that ends closes its connections, which the others see at once
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """This process among `size`, of which `local_size` share the machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def own(self, items: S) -> S:
        """This process's contiguous share of what all share."""
        start, stop = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return items[start:stop]  # type: ignore[return-value]

    def gather(self, part: Tensor) -> Tensor:
        """The parts (n, ...) of all processes in their order, on each; n may differ."""
        if self.size == 1:
            return part
        counts = [torch.zeros(1, dtype=torch.long, device=part.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(part)], device=part.device))
        longest = max(int(count) for count in counts)
        padded = part.new_zeros(longest, *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([whole[: int(count)] for whole, count in zip(parts, counts, strict=True)])

    def share(self, *tensors: Tensor) -> None:
        """Give every process the first one's values."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def side_by_side(processes: int) -> Iterator[Ranks]:
    """The processes of this stage; the block runs in each of them, and ends in all when one fails.

    Args:
        processes: how many to run here, unless a launcher has set RANK.

    Raises:
        UserError: another process ended before its work was done.
    """
    launched = "RANK" in os.environ
    if not launched and processes == 1:
        yield Ranks()
        return
    children = [] if launched else _start(processes)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(children, done), daemon=True)
    watcher.start()
    given = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    ranks = Ranks(*(int(os.environ.get(name, default)) for name, default in given.items()))
    try:
        meeting = os.environ.get(RANKS_VARIABLE)  # a file, since a URL could not hold every path
        store = dist.FileStore(meeting, ranks.size) if meeting else None
        dist.init_process_group(
            store=store, rank=ranks.rank, world_size=ranks.size, timeout=PATIENCE
        )
        yield ranks
        ranks.wait()
    except Exception as error:
        watcher.join(2)  # which ends this process if another's end was the cause
        if isinstance(error, RuntimeError) and ("onnection" in str(error) or "NCCL" in str(error)):
            raise UserError(
                "another process of this stage ended; its own output says why"
            ) from None
        raise
    finally:
        done.set()
        for child in children:
            child.terminate()
    dist.destroy_process_group()


def _start(processes: int) -> list[subprocess.Popen[bytes]]:
    """Make this process the first of several, and start the others with the same command."""
    MEETING.parent.mkdir(exist_ok=True)
    MEETING.unlink(missing_ok=True)  # what an earlier run left
    os.environ |= {
        RANKS_VARIABLE: str(MEETING.resolve()),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    return [
        subprocess.Popen(
            sys.orig_argv, env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(1, processes)
    ]


def _watch(children: Sequence[subprocess.Popen[bytes]], done: threading.Event) -> None:
    """End this process, and the others, when one of them has ended with an error."""
    while not done.wait(0.2):
        for rank, child in enumerate(children, start=1):
            status = child.poll()
            if status and status != -signal.SIGINT and not done.is_set():
                how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
                print(
                    f"process {rank} of this stage ended ({how}), so all end; run it again to go on",
                    file=sys.stderr,
                )
                for other in children:
                    other.kill()
                sys.stderr.flush()
                os._exit(1)  # at once: this process may be waiting for the one that is gone
