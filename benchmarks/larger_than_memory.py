"""`python benchmarks/larger_than_memory.py`: seconds an epoch of `train` with memory for a quarter
of its activations.

Needs a finished run (data/embedded, models/adapted), and root on a Linux whose memory cgroup
(version 1) can be written. The first run is not limited. The second has what the first took for
itself (RssAnon) and a quarter of the files of training activations. Both start with none of the
files in memory.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from vit_finetune.core.files import write_json
from vit_finetune.params import read_yaml

ROOT = Path(__file__).resolve().parents[1]
GROUP = Path("/sys/fs/cgroup/memory/larger_than_memory")
FILES = sorted((ROOT / "data/embedded").glob("train*.bin"))


def project(folder: Path) -> None:
    """The finished run's inputs of `train`, for two epochs."""
    for name in ("data/embedded", "data/subset", "models/adapted"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    params = read_yaml(ROOT / "params.yaml")
    params["train"] |= {"epochs": 2, "min_steps": 0}
    write_json(folder / "params.yaml", params)  # JSON is YAML


def forget_files() -> None:
    for path in FILES:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(limit: int | None) -> tuple[list[float], int]:
    """Seconds of each epoch, and the peak of anonymous memory in bytes."""

    def enter() -> None:
        if limit is not None:
            (GROUP / "memory.limit_in_bytes").write_text(str(limit))
            (GROUP / "cgroup.procs").write_text(str(os.getpid()))

    forget_files()
    times = []
    peak = 0
    with tempfile.TemporaryDirectory() as scratch:
        project(Path(scratch))
        with subprocess.Popen(
            [sys.executable, "-m", "stages", "train"],
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/src"},
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=enter,
        ) as process:

            def watch() -> None:
                nonlocal peak
                while process.poll() is None:
                    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                    for line in status:
                        if line.startswith("RssAnon"):
                            peak = max(peak, 1024 * int(line.split()[1]))
                    time.sleep(0.05)

            threading.Thread(target=watch, daemon=True).start()
            assert process.stdout is not None
            for line in process.stdout:
                if "epoch" in line:
                    times.append(time.monotonic())
        if process.returncode:
            raise SystemExit(process.returncode)
    return [after - before for before, after in itertools.pairwise(times)], peak


def in_words(seconds: list[float]) -> str:
    return ", ".join(f"{epoch:.1f}" for epoch in seconds) + " s an epoch"


def main() -> None:
    GROUP.mkdir(exist_ok=True)
    try:
        seconds, peak = run(None)
        size = sum(path.stat().st_size for path in FILES)
        print(f"activations {size / 1e6:.0f} MB, unlimited: {in_words(seconds)}")
        seconds, _ = run(peak + size // 4)
        print(f"memory for a quarter of them: {in_words(seconds)}")
    finally:
        GROUP.rmdir()


if __name__ == "__main__":
    main()
