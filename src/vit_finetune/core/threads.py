"""Work in several threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")


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


@contextmanager
def parallel_map(
    device: "torch.device", items: int | None = None
) -> Iterator[Callable[..., Iterator[Any]]]:
    """Gives a `map` for computations on a device; the order of the results is that of the items.

    On a CPU each core takes an item of its own, on one thread: this is faster than all cores on one
    item, and no thread waits for another. Where there are more cores than items, each item gets
    several threads. On a GPU it is `map`. torch's modes (`no_grad`, `autocast`) belong to a thread:
    the function sets its own.

    Args:
        items: how many there are, if that is known.
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(threads, items or threads) if device.type == "cpu" else 1
    torch.set_num_threads(threads // workers)
    try:
        yield map if workers == 1 else partial(ordered_map, threads=workers)
    finally:
        torch.set_num_threads(threads)
