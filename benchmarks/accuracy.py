"""Accuracy against CPU seconds: epochs of adaptation, blocks trained from stored activations,
training images.

    python benchmarks/accuracy.py           # every line that benchmarks/accuracy.csv lacks
    python benchmarks/accuracy.py --plot    # docs/accuracy.png from the lines that are there

A line is a run of the pipeline's own stages with the settings of params.yaml, but for those that it
names. `adapt.min_steps` is 0, so that epochs are what they say; `all` has no adaptation, and the
layer decay of `adapt`. Every line is judged on the same 3,000 images of CIFAR-10's training part,
which no line trains on; 1,000 others decide whether its start is kept. The largest training set is
all that is left. The first 2,000 test images are evaluated beside them and decide nothing. CPU
seconds are of all cores together: of `adapt`, of the pass over training and validation images, of
`train`. Other work on the machine makes them larger, but does not count itself. CIFAR-10 is read as
the pipeline reads it (VIT_DATA_DIR, or a download).
"""

import argparse
import shutil

import numpy as np
from in_process import ROOT, prepare, run_stages
from matplotlib.ticker import LogLocator, NullLocator

from vit_finetune.core.files import read_csv, read_json, write_bytes, write_csv, write_json
from vit_finetune.data.cifar import load_cifar
from vit_finetune.data.split import stratified
from vit_finetune.intervals import wilson
from vit_finetune.style import figure_of, png, styled

WORK = ROOT / ".checkpoints/accuracy"
TABLE = ROOT / "benchmarks/accuracy.csv"
PLOT = ROOT / "docs/accuracy.png"
STYLES = {  # of the ways
    "frozen as pretrained": {"color": "#0072b2", "marker": "o"},
    "adapted for 1 epoch, then frozen": {"color": "#d55e00", "marker": "s"},
    "adapted for 2 epochs, then frozen": {"color": "#009e73", "marker": "D"},
    "everything trained from the images": {"color": "#cc79a7", "marker": "^"},
}
VAL = 1000
JUDGES = 3000
TESTS = 2000
POOL = 5000  # the training images that smaller sets are parts of
EVERY = 50_000 - JUDGES - VAL  # all others of CIFAR-10's training part
PROBE = (0, "0", 0)  # epochs of `adapt`, trained blocks, epochs: a probe is trained without epochs
TEXTBOOK = (0, "4", 8)
DEFAULT = (2, "1", 4)
WAYS = (
    PROBE,
    (0, "1", 4),
    TEXTBOOK,
    (1, "1", 4),
    DEFAULT,
    (0, "all", 1),
    (0, "all", 2),
    (0, "all", 4),
)
WAYS_OF = {1000: WAYS, POOL: WAYS, EVERY: (TEXTBOOK, DEFAULT, (0, "all", 2))}


def lines_of(images):
    """The lines of a number of training images."""
    lines = []
    for adapt, blocks, epochs in WAYS_OF[images]:
        lines.append({"images": images, "adapt": adapt, "blocks": blocks, "epochs": epochs})
    return lines


def splits_of(data, images, seed):
    """Training, validation and judging images; smaller training sets are parts of larger ones. The
    split `test` holds the judging images, then test images."""
    pixels = data.images["train"]
    labels = data.labels["train"]
    judges, rest = stratified(labels, JUDGES, seed)
    pool, others = stratified(labels[rest], POOL, seed)
    val = others[stratified(labels[rest][others], VAL, seed)[0]]
    if images == EVERY:
        train = np.setdiff1d(np.arange(len(rest)), val)
    elif images == POOL:
        train = pool
    else:
        train = pool[stratified(labels[rest][pool], images, seed)[0]]
    judging = [pixels[judges], data.images["test"][:TESTS]]
    judging_labels = [labels[judges], data.labels["test"][:TESTS]]
    return {
        "train": (pixels[rest[train]], labels[rest[train]]),
        "val": (pixels[rest[val]], labels[rest[val]]),
        "test": (np.concatenate(judging), np.concatenate(judging_labels)),
    }


def changes_of(line, seed, threads):
    """Of params.yaml."""
    everything = line["blocks"] == "all"
    train = {"min_steps": 0}
    if line["epochs"]:
        train["epochs"] = line["epochs"]
    if everything:
        train["layer_decay"] = 0.75  # that of `adapt`
    return {
        "seed": seed,
        "subset": {"train_size": line["images"]},
        "adapt": {"epochs": line["adapt"], "min_steps": 0},
        "freeze": {"trainable_blocks": "all" if everything else int(line["blocks"])},
        "train": train,
        "runtime": {"threads": threads},
    }


def seconds_of_adapt(folder):
    """CPU seconds of the adaptation in a folder, which lines share."""
    spent = folder / "adapt.json"
    if not spent.is_file():
        write_json(spent, run_stages(folder, "adapt"))
    return read_json(spent)["adapt"]


