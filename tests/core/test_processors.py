"""How many processors may be used: as many as the process is bound to, and its quota allows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT
from vit_finetune.core import processors as module
from vit_finetune.core.processors import available_threads, limit_threads, processors, thread_limit

ONE = "/sys/fs/cgroup/cpu"
V1 = f"32 31 0:29 / {ONE} rw - cgroup cgroup rw,cpu,cpuacct"
V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes a machine of these control groups, to which 64 processors are bound."""

    def make(groups, mounts, limits):
        proc = tmp_path / "proc"
        proc.mkdir()
        (proc / "cgroup").write_text("\n".join(groups) + "\n")
        places = "\n".join(mounts).replace("/sys/", f"{tmp_path}/sys/")
        (proc / "mountinfo").write_text(places + "\n")
        for name, text in limits.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        quotas = module._quotas
        monkeypatch.setattr(module, "_quotas", lambda: quotas(proc))
        monkeypatch.setattr(module, "_bound_to", lambda: 64)

    return make


@pytest.mark.parametrize(
    ("groups", "mounts", "limits", "count"),
    [
        (["0::/"], [V2], {}, 64),  # the root, which has no file
        (["0::/"], [V2], {"/sys/fs/cgroup/cpu.max": "max 100000"}, 64),
        (["0::/"], [V2], {"/sys/fs/cgroup/cpu.max": "150000 100000"}, 2),  # docker --cpus 1.5
        (["0::/a/b"], [V2], {"/sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),  # of a group above
        (
            ["0::/a/b"],
            [V2],
            {
                "/sys/fs/cgroup/a/cpu.max": "300000 100000",
                "/sys/fs/cgroup/a/b/cpu.max": "max 100000",
            },
            3,
        ),
        (
            ["0::/a"],
            [V2],
            {"/sys/fs/cgroup/a/cpu.max": "10000 100000"},  # a tenth of a processor
            1,
        ),
        (
            ["4:cpuset:/x", "3:cpu,cpuacct:/job", "0::/x"],
            [V1],
            {f"{ONE}/job/cpu.cfs_quota_us": "400000", f"{ONE}/job/cpu.cfs_period_us": "100000"},
            4,
        ),
        (
            ["3:cpu,cpuacct:/job"],
            [V1],
            {f"{ONE}/job/cpu.cfs_quota_us": "-1", f"{ONE}/job/cpu.cfs_period_us": "100000"},
            64,
        ),
        (  # a container that sees only its own group, under the name outside
            ["3:cpu,cpuacct:/docker/1"],
            [V1.replace("0:29 / ", "0:29 /docker/1 ")],
            {f"{ONE}/cpu.cfs_quota_us": "200000", f"{ONE}/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            ["3:cpu,cpuacct:/docker/1/job"],
            [V1.replace("0:29 / ", "0:29 /docker/1 ")],
            {f"{ONE}/job/cpu.cfs_quota_us": "200000", f"{ONE}/job/cpu.cfs_period_us": "100000"},
            2,
        ),
    ],
)
def test_the_quota_of_a_control_group_or_of_one_above_it_bounds_the_processors(
    machine, groups, mounts, limits, count
):
    machine(groups, mounts, limits)
    assert processors() == count


COUNT = "from vit_finetune.core.processors import processors; print(processors())"


def count_in_a_process(before):
    """What another process counts, which `before` has prepared."""
    return subprocess.run(
        [sys.executable, "-c", COUNT],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be bound here")
def test_a_process_that_is_bound_to_one_processor_counts_one():
    one = {min(os.sched_getaffinity(0))}
    assert count_in_a_process(lambda: os.sched_setaffinity(0, one)) == "1\n"


def test_a_real_quota_of_one_processor_counts_one():
    group = Path(f"/sys/fs/cgroup/cpu/vit-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError:
        pytest.skip("this machine lets a user make no control group of version 1")
    try:
        enter = group / "cgroup.procs"
        assert count_in_a_process(lambda: enter.write_text(str(os.getpid()))) == "1\n"
    finally:
        group.rmdir()


def test_where_the_system_says_nothing_of_control_groups_there_is_no_quota(monkeypatch):
    quotas = module._quotas
    monkeypatch.setattr(module, "_quotas", lambda: quotas(Path("/nowhere")))
    monkeypatch.setattr(module, "_bound_to", lambda: 7)
    assert processors() == 7


@pytest.mark.parametrize(
    ("value", "limit"), [("3", 3), ("4,2", 4), ("", None), ("many", None), ("0", None)]
)
def test_the_limit_is_what_the_libraries_read(monkeypatch, value, limit):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setattr(module, "_bound_to", lambda: 5)
    monkeypatch.setattr(module, "_quotas", lambda: [])
    assert thread_limit() == limit
    assert available_threads() == (limit or 5)


@pytest.mark.parametrize(
    ("given", "quota", "asked", "limit"),
    [
        (None, 8, (None, 1), None),  # the libraries choose, by cores
        (None, 8, (3, 1), "3"),
        (None, 8, (16, 1), "16"),  # the user's word
        (None, 2, (None, 1), "2"),
        (None, 8, (None, 2), "4"),
        (None, 8, (3, 2), "1"),
        (None, 8, (1, 4), "1"),
        ("2", 8, (None, 1), "2"),
        ("2", 8, (None, 2), "1"),
        ("2", 8, (4, 1), "4"),  # runtime.threads is of this project
    ],
)
def test_the_threads_are_limited_where_the_libraries_would_start_more(
    monkeypatch, given, quota, asked, limit
):
    """On eight processors; asked for are threads, and processes that share them."""
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": given} if given else {})
    monkeypatch.setattr(module, "_bound_to", lambda: 8)
    monkeypatch.setattr(module, "_quotas", lambda: [quota])
    limit_threads(*asked)
    assert os.environ.get("OMP_NUM_THREADS") == limit
    assert os.environ.get("TOKIO_WORKER_THREADS") == limit


DRAW = """
import os
import sys
from pathlib import Path
from vit_finetune.core.processors import limit_threads
limit_threads(int(sys.argv[1]))
from vit_finetune.charts import render
render.png("class_balance", [{"split": "train", "class": "a", "images": 1}])
names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
print(sum(name.startswith("tokio") for name in names))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux lists threads here")
@pytest.mark.parametrize("threads", ["1", "3"])
def test_drawing_a_chart_starts_no_more_of_its_threads_than_the_limit(threads):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, threads],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == threads


def test_nobody_else_counts_processors_or_starts_a_pool_of_threads():
    """So that everything keeps to the limit."""
    counted = []
    pools = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        source = path.read_text()
        if re.search(r"cpu_count|sched_getaffinity", source):
            counted.append(path.name)
        if re.search(r"ThreadPool|ProcessPool|multiprocessing\.Pool|num_workers|n_jobs", source):
            pools.append(path.name)
    assert counted == ["processors.py"]
    assert pools == ["threads.py"]
