"""The processes of one stage: which part of the work each does, and how they exchange results.

A stage starts its processes itself (`runtime.processes`), or a launcher does: torchrun, or whatever
sets the same variables. torch is imported when it is needed.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vit_finetune.core.errors import UserError
from vit_finetune.core.process import end_with_parent

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S", bound=Sequence[object])

# a process that ends closes its connections, which the others see at once
TIMEOUT = timedelta(days=1)
GRACE = 2.0  # seconds in which a process is ended from outside when another one has failed
SILENCE = 30.0  # seconds of waiting for the others before a line says so

# what a launcher sets
OF_A_PROCESS = ("RANK", "WORLD_SIZE")
OF_A_MACHINE = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")  # needed where a machine has several processes
MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """This process among the `world_size` processes of a stage, of which `local_world_size` are on
    this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def select(self, items: S) -> S:
        """This process's contiguous part of items that all processes know."""
        start = len(items) * self.rank // self.world_size
        stop = len(items) * (self.rank + 1) // self.world_size
        return items[start:stop]  # type: ignore[return-value]

    def all_gather(self, part: "Tensor") -> "Tensor":
        """The parts (n, ...) of all processes, in the order of their ranks; n may differ."""
        if self.world_size == 1:
            return part
        import torch
        import torch.distributed as dist

        lengths = [
            torch.zeros(1, dtype=torch.long, device=part.device) for _ in range(self.world_size)
        ]
        dist.all_gather(lengths, torch.tensor([len(part)], device=part.device))
        longest = max(int(length) for length in lengths)
        padded = part.new_zeros(longest, *part.shape[1:])
        padded[: len(part)] = part
        gathered = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(gathered, padded)
        parts = [whole[: int(length)] for whole, length in zip(gathered, lengths, strict=True)]
        return torch.cat(parts)

    def broadcast(self, *tensors: "Tensor") -> None:
        """Give every process the first one's values, in place."""
        if self.world_size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size == 1:
            return
        import torch.distributed as dist

        dist.barrier()


ALONE = Ranks()


def ranks_of_launcher() -> Ranks | None:
    """What torchrun, or another launcher, has set for this process; None if none started it.

    Raises:
        UserError: the variables are those of no launcher: some are missing, or they contradict
            each other.
    """
    found = [name for name in (*OF_A_PROCESS, *OF_A_MACHINE) if name in os.environ]
    if not found:
        return None
    needed = [*OF_A_PROCESS, *MEETING_POINT]
    if any(name in OF_A_MACHINE for name in found):
        needed += OF_A_MACHINE
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise UserError(
            f"{', '.join(found)} in the environment would make this one of several processes, but "
            f"{', '.join(missing)} is not set; unset {' '.join(found)}, or set all of them"
        )
    ranks = Ranks(
        rank=_number("RANK", 0),
        world_size=_number("WORLD_SIZE", 1),
        local_rank=_number("LOCAL_RANK", 0),
        local_world_size=_number("LOCAL_WORLD_SIZE", 1),
    )
    in_world = ranks.rank < ranks.world_size
    on_machine = ranks.local_rank < ranks.local_world_size <= ranks.world_size
    if not in_world or not on_machine:
        values = ", ".join(f"{name} is {os.environ[name]}" for name in found)
        raise UserError(
            f"in the environment {values}: a rank is below the number of processes, of which a "
            f"machine has no more than there are; unset {' '.join(found)}, or correct them"
        )
    return ranks


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(f"{variable} is {text!r} in the environment, no whole number; unset it")
    return int(text)


@contextmanager
def process_group(ranks: Ranks, name: str, meeting: Path | None = None) -> Iterator[None]:
    """Connect this process with the others of the stage while the block runs.

    Args:
        name: of the stage, for what is said while the others are waited for.
        meeting: a file in which processes on one machine find each other. Without it they do at
            the launcher's MASTER_ADDR and MASTER_PORT.

    Raises:
        UserError: another process ended before its work was done.
    """
    import torch.distributed as dist

    store = None
    if meeting:
        place = str(meeting)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        store = dist.FileStore(str(meeting), ranks.world_size)
    else:
        address = ":".join(os.environ[variable] for variable in MEETING_POINT)
        place = f"{address} (MASTER_ADDR, MASTER_PORT)"
    try:
        with _saying_who_is_waited_for(ranks, name, place):
            dist.init_process_group(
                store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=TIMEOUT
            )
        yield
        ranks.barrier()
    except RuntimeError as error:
        if not re.search("[Cc]onnection|NCCL", str(error)):
            raise
        time.sleep(GRACE)  # who started this process knows how the other one ended
        raise UserError("another process of this stage ended; its own output says why") from None
    dist.destroy_process_group()


@contextmanager
def _saying_who_is_waited_for(ranks: Ranks, name: str, place: str) -> Iterator[None]:
    """A line on standard error if the block takes long."""
    others = ranks.world_size - 1
    message = (
        f"{name}: process {ranks.rank} of {ranks.world_size} (RANK, WORLD_SIZE) waits for "
        f"{others} more at {place}"
    )
    timer = threading.Timer(SILENCE, print, [message], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def run_processes(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(ranks, *arguments)` in new processes, and end all of them when one fails.

    Raises:
        SystemExit: with the line of the first process that exits with one, or with 1 for a bug,
            which has printed its traceback.
        UserError: a process was killed.
    """
    context = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
    messages, sender = context.Pipe(duplex=False)
    processes = []
    for rank in range(count):
        ranks = Ranks(rank, count, local_rank=rank, local_world_size=count)
        processes.append(context.Process(target=_run, args=(sender, function, ranks, arguments)))
    try:
        _start(processes)
        _wait(processes, messages)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


def _start(processes: Sequence[SpawnProcess]) -> None:
    # Ctrl-C goes to all processes of a terminal. The new ones inherit that they ignore it: this
    # one ends them.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for process in processes:
            process.start()
    finally:
        signal.signal(signal.SIGINT, handler)


def _wait(processes: Sequence[SpawnProcess], messages: Connection) -> None:
    """Until all have succeeded or one has failed."""
    running = True
    while running:
        time.sleep(0.1)
        running = any(process.is_alive() for process in processes)
        for rank, process in enumerate(processes):
            status = process.exitcode
            if status == 1:
                sys.exit(messages.recv() if messages.poll() else 1)
            if status:
                how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
                raise UserError(
                    f"process {rank} of this stage ended ({how}), so all end; run it again to go on"
                )


def _run(
    sender: Connection, function: Callable[..., None], ranks: Ranks, arguments: tuple[Any, ...]
) -> None:
    """In a new process. The parent prints the message, so that one in several processes is one."""
    end_with_parent()
    try:
        function(ranks, *arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            sender.send(end.code)
            sys.exit(1)
        raise
