"""How many processors a process may use, and how many threads it computes with.

The libraries that compute read OMP_NUM_THREADS when they are imported, and child processes inherit
it. So the limit of a stage is kept there, and everything that starts threads asks
`available_threads`. What draws charts (vl-convert) reads a variable of its own for one of its
pools; the other, of the JavaScript engine V8, has no setting.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

THREADS_VARIABLE = "OMP_NUM_THREADS"
CHARTS_VARIABLE = "TOKIO_WORKER_THREADS"  # of vl-convert, which is written in Rust


def available_threads() -> int:
    """Threads to compute with: as many as OMP_NUM_THREADS says; without it, one for each
    processor."""
    return thread_limit() or processors()


def thread_limit() -> int | None:
    """The value of OMP_NUM_THREADS; None where it is not set or no number."""
    first = os.environ.get(THREADS_VARIABLE, "").partition(",")[0]  # the outermost of nested ones
    return int(first) if first.isdecimal() and int(first) > 0 else None


def limit_threads(total: int | None, processes: int = 1) -> None:
    """Limit the threads of this process and its children. To be called before numpy and torch are
    imported.

    Without a limit the libraries choose by themselves, which may be fewer: MKL takes one thread
    for each core, however many processors a core has.

    Args:
        total: threads of all processes together; None: as many as are available.
        processes: of which each gets an equal number of the threads.
    """
    threads = max(1, (total or available_threads()) // processes)
    if total or threads < _bound_to():
        os.environ[THREADS_VARIABLE] = str(threads)
        os.environ[CHARTS_VARIABLE] = str(threads)


def processors() -> int:
    """Processors that this process may use: those that it is bound to, and no more than the quota
    of its control groups, rounded up (a container's `--cpus`)."""
    count = _bound_to()
    for quota in _quotas():
        count = min(count, math.ceil(quota))
    return max(1, count)


def _bound_to() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(proc: Path = Path("/proc/self")) -> Iterator[float]:
    """Processors' worth of time that each control group of this process is limited to, if it is
    (Linux: man 7 cgroups, versions 1 and 2)."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            words = mount.split()
            root, place = words[3:5]
            kind = words[words.index("-") + 1]
            options = words[-1].split(",")
            if kind == "cgroup2" if not controllers else kind == "cgroup" and "cpu" in options:
                yield from _quotas_from(Path(place), path.removeprefix(root.rstrip("/")))


def _quotas_from(mount: Path, path: str) -> Iterator[float]:
    """The limits of a group and of those above it."""
    group = mount / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(mount):
            break
        with suppress(OSError, ValueError):  # the root has none; "max" and -1 are no limit
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)
        with suppress(OSError):
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
            if int(quota) > 0:
                yield int(quota) / int(period)
