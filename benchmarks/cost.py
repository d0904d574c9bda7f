"""What grows how: seconds and memory of embed and train against images, epochs, trained blocks and
image size.

    python benchmarks/cost.py           # every line that benchmarks/cost.csv lacks, then the plot
    python benchmarks/cost.py --plot    # docs/cost.png alone

One of the four numbers changes at a time, the others stay at those of BASE; one plain view, no
augmentation, start-up included. Memory is the most that a process held for itself (RssAnon of
Linux): pages of mapped activations are the file's, and the system takes them back when it needs
them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cold import ROOT, prepare
from matplotlib import pyplot as plt

from vit_finetune.core.files import read_csv, write_csv

TABLE = ROOT / "benchmarks/cost.csv"
PLOT = ROOT / "docs/cost.png"
BASE = {"images": "1000", "epochs": "4", "blocks": "2", "image_size": "224"}
VALUES = {
    "images": ("500", "1000", "2000", "4000", "8000"),
    "epochs": ("2", "4", "8", "16"),
    "blocks": ("1", "2", "4", "8", "all"),
    "image_size": ("112", "160", "224", "288"),
}
NAMES = {
    "images": "training images",
    "epochs": "epochs",
    "blocks": "trained blocks",
    "image_size": "image size",
}
LINES = list(
    dict.fromkeys(
        tuple((BASE | {name: value}).items()) for name, values in VALUES.items() for value in values
    )
)


def seconds_and_mib(stage):
    """Wall-clock seconds of a stage in a process of its own, and the peak of its anonymous
    memory."""
    start = time.perf_counter()
    peak = 0
    process = subprocess.Popen([sys.executable, "-m", "stages", stage], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.02)
    if process.returncode:
        sys.exit(process.returncode)
    return round(time.perf_counter() - start, 1), round(peak / 1024)


def measured(line):
    settings = {"val": 500, **line}
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), settings, {"model.image_size": line["image_size"]})
        seconds_and_mib("adapt")  # without adaptation: what loads the model
        embed = seconds_and_mib("embed")
        train = seconds_and_mib("train")
        stored = sum(path.stat().st_size for path in Path("data/embedded").glob("train*"))
        os.chdir(ROOT)
    names = ("embed_s", "embed_mib", "train_s", "train_mib", "stored_mib")
    return line | dict(zip(names, (*embed, *train, round(stored / 2**20)), strict=True))


def draw(rows):
    """Seconds above memory, a column for each number that changes."""
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.2), sharey="row", layout="constrained")
    for column, (name, values) in enumerate(VALUES.items()):
        lines = [
            next(row for row in rows if row.items() >= (BASE | {name: value}).items())
            for value in values
        ]
        for panel, unit in zip(axes[:, column], ("s", "mib"), strict=True):
            for stage, style in (("embed", "o-"), ("train", "s--")):
                panel.plot(
                    range(len(values)),
                    [float(row[f"{stage}_{unit}"]) for row in lines],
                    style,
                    label=stage,
                )
            panel.set_xticks(range(len(values)), values)
            panel.grid(alpha=0.3)
        axes[1, column].set_xlabel(NAMES[name])
    axes[0, 0].set_yscale("log", base=2)
    axes[0, 0].yaxis.set_major_formatter("{x:.0f}")
    axes[0, 0].set_ylabel("seconds, start-up included")
    axes[1, 0].set_ylabel("peak memory, MiB")
    axes[1, 0].set_ylim(bottom=0)
    axes[0, 0].legend()
    figure.suptitle(
        "One number changes, the others are: "
        + ", ".join(f"{NAMES[name]} {BASE[name]}" for name in BASE)
    )
    figure.savefig(PLOT, dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", action="store_true", help="no measurement")
    rows = read_csv(TABLE) if TABLE.is_file() else []
    for line in map(dict, [] if parser.parse_args().plot else LINES):
        if not any(row.items() >= line.items() for row in rows):
            rows.append(measured(line))
            write_csv(TABLE, rows)
            print(rows[-1], flush=True)
    draw(rows)


if __name__ == "__main__":
    main()