def run_line(line, data, seed, threads):
    """The row of a line; what it shares with the line before it is not computed again."""
    folder = WORK / f"{line['images']}-{line['adapt']}-{seed}"
    splits = splits_of(data, line["images"], seed)
    prepare(folder, splits, data.classes, changes_of(line, seed, threads))
    adapt_seconds = seconds_of_adapt(folder)
    seconds = run_stages(folder, "embed", "train", "evaluate")

    predictions = read_csv(folder / "plots/predictions.csv")
    right = np.array([row["actual"] == row["predicted"] for row in predictions])
    row = {**line, "seed": seed}
    for name, part in {"val": right[:JUDGES], "test": right[JUDGES:]}.items():
        low, high = wilson(int(part.sum()), len(part))
        row[name] = round(float(part.mean()), 4)
        row[f"{name}_low"] = round(low, 4)
        row[f"{name}_high"] = round(high, 4)
    used = line["images"] + VAL
    row["adapt_s"] = round(adapt_seconds if line["adapt"] else 0.0, 1)
    row["pass_s"] = round(seconds["embed"] * used / (used + JUDGES + TESTS), 1)
    row["train_s"] = round(seconds["train"], 1)
    return row


def in_epochs(number):
    plural = "" if number == "1" else "s"
    return f"{number} epoch{plural}"


def way_of(row):
    """In words, for the legend."""
    if row["blocks"] == "all":
        return "everything trained from the images"
    if row["adapt"] == "0":
        return "frozen as pretrained"
    return f"adapted for {in_epochs(row['adapt'])}, then frozen"


def annotate(panel, row, x, low, high, color):
    """The number of epochs, or of trained blocks, below or above an interval: where no other number
    stands beside it."""
    everything = row["blocks"] == "all"
    is_below = everything or row["blocks"] == "0" or row["adapt"] == "0"
    panel.annotate(
        in_epochs(row["epochs"]) if everything else row["blocks"],
        (x, low if is_below else high),
        (0, -3 if is_below else 3),
        textcoords="offset points",
        fontsize=7 if everything else 8,
        ha="center",
        va="top" if is_below else "bottom",
        color=color,
        weight="bold",
    )


def draw_panel(panel, rows):
    """One number of training images: a line for each way, a point for each row of the table."""
    ways = {}
    for row in rows:
        ways.setdefault(way_of(row), []).append(row)
    shortest = np.inf
    longest = 0.0
    for way, line in ways.items():
        style = STYLES[way]
        seconds = []
        for row in line:
            seconds.append(sum(float(row[f"{part}_s"]) for part in ("adapt", "pass", "train")))
        shortest = min(shortest, *seconds)
        longest = max(longest, *seconds)
        mean = np.array([float(row["val"]) for row in line])
        low = np.array([float(row["val_low"]) for row in line])
        high = np.array([float(row["val_high"]) for row in line])
        is_joined = line[0]["blocks"] == "all"
        panel.errorbar(
            seconds,
            mean,
            [mean - low, high - mean],
            linestyle="-" if is_joined else "none",
            capsize=2,
            label=way,
            **style,
        )
        for row, x, bottom, top in zip(line, seconds, low, high, strict=True):
            annotate(panel, row, x, bottom, top, style["color"])
    panel.set(xscale="log", xlim=(shortest / 1.4, longest * 1.4), xlabel="CPU seconds")
    panel.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 3, 5)))
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_title(f"{int(rows[0]['images']):,} training images")


@styled
def draw(rows):
    """Accuracy against CPU seconds: a panel for each number of training images whose lines are all
    there."""
    panels = []
    for images in WAYS_OF:
        found = [row for row in rows if row["images"] == str(images)]
        if len(found) >= len(lines_of(images)):
            panels.append(found)
    figure, [axes] = figure_of(4.1, "Accuracy against time", len(panels))
    for ax, found in zip(axes, panels, strict=True):
        draw_panel(ax, found)
    lowest = min(ax.get_ylim()[0] for ax in axes)
    highest = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(lowest - 0.003, highest + 0.005)  # room for numbers
    axes[0].set_ylabel(f"accuracy, {JUDGES:,} held-out images, 95 %")
    handles, ways = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        ways,
        fontsize=8,
        loc="outside lower center",
        ncols=2,
        title="0, 1, 4: trained blocks (0: a linear probe)",
        title_fontsize=8,
    )
    return figure


def add_missing_rows(rows, seed, threads):
    """Compute the lines that the table lacks."""
    data = load_cifar("cifar10")
    done = []
    for row in rows:
        if row["seed"] == str(seed):
            done.append({name: row[name] for name in ("images", "adapt", "blocks", "epochs")})
    for images in WAYS_OF:
        for line in lines_of(images):
            if {name: str(value) for name, value in line.items()} in done:
                continue
            rows.append(run_line(line, data, seed, threads))
            print(rows[-1], flush=True)
            write_csv(TABLE, rows)
    shutil.rmtree(WORK, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", action="store_true", help="draw the rows that are there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    args = parser.parse_args()
    if not args.plot:
        rows = read_csv(TABLE) if TABLE.is_file() else []
        add_missing_rows(rows, args.seed, args.threads)
    write_bytes(PLOT, png(draw(read_csv(TABLE))))


if __name__ == "__main__":
    main()
