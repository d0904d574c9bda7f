"""`python -m tests.faults --times 50`: kill stages at random moments, and see what is lost.

Each time: one stage runs under `dvc repro`; at a random moment of its time a signal goes to the
stage, to dvc, or to their whole group; then the stage is run again, and has to end with every
output and dvc.lock as an undisturbed run left them.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import cycle, islice, product
from pathlib import Path

from tests.graph import STAGES
from tests.project import Project, save_tiny_model, stages_run

RWLOCK = ".dvc/tmp/rwlock"
RWLOCK_BROKEN = "Unable to read RWLock-file"
SIGNALS = ("SIGINT", "SIGTERM", "SIGKILL")
TARGETS = ("stage", "dvc", "group")
SHELLS = ("sh", "bash")


@dataclass
class Fault:
    stage: str
    signal: str
    target: str
    shell: str
    moment: float  # share of the time that dvc takes with this stage when nothing disturbs it


@dataclass
class Result:
    hit: str  # what the signal went to: without a stage yet, dvc; empty when all had ended
    # dvc was killed while it wrote this file of its own, which then had to be deleted
    rwlock: bool = False
    problems: list[str] = field(default_factory=list)


def plan(times: int, seed: int) -> list[Fault]:
    """So many faults: every stage in turn, and every signal with every target, at moments drawn
    from the seed."""
    rng = random.Random(seed)
    kinds = list(product(SIGNALS, TARGETS))
    rng.shuffle(kinds)
    return [
        Fault(stage, *kind, shell, round(rng.uniform(0.05, 0.95), 3))
        for stage, kind, shell in islice(
            zip(cycle(STAGES), cycle(kinds), cycle(SHELLS), strict=False), times
        )
    ]


def undisturbed(finished: Project, folder: Path, stages: Iterable[str]) -> dict[str, float]:
    """Seconds that dvc takes with each of these stages."""
    seconds = {}
    for stage in set(stages):
        project = finished.copy(folder / stage)
        start = time.monotonic()
        force(project, stage).communicate()
        seconds[stage] = time.monotonic() - start
        shutil.rmtree(project.folder)
    return seconds


def force(project: Project, stage: str, shell: str = "sh") -> subprocess.Popen[str]:
    """dvc, started on one stage that it has to run."""
    # else DVC would take the stage's outputs from there
    shutil.rmtree(project.folder / ".dvc/cache/runs")
    path = shutil.which(shell) or "/bin/sh"
    return project.start("dvc", "repro", "--force", "--single-item", stage, env={"SHELL": path})


def inject(finished: Project, folder: Path, fault: Fault, seconds: float) -> Result:
    """One fault in a copy of a finished project, and what was lost by it; `seconds` as
    `undisturbed` has them."""
    project = finished.copy(folder)
    dvc = force(project, fault.stage, fault.shell)
    try:
        dvc.wait(fault.moment * seconds)
    except subprocess.TimeoutExpired:
        number = getattr(signal, fault.signal)
        processes = project.processes(fault.stage) if fault.target == "stage" else []
        if fault.target == "group":
            os.killpg(dvc.pid, number)
        else:
            (processes[0] if processes else dvc).send_signal(number)
        result = Result(hit="group" if fault.target == "group" else "stage" if processes else "dvc")
    else:
        result = Result(hit="")
    # not for its stage, which may be an orphan now: its lock and its own end must be enough
    dvc.wait()
    # computed, not taken from DVC's cache
    again = ("dvc", "repro", "--force", "--single-item", fault.stage)
    second = project.run(*again)
    if RWLOCK_BROKEN in second.stderr and fault.signal == "SIGKILL":
        (project.folder / RWLOCK).unlink()
        result.rwlock = True
        second = project.run(*again)
    dvc.communicate()
    if second.returncode:
        result.problems.append(f"dvc repro failed: {second.stderr}")
        return result
    before = finished.outputs()
    after = project.outputs()
    result.problems += [f"{name} differs" for name in before if before[name] != after.get(name)]
    result.problems += [f"{path} was left" for path in project.folder.rglob("*.partial")]
    result.problems += [f"process {process.pid} still runs" for process in project.processes()]
    if again := stages_run(project.run("dvc", "repro").stdout):
        result.problems.append(f"{again} ran once more")
    shutil.rmtree(folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lost = 0
    emptied = 0
    hits = Counter()
    kinds = Counter()
    with tempfile.TemporaryDirectory() as place:
        finished = Project.create(Path(place) / "finished", save_tiny_model(Path(place) / "model"))
        finished.repro()
        faults = plan(args.times, args.seed)
        seconds = undisturbed(finished, Path(place), (fault.stage for fault in faults))
        for number, fault in enumerate(faults, start=1):
            result = inject(finished, Path(place) / str(number), fault, seconds[fault.stage])
            hits[fault.stage] += bool(result.hit)
            kinds[fault.signal, result.hit] += bool(result.hit)
            lost += bool(result.problems)
            emptied += result.rwlock
            outcome = "nothing lost" if result.hit else "had ended already"
            if result.problems:
                outcome = "; ".join(result.problems)
            if result.rwlock:
                outcome += f", after {RWLOCK} was deleted"
            target = result.hit or fault.target
            print(
                f"{number:3} {fault.stage:9} {fault.signal} to {target} at {fault.moment:4.0%}: "
                f"{outcome}",
                flush=True,
            )
    print(
        f"\n{args.times} faults, {sum(hits.values())} of them into running processes; "
        f"something lost: {lost}"
    )
    print(f"times that DVC left an empty {RWLOCK}, which was deleted: {emptied}")
    print("by stage: " + ", ".join(f"{stage} {hits[stage]}" for stage in STAGES))
    print(
        "by kind: "
        + ", ".join(f"{name} to {target} {n}" for (name, target), n in sorted(kinds.items()) if n)
    )


if __name__ == "__main__":
    main()
