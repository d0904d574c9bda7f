"""Markdown tables of what `run.py` has logged so far: `python benchmarks/choice/tables.py`

Rules see validation logits alone, and test images alone evaluate them. Differences are paired by
seed and test image. The 95 % interval of a set is over both, that of a mean over sets is over the
sets.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from record import RECIPES, WAYS
from rules import RULES, choose, losses
from run import ADAPT, FOLDER, TABLE
from sets import SETS

from vit_finetune.core.files import read_csv
from vit_finetune.intervals import mean
from vit_finetune.training.temperature import fit_temperature

MEASURES = ("accuracy, points", "nll after temperature")
NORMAL = 1.96
START = "start"
ADAPT_RULES = ("kept", "last", "best accuracy", "loss test", "lower loss")


def evaluate(val, test, logged):
    """Each of MEASURES by test image (N,), from the logits (M, K) and (N, K) of a model; the
    temperature is that of the validation images."""
    labels = logged["test_labels"]
    temperature = fit_temperature(val, logged["val_labels"])
    hits = test.argmax(axis=1) == labels
    return {
        "accuracy, points": 100.0 * hits,
        "nll after temperature": losses(test / temperature, labels),
    }


def evaluate_train(logged):
    """START and each of RULES -> MEASURES."""
    evaluated = {START: evaluate(logged["val"][0], logged["test"][0], logged)}
    for rule, epoch in choose(logged["val"], logged["val_labels"]).items():
        evaluated[rule] = evaluate(logged["val"][epoch], logged["test"][epoch], logged)
    evaluated["average"] = evaluate(logged["average_val"], logged["average_test"], logged)
    return evaluated


def evaluate_adapt(logged):
    """START, ADAPT_RULES and (backbone, way of choosing a strength) -> MEASURES, of linear probes.

    The pipeline fits a new probe after the adaptation, so it is what a rule is judged by.
    """
    evaluated = {}
    for backbone in ("pretrained", "best", "last"):
        for place, way in enumerate(WAYS):
            val = logged[f"{backbone}_val"][place]
            test = logged[f"{backbone}_test"][place]
            evaluated[backbone, way] = evaluate(val, test, logged)
    chosen = choose(logged["val"], logged["val_labels"])
    backbones = {
        chosen["best accuracy"]: "best",
        len(logged["val"]) - 1: "last",
        0: "pretrained",
    }
    evaluated[START] = evaluated["pretrained", WAYS[0]]
    for rule in ADAPT_RULES:
        evaluated[rule] = evaluated[backbones[chosen[rule]], WAYS[0]]
    return evaluated


def read_all(folder, rows):
    """(set, seed) -> training -> what was evaluated of it, where its logits are there."""
    results = {}
    for row in rows:
        name = row["set"]
        seed = row["seed"]
        training = row["training"]
        path = folder / f"logits/{name}-{seed}/{training}.npz"
        if not path.is_file():
            continue
        logged = np.load(path)
        run = results.setdefault((name, seed), {})
        run[training] = evaluate_adapt(logged) if training == ADAPT else evaluate_train(logged)
    return results


def interval(differences):
    """Mean of differences (seeds, images) and its standard error, over seeds and images: the sum of
    both variances, less that of the residual, which is in both."""
    seeds, images = differences.shape
    by_image = differences.mean(axis=0)
    variance = by_image.var(ddof=1) / images
    if seeds > 1:
        by_seed = differences.mean(axis=1)
        residual = differences - by_image - by_seed[:, None] + differences.mean()
        freedom = (seeds - 1) * (images - 1)
        noise = (residual**2).sum() / freedom / (seeds * images)
        variance += max(0.0, by_seed.var(ddof=1) / seeds - noise)
    return differences.mean(), np.sqrt(variance)


def compare(results, first, second, measure):
    """Set -> mean and standard error of `first` minus `second`, two (training, choice), over the
    seeds that have both trainings."""
    pairs = {}
    for (name, _), run in results.items():
        if first[0] in run and second[0] in run:
            values = run[first[0]][first[1]][measure]
            pairs.setdefault(name, []).append(values - run[second[0]][second[1]][measure])
    return {name: interval(np.stack(differences)) for name, differences in pairs.items()}


def print_table(title, header, rows):
    print(f"\n### {title}\n")
    print(f"| {' | '.join(header)} |")
    print("|" + "---|" * len(header))
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_comparisons(results, title, comparisons):
    """A row for each of (words, first, second): the mean over sets, and on how many sets `first` is
    clearly better and clearly worse."""
    header = [""]
    for measure in MEASURES:
        header += [measure, "clearly better / worse"]
    rows = []
    for words, first, second in comparisons:
        cells = [words]
        sets = 0
        for measure in MEASURES:
            differences = compare(results, first, second, measure)
            sets = len(differences)
            if sets < 2:
                continue
            means = mean([value for value, _ in differences.values()])
            above = sum(value - NORMAL * error > 0 for value, error in differences.values())
            below = sum(value + NORMAL * error < 0 for value, error in differences.values())
            is_accuracy = measure == MEASURES[0]
            digits = 2 if is_accuracy else 3
            better, worse = (above, below) if is_accuracy else (below, above)
            margin = means.high - means.mean
            cells += [f"{means.mean:+.{digits}f} ± {margin:.{digits}f}", f"{better} / {worse}"]
        if sets >= 2:
            rows.append([*cells, str(sets)])
    print_table(title, [*header, "sets"], rows)


def print_sets(results, rows):
    """Test accuracies, and what training adds to its start."""
    columns = {
        "probe": (ADAPT, "test_start"),
        "adapted, best epoch": (ADAPT, "test_best"),
        "adapted, kept": (ADAPT, "test_kept"),
        "shipped, kept": ("shipped", "test_kept"),
        "plain, kept": ("plain", "test_kept"),
    }
    table = []
    for name in SETS:
        seeds = {row["seed"] for row in rows if row["set"] == name}
        if not seeds:
            continue
        cells = [name, str(len(seeds))]
        for training, column in columns.values():
            values = [
                float(row[column])
                for row in rows
                if row["set"] == name and row["training"] == training
            ]
            cells.append(f"{np.mean(values):.4f}" if values else "")
        for recipe in ("shipped", "plain"):
            differences = compare(results, (recipe, "kept"), (recipe, START), MEASURES[0])
            if name in differences:
                value, error = differences[name]
                cells.append(f"{value:+.2f} ± {NORMAL * error:.2f}")
            else:
                cells.append("")
        table.append(cells)
    gains = ["shipped minus its start, points", "plain minus its start"]
    header = ["set", "seeds", *columns, *gains]
    print_table("Test accuracy, mean over seeds", header, table)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: .run/choice")
    folder = parser.parse_args().folder
    rows = read_csv(TABLE)
    results = read_all(folder, rows)
    print(f"{len(rows)} trainings; the logits of {len(results)} sets and seeds are in the folder.")
    print_sets(results, rows)

    rules = [(RULES[rule], (ADAPT, rule), (ADAPT, START)) for rule in ADAPT_RULES]
    print_comparisons(results, "Rules for adapt, minus the start", rules)
    for recipe in RECIPES:
        rules = [(words, (recipe, rule), (recipe, START)) for rule, words in RULES.items()]
        print_comparisons(results, f"Recipe {recipe}: rules, minus the start", rules)
    recipes = [(name, (name, "kept"), ("shipped", "kept")) for name in list(RECIPES)[1:]]
    print_comparisons(results, "Recipes as kept, minus the shipped one", recipes)
    for backbone in ("pretrained", "last"):
        ways = [(way, (ADAPT, (backbone, way)), (ADAPT, (backbone, WAYS[0]))) for way in WAYS[1:]]
        title = f"Strength of a probe of the {backbone} features, minus cross-validation"
        print_comparisons(results, title, ways)


if __name__ == "__main__":
    main()
