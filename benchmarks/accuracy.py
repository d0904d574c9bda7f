"""Accuracy against CPU seconds: epochs of adaptation, blocks trained from stored activations,
training images.

    python benchmarks/accuracy.py            # every line that benchmarks/accuracy.csv lacks
    python benchmarks/accuracy.py --plot     # docs/accuracy.png and the tables' rows from the lines
    that are there

A line is a run of the pipeline's own stages with the settings of params.yaml, but for those that it
names. `adapt.min_steps` is 0, so that epochs are what they say; `all` has no adaptation, and the
layer decay of `adapt`. Every line is judged on the same 3,000 images of CIFAR-10's training part,
which no line trains on; its epoch is chosen on 1,000 others. The first 2,000 test images are
evaluated beside them and decide nothing. CPU seconds are of all cores together: of `adapt`, of the
pass over training and validation images, of `train`. Other work on the machine makes them larger,
but does not count itself.
"""

import argparse
import itertools
import shutil

import numpy as np
from in_process import ROOT, prepare, run_stages
from matplotlib.ticker import LogLocator, NullLocator

from vit_finetune.core.arrays import read_split
from vit_finetune.core.files import read_csv, write_bytes, write_csv
from vit_finetune.data.split import stratified
from vit_finetune.intervals import wilson
from vit_finetune.style import figure_of, png, styled

WORK, TABLE, PLOT = (
    ROOT / ".checkpoints/accuracy",
    ROOT / "benchmarks/accuracy.csv",
    ROOT / "docs/accuracy.png",
)
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
SERIES = [
    {"color": colour, "marker": marker, "markevery": 0.12}
    for colour, marker in zip(COLOURS, "osD^vP", strict=True)
]
VAL, JUDGES, TESTS = 1_000, 3_000, 2_000
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
LINES = [
    line
    for images in (1_000, 5_000)
    for line in [
        *(
            {"images": images, "adapt": epochs, "blocks": blocks, "epochs": 8}
            for epochs, blocks in itertools.product((0, 1, 2), ("0", "1", "4"))
        ),
        *(
            {"images": images, "adapt": 0, "blocks": "all", "epochs": epochs}
            for epochs in (1, 2, 4, 8)
        ),
    ]
]


def splits_of(images, seed):
    """Training, validation and judging images; smaller training sets are parts of larger ones."""
    (pixels, labels), (test_pixels, test_labels) = (
        read_split(ROOT / "data/raw", part, "images", "labels") for part in ("train", "test")
    )
    judges, rest = stratified(labels, JUDGES, seed)
    chosen, others = stratified(labels[rest], 5_000, seed)
    val = others[stratified(labels[rest][others], VAL, seed)[0]]
    train = (
        rest[chosen[stratified(labels[rest][chosen], images, seed)[0]]]
        if images < 5_000
        else rest[chosen]
    )
    shown = {"train": train, "val": rest[val]}
    splits = {split: (pixels[rows], labels[rows]) for split, rows in shown.items()}
    parts = (pixels[judges], test_pixels[:TESTS]), (labels[judges], test_labels[:TESTS])
    return splits | {"test": tuple(np.concatenate(part) for part in parts)}


def run_line(line, seed, threads):
    """The row of a line; what it shares with the line before it is not computed again."""
    backbone = WORK / f"{line['images']}-{line['adapt']}-{seed}"
    changes = {
        "seed": seed,
        "subset": {"train_size": line["images"]},
        "adapt": {"epochs": line["adapt"], "min_steps": 0},
        "freeze": {
            "trainable_blocks": line["blocks"] if line["blocks"] == "all" else int(line["blocks"])
        },
        "train": {"epochs": line["epochs"], "min_steps": 0},
        "runtime": {"threads": threads},
    }
    if line["blocks"] == "all":
        changes["train"]["layer_decay"] = 0.75
    splits = splits_of(line["images"], seed)
    prepare(backbone, splits, CLASSES, changes)
    spent = backbone / "adapt.csv"
    if not spent.is_file():
        write_csv(spent, [{"seconds": run_stages(backbone, "adapt")["adapt"]}])
    seconds = {"adapt": float(read_csv(spent)[0]["seconds"]) if line["adapt"] else 0.0}
    seconds |= run_stages(backbone, "embed", "train", "evaluate")
    computed = line["images"] + VAL
    hits = np.array(
        [row["actual"] == row["predicted"] for row in read_csv(backbone / "plots/predictions.csv")]
    )
    row = {**line, "seed": seed}
    for name, part in (("val", hits[:JUDGES]), ("test", hits[JUDGES:])):
        low, high = wilson(int(part.sum()), len(part))
        row |= {
            name: round(float(part.mean()), 4),
            f"{name}_low": round(low, 4),
            f"{name}_high": round(high, 4),
        }
    row |= {
        "adapt_s": seconds["adapt"],
        "pass_s": seconds["embed"] * computed / (computed + JUDGES + TESTS),
    }
    row |= {"train_s": seconds["train"]}
    return {key: round(value, 1) if key.endswith("_s") else value for key, value in row.items()}


