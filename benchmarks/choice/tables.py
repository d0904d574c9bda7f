"""Markdown tables of what `run.py` has logged so far: `python benchmarks/choice/tables.py`

Rules see validation logits alone, and test images alone evaluate them. Differences are paired by
seed and test image. The 95 % interval of a set is over both, that of a mean over sets is over the
sets.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from record import RECIPES, WAYS
from rules import AVERAGES, RULES, choose, fit_temperature, losses
from run import ADAPT, FOLDER
from sets import SETS

from vit_finetune.core.files import read_csv
from vit_finetune.intervals import mean

PROBE = ("adapted", "validation")  # what `train` calls epoch 0
PRETRAINED_PROBE = ("pretrained", "validation")
LAST_PROBE = ("last", "validation")  # of the model after the last epoch of `adapt`
ADAPT_RULES = ("today", "last", "last, accuracy test", "last, loss test")  # these models only
FOLLOWED = ("shipped", "plain")  # recipes whose tables are printed set by set
MEASURES = ("accuracy, points", "nll", "nll after temperature")
NORMAL = 1.96


@dataclass(frozen=True)
class Result:
    """What test images say of one choice.

    Attributes:
        epoch: which was chosen; None where it is no epoch.
        values: of each of MEASURES, by image (N,).
    """

    epoch: int | None
    values: dict[str, Any]


def evaluate(val, test, logged, epoch=None):
    """Logits (M, K) and (N, K) of a choice; the temperature is that of the validation images."""
    labels = logged["test_labels"]
    temperature = fit_temperature(val, logged["val_labels"])
    hits = test.argmax(axis=1) == labels
    nll = losses(test, labels)
    calibrated = losses(test / temperature, labels)
    return Result(epoch, dict(zip(MEASURES, (100.0 * hits, nll, calibrated), strict=True)))


def evaluate_train(logged):
    """Each of RULES."""
    evaluated = {}
    for rule, epoch in choose(logged["val"], logged["val_labels"]).items():
        evaluated[rule] = evaluate(logged["val"][epoch], logged["test"][epoch], logged, epoch)
    for name in AVERAGES:
        evaluated[name] = evaluate(logged[f"{name}_val"], logged[f"{name}_test"], logged)
    return evaluated


def evaluate_adapt(logged):
    """The probes of the pretrained model and of those that `adapt` gave, by (model, way).

    And ADAPT_RULES, by (ADAPT, rule). They are evaluated by the probe whose strength
    is the best on the validation images.
    """
    evaluated = {}
    for model in ("pretrained", "adapted", "last"):
        for place, way in enumerate(WAYS):
            val = logged[f"{model}_val"][place]
            evaluated[model, way] = evaluate(val, logged[f"{model}_test"][place], logged)
    last = len(logged["val"]) - 1
    chosen = choose(logged["val"], logged["val_labels"])
    models = {last: LAST_PROBE, chosen["today"]: PROBE, 0: PRETRAINED_PROBE}
    for rule in ADAPT_RULES:
        epoch = chosen[rule]
        evaluated[ADAPT, rule] = Result(epoch, evaluated[models[epoch]].values)
    return evaluated


def read_all(folder, rows):
    """(set, seed) -> (training, rule) -> Result."""
    results: dict[tuple[str, str], dict[tuple[str, str], Result]] = {}
    for row in rows:
        name, seed, training = row["set"], row["seed"], row["training"]
        logged = np.load(folder / f"logits/{name}-{seed}/{training}.npz")
        run = results.setdefault((name, seed), {})
        if training == ADAPT:
            run.update(evaluate_adapt(logged))
        else:
            for rule, result in evaluate_train(logged).items():
                run[training, rule] = result
    return results


def seeds_of(results, name):
    return [run for (other, _), run in results.items() if other == name]


def names_of(results):
    return [name for name in SETS if seeds_of(results, name)]


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
    """Set -> mean and standard error of `first` minus `second`, two (training, rule), over the
    seeds that have both."""
    differences = {}
    for name in names_of(results):
        pairs = []
        for run in seeds_of(results, name):
            if first in run and second in run:
                pairs.append(run[first].values[measure] - run[second].values[measure])
        if pairs:
            differences[name] = interval(np.stack(pairs))
    return differences


def print_table(title, header, rows):
    print(f"\n### {title}\n")
    print(f"| {' | '.join(header)} |")
    print("|" + "---|" * len(header))
    for row in rows:
        print(f"| {' | '.join(row)} |")


def comparison_cells(results, first, second):
    """For each of MEASURES the mean over sets, and on how many sets `first` is clearly better and
    clearly worse; then the number of sets. None if no set has both."""
    cells = []
    sets = 0
    for measure in MEASURES:
        differences = compare(results, first, second, measure)
        sets = len(differences)
        if not sets:
            return None
        means = np.array([value for value, _ in differences.values()])
        above = sum(value - NORMAL * error > 0 for value, error in differences.values())
        below = sum(value + NORMAL * error < 0 for value, error in differences.values())
        is_accuracy = measure == MEASURES[0]
        better, worse = (above, below) if is_accuracy else (below, above)
        digits = 2 if is_accuracy else 3
        text = f"{means.mean():+.{digits}f}"
        if sets > 1:
            text += f" ± {mean(means).high - means.mean():.{digits}f}"
        cells += [text, f"{better} / {worse}"]
    return [*cells, str(sets)]


def print_comparisons(results, title, first_column, comparisons):
    """A row for each of (words, first, second) that at least one set has."""
    header = [first_column]
    for measure in MEASURES:
        header += [measure, "clearly better / worse"]
    rows = []
    for words, first, second in comparisons:
        cells = comparison_cells(results, first, second)
        if cells:
            rows.append([words, *cells])
    print_table(title, [*header, "sets"], rows)


def print_sets(results, rows):
    table = []
    for name in names_of(results):
        of_set = [row for row in rows if row["set"] == name]
        adapted = [row for row in of_set if row["training"] == ADAPT]
        changed = sum(int(row["best_epoch"]) > 0 for row in adapted)
        cells = [name, str(len(adapted)), f"{changed} of {len(adapted)}"]
        for training, column in (
            (ADAPT, "test_start"),
            (ADAPT, "test_today"),
            ("shipped", "test_today"),
            ("shipped", "test_last"),
            ("plain", "test_last"),
        ):
            values = [float(row[column]) for row in of_set if row["training"] == training]
            cells.append(f"{np.mean(values):.4f}" if values else "")
        table.append(cells)
    header = ["set", "seeds", "adapted", "probe, pretrained", "probe", "shipped, today"]
    print_table("Test accuracy, mean over seeds", [*header, "shipped, last", "plain, last"], table)


def print_harm(results):
    """Training by training: how often is a rule worse than the probe?"""
    table = []
    for rule, words in RULES.items():
        differences = []
        for run in results.values():
            for recipe in RECIPES:
                if (recipe, rule) in run:
                    values = run[recipe, rule].values[MEASURES[0]] - run[PROBE].values[MEASURES[0]]
                    differences.append(values.mean())
        if differences:
            points = np.array(differences)
            counts = [(points <= -1).sum(), (points <= -2).sum(), (points >= 1).sum()]
            cells = [words, str(len(points)), f"{points.mean():+.2f}", *map(str, counts)]
            table.append(cells)
    header = ["rule", "trainings", "minus probe, points", "worse by 1 or more", "by 2 or more"]
    print_table("All recipes: how often a rule does harm", [*header, "better by 1 or more"], table)


def print_dip(rows):
    table = []
    for recipe in RECIPES:
        of_recipe = [row for row in rows if row["training"] == recipe]
        columns = ("val_start", "val_head", "val_last")
        if of_recipe:
            means = [np.mean([float(row[column]) for row in of_recipe]) for column in columns]
            table.append([recipe, *[f"{value:.4f}" for value in means], str(len(of_recipe))])
    header = ["recipe", "probe", "head that training starts from", "last epoch", "trainings"]
    print_table("Validation accuracy: does training begin below the probe?", header, table)


def print_set_by_set(results, recipe):
    table = []
    for name in names_of(results):
        cells = [name]
        for rule in RULES:
            differences = compare(results, (recipe, rule), PROBE, MEASURES[0])
            if name in differences:
                value, error = differences[name]
                cells.append(f"{value:+.2f} ± {NORMAL * error:.2f}")
        runs = seeds_of(results, name)
        epochs = [str(run[recipe, "today"].epoch) for run in runs if (recipe, "today") in run]
        if len(cells) > 1:
            table.append([*cells, ", ".join(epochs)])
    title = f"Recipe {recipe}: test accuracy minus the probe, points"
    print_table(title, ["set", *RULES, "today's epochs"], table)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: .run/choice")
    folder = parser.parse_args().folder
    rows = read_csv(folder / "rows.csv")
    results = read_all(folder, rows)
    trainings = sum(row["training"] != ADAPT for row in rows)
    print(
        f"{len(names_of(results))} sets, {len(results)} runs, {trainings} trainings. "
        '"Clearly" counts sets whose interval leaves out 0.'
    )
    print_sets(results, rows)
    for recipe in FOLLOWED:
        against_probe = [(words, (recipe, rule), PROBE) for rule, words in RULES.items()]
        title = f"Recipe {recipe}: rules for the epoch of train, minus the probe"
        print_comparisons(results, title, "rule", against_probe)
        today = (recipe, "today")
        against_today = [(words, (recipe, rule), today) for rule, words in RULES.items()]
        title = f"Recipe {recipe}: rules for the epoch of train, minus today's"
        print_comparisons(results, title, "rule", against_today[1:])
        print_set_by_set(results, recipe)
    print_harm(results)
    recipes = [(recipe, (recipe, "last"), PROBE) for recipe in RECIPES]
    print_comparisons(results, "Recipes: last epoch, minus the probe", "recipe", recipes)
    recipes = [(recipe, (recipe, "last"), ("shipped", "last")) for recipe in RECIPES]
    title = "Recipes: last epoch, minus the shipped one's"
    print_comparisons(results, title, "recipe", recipes[1:])
    print_dip(rows)
    for model in ("pretrained", "adapted"):
        ways = [(way, (model, way), (model, "validation")) for way in WAYS[1:]]
        title = f"The probe's strength on features of the {model} model, minus chosen by validation"
        print_comparisons(results, title, "chosen by", ways)
    models = [(RULES[rule], (ADAPT, rule), PRETRAINED_PROBE) for rule in ADAPT_RULES]
    title = "Rules for adapt: probe of the model, minus that of the pretrained one"
    print_comparisons(results, title, "rule", models)
    against = [("adapt: probe", PROBE, PRETRAINED_PROBE)]
    for recipe in FOLLOWED:
        for rule in ("today", "last"):
            against.append((f"train: {recipe}, {rule}", (recipe, rule), PRETRAINED_PROBE))
    title = "Everything, minus a linear probe of the pretrained model"
    print_comparisons(results, title, "what", against)


if __name__ == "__main__":
    main()
