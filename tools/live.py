"""`python tools/live.py dvc repro`: run a command, and give DVCLive each epoch of `train` when it
ends.

What DVCLive is told to do, by its environment variables, it does: show a run in DVC Studio, for
one. It needs `pip install dvclive`, keeps its own files in dvclive/ and makes no experiment of its
own. Nothing of the pipeline depends on it. It ends as the command does.
"""

import subprocess
import sys
import time
from pathlib import Path

from dvclive import Live

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from vit_finetune.core.files import read_csv

HISTORY = Path("plots/history.csv")  # replaced whole after each epoch
SECONDS = 1.0  # between two looks


def log_epochs(live: Live, done: int) -> int:
    """Log the epochs that are new; returns how many are logged."""
    rows = read_csv(HISTORY) if HISTORY.is_file() else []
    for row in rows[done:]:
        live.step = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch":
                # train_loss -> train/loss: a plot for both
                live.log_metric(name.replace("_", "/", 1), float(value))
        live.make_summary()
    return max(done, len(rows))


def main(command: list[str]) -> int:
    if not command:
        sys.exit("say what to run: python tools/live.py dvc repro")
    started = time.time()
    done = 0
    process = subprocess.Popen(command)
    with Live(dvcyaml=None, save_dvc_exp=False) as live:
        while process.poll() is None:
            # not the history of the run before
            if HISTORY.is_file() and HISTORY.stat().st_mtime >= started:
                done = log_epochs(live, done)
            time.sleep(SECONDS)
        if process.returncode == 0:
            log_epochs(live, done)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