def epochs(number):
    return f"{number} epoch{'s' * (number != '1')}"


def label_of(row):
    if row["blocks"] == "all":
        return "everything trained from the images"
    return (
        f"adapted for {epochs(row['adapt'])}, then frozen"
        if row["adapt"] != "0"
        else "frozen as pretrained"
    )


def annotate(panel, row, x, low, high, color):
    """The number of epochs, or of trained blocks, below or above an interval: where no other number
    stands beside it."""
    everything = row["blocks"] == "all"
    below = row["blocks"] in ("0", "all") or row["adapt"] == "0"
    panel.annotate(
        epochs(row["epochs"]) if everything else row["blocks"],
        (x, low if below else high),
        (0, -3 if below else 3),
        textcoords="offset points",
        fontsize=7 if everything else 8,
        ha="center",
        va="top" if below else "bottom",
        color=color,
        weight="bold",
    )


def draw_panel(panel, rows):
    """One number of training images: a line for each way, a point for each line of the table."""
    for name, style in zip(dict.fromkeys(map(label_of, rows)), SERIES, strict=False):
        line = [row for row in rows if label_of(row) == name]
        seconds = [
            sum(float(row[f"{part}_s"]) for part in ("adapt", "pass", "train")) for row in line
        ]
        mean, low, high = (
            np.array([float(row[key]) for row in line]) for key in ("val", "val_low", "val_high")
        )
        joined = {
            "linestyle": "-" if line[0]["blocks"] == "all" else "none",
            "markevery": 1,
            "capsize": 2,
        }
        panel.errorbar(seconds, mean, [mean - low, high - mean], **style | joined, label=name)
        for row, x, bottom, top in zip(line, seconds, low, high, strict=True):
            annotate(panel, row, x, bottom, top, style["color"])
    panel.set(xscale="log", xlabel="CPU seconds of adapt, embed and train")
    panel.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_title(f"{int(rows[0]['images']):,} training images")


@styled
def draw(rows):
    """Accuracy against CPU seconds, a panel for each number of training images all of whose lines
    are there."""
    sizes = list(dict.fromkeys(str(line["images"]) for line in LINES))
    panels = [[row for row in rows if row["images"] == images] for images in sizes]
    panels = [found for found in panels if len(found) >= len(LINES) / len(sizes)]
    figure, [axes] = figure_of(3.6, "Accuracy against time", len(panels))
    for ax, found in zip(axes, panels, strict=True):
        draw_panel(ax, found)
    for ax in axes:
        ax.set_ylim(min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes))
    axes[0].set_ylabel(f"accuracy, {JUDGES:,} held-out images, 95 %")
    axes[-1].legend(
        fontsize=8,
        loc="lower right",
        title="0, 1, 4: trained blocks (0: the head alone)",
        title_fontsize=8,
    )
    return figure


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    rows = read_csv(TABLE) if TABLE.is_file() else []
    done = {
        tuple(row[key] for key in ("images", "adapt", "blocks", "epochs", "seed")) for row in rows
    }
    for line in [] if args.plot else LINES:
        if (*map(str, line.values()), str(args.seed)) in done:
            continue
        rows.append(run_line(line, args.seed, args.threads))
        print(rows[-1], flush=True)
        write_csv(TABLE, rows)
    if not args.plot:
        shutil.rmtree(WORK, ignore_errors=True)
    write_bytes(PLOT, png(draw(read_csv(TABLE))))


if __name__ == "__main__":
    main()
