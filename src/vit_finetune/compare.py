"""`vit-finetune compare A [B ...]`: runs on the same test images, image by image.

Each is a commit, branch, tag or experiment. A alone is compared with the work tree.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vit_finetune.command_line import end_when_the_reader_leaves, page_file
from vit_finetune.comparison.images import add_page_options, page_images
from vit_finetune.comparison.page import flips, flips_page
from vit_finetune.comparison.paired import (
    POWER,
    Pairs,
    count_pairs,
    exact_test,
    group_changes,
    holm,
    smallest_difference,
    tango_interval,
)
from vit_finetune.comparison.runs import STAGES, Run, read_run, read_work_tree
from vit_finetune.core.environment import complete_environment
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import write_text
from vit_finetune.intervals import LEVEL, effective_number
from vit_finetune.report.headline import table
from vit_finetune.report.page import in_yaml

CLASSES_SHOWN = 10
ABSENT = "absent"
MODELS_NOT_SETTINGS = (
    "This compares two trained models. Other seeds train other models: docs/how-to.md, "
    '"Repeat a run with other seeds".'
)


class ClassChange(NamedTuple):
    """The images of one true class.

    Attributes:
        p: of the exact McNemar test, corrected for the number of classes (Holm).
    """

    name: str
    pairs: Pairs
    p: float


class Common(NamedTuple):
    """The test images that every run has with the same true class, in the order of the first run.

    Attributes:
        files: (N,).
        groups: of each; images of one group (`data.group`) may depend on each other.
        relabelled: images that every run has, with other true classes.
    """

    files: list[str]
    groups: list[str]
    relabelled: list[str]

    @property
    def has_groups(self) -> bool:
        return len(set(self.groups)) < len(self.files)


def common_images(runs: Sequence[Run]) -> Common:
    """UserError if there is none, or if every one has other true classes."""
    first, *others = runs
    shared = [file for file in first.predictions if all(file in run.predictions for run in others)]
    if not shared:
        example = [f"{next(iter(run.predictions))} in {run.name}" for run in runs]
        raise UserError(
            f"the runs have no test image in common ({', '.join(example)}); compare runs of the "
            "same data"
        )
    files: list[str] = []
    relabelled: list[str] = []
    for file in shared:
        if len({run.predictions[file].actual for run in runs}) > 1:
            relabelled.append(file)
        else:
            files.append(file)
    if not files:
        shown = _labels_in_words(runs, relabelled[0])
        raise UserError(
            f"all {len(relabelled):,} test images have another true class, such as {shown}; "
            "compare runs of the same data"
        )
    # images of one group in one run depend on each other whatever another run calls a group
    of_runs = [[run.predictions[file].group for file in files] for run in runs]
    return Common(files, min(of_runs, key=lambda groups: len(set(groups))), relabelled)


def _labels_in_words(runs: Sequence[Run], file: str) -> str:
    labels = ", ".join(f"{run.predictions[file].actual} in {run.name}" for run in runs)
    return f"{file}: {labels}"


def find_warnings(runs: Sequence[Run], common: Common) -> list[str]:
    """Where the runs have other images or labels, or were computed with other libraries."""
    warnings = []
    for run in runs:
        left_out = len(run.predictions) - len(common.files) - len(common.relabelled)
        if left_out:
            warnings.append(
                f"test images of {run.name} that not every run has are left out: {left_out:,}"
            )
    if common.relabelled:
        warnings.append(
            "test images whose true class is not the same in every run are left out: "
            f"{len(common.relabelled):,}, such as {_labels_in_words(runs, common.relabelled[0])}"
        )
    if len({run.md5("data/raw") for run in runs}) > 1:
        warnings.append(
            "data/raw differs between the runs (dvc.lock): images are matched by the names of "
            "their files"
        )
    stages = other_libraries(runs)
    if stages:
        warnings.append(
            f"{', '.join(stages)} ran with other versions of libraries (dvc.lock); the report of "
            "each run names them"
        )
    every_class = set.union(*(run.classes for run in runs))
    for run in runs:
        missing = sorted(every_class - run.classes)
        if missing:
            warnings.append(f"{run.name} has no test images of the classes {', '.join(missing)}")
    return warnings


def other_libraries(runs: Sequence[Run]) -> list[str]:
    """Stages of the predictions that did not record the same versions in every run."""
    stages = []
    for stage in STAGES:
        recorded = {run.md5(f"versions/{stage}.json") for run in runs}
        if len(recorded) > 1:
            stages.append(stage)
    return stages


def right_answers(run: Run, files: Sequence[str]) -> list[bool]:
    return [run.predictions[file].right for file in files]


def class_changes(a: Run, b: Run, common: Common) -> list[ClassChange]:
    """Every class with images, the least likely by chance first."""
    by_class: dict[str, list[int]] = {}
    for place, file in enumerate(common.files):
        by_class.setdefault(a.predictions[file].actual, []).append(place)
    pairs = []
    p_values = []
    for places in by_class.values():
        files = [common.files[place] for place in places]
        groups = [common.groups[place] for place in places]
        right_a = right_answers(a, files)
        right_b = right_answers(b, files)
        pairs.append(count_pairs(right_a, right_b))
        p_values.append(exact_test(group_changes(right_a, right_b, groups)))
    changes = [ClassChange(*change) for change in zip(by_class, pairs, holm(p_values), strict=True)]
    return sorted(changes, key=lambda change: (change.p, -change.pairs.changed, change.name))


def differing_params(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The value in each run of every parameter that is not the same in all."""
    params = [run.params for run in runs]
    differing = {}
    for key in sorted(set().union(*params)):
        values = [values.get(key, ABSENT) for values in params]
        if any(value != values[0] for value in values):
            differing[key] = values
    return differing


def compare_two(a: Run, b: Run) -> dict[str, Any]:
    """What changed from A to B, as `--json` prints it."""
    common = common_images([a, b])
    files = common.files
    right_a = right_answers(a, files)
    right_b = right_answers(b, files)
    pairs = count_pairs(right_a, right_b)
    changes = group_changes(right_a, right_b, common.groups)
    effective = effective_number(np.subtract(right_b, right_a, dtype=int), common.groups)
    return {
        "runs": [
            {"name": a.name, "commit": a.commit, "accuracy": _accuracy(a, files)},
            {"name": b.name, "commit": b.commit, "accuracy": _accuracy(b, files)},
        ],
        "images": len(files),
        "groups": len(set(common.groups)),
        **pairs._asdict(),
        "difference": pairs.difference,
        "interval": tango_interval(pairs, effective),
        "p": exact_test(changes),
        "smallest_difference": (
            None if common.has_groups else smallest_difference(pairs.changed, pairs.n)
        ),
        "classes": [
            {"class": change.name, **change.pairs._asdict(), "p": change.p}
            for change in class_changes(a, b, common)
        ],
        "params": differing_params([a, b]),
        "warnings": find_warnings([a, b], common),
    }


def compare_several(runs: Sequence[Run]) -> dict[str, Any]:
    """How much three or more runs differ, as `--json` prints it."""
    common = common_images(runs)
    files = common.files
    accuracies = [_accuracy(run, files) for run in runs]
    answers = zip(*(right_answers(run, files) for run in runs), strict=True)
    flipped = sum(len(set(answer)) > 1 for answer in answers)
    return {
        "runs": [
            {"name": run.name, "commit": run.commit, "accuracy": accuracy}
            for run, accuracy in zip(runs, accuracies, strict=True)
        ],
        "images": len(files),
        "mean": statistics.mean(accuracies),
        "standard_deviation": statistics.stdev(accuracies),
        "flipped": flipped / len(files),
        "params": differing_params(runs),
        "warnings": find_warnings(runs, common),
    }


def _accuracy(run: Run, files: Sequence[str]) -> float:
    return sum(right_answers(run, files)) / len(files)


def verdict(result: dict[str, Any]) -> str:
    """A sentence on what `compare_two` returned."""
    if result["difference"] == 0:
        return "A and B are equally accurate on these images."
    if result["p"] >= 1 - LEVEL:
        low, high = result["interval"]
        if low <= 0 <= high:
            return "The difference may be chance."
        return (
            "The difference may be chance: so few images changed that the interval is only "
            "approximate, and the test is exact."
        )
    word = "more" if result["difference"] > 0 else "less"
    return f"B is {word} accurate than A, and chance alone would seldom make it so."


def p_in_words(p: float) -> str:
    return f"{p:.2g}" if p else "below 1e-300"


def pair_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each number that `compare_two` returned."""
    a, b = result["runs"]
    low, high = result["interval"]
    smallest = result["smallest_difference"]
    test = "p, exact McNemar test"
    if result["groups"] < result["images"]:
        test = "p, exact sign-flip test of groups"
        shown = "not known for images in groups"
    elif smallest is None:
        shown = "none: fewer than 6 images changed"
    else:
        changed = result["gained"] + result["lost"]
        cases = f"p < 0.05 in {100 * POWER:.0f} % of cases"
        shown = f"{smallest:.4f} ({cases} in which {changed:,} images change)"
    return [
        ("accuracy of A", f"{a['accuracy']:.4f}"),
        ("accuracy of B", f"{b['accuracy']:.4f}"),
        (
            "B minus A, 95 % interval",
            f"{result['difference']:+.4f}  [{low:+.4f}, {high:+.4f}] (Tango 1998)",
        ),
        (test, p_in_words(result["p"])),
        ("gained: wrong in A, right in B", f"{result['gained']:,}"),
        ("lost: right in A, wrong in B", f"{result['lost']:,}"),
        ("right in both", f"{result['both_right']:,}"),
        ("wrong in both", f"{result['both_wrong']:,}"),
        ("smallest true difference to show", shown),
    ]


def class_rows(result: dict[str, Any]) -> list[list[str]]:
    """The classes that changed most, under a header; no rows where none changed."""
    classes = result["classes"]
    header = ["class", "images", "gained", "lost", f"p (Holm, {len(classes)} classes)"]
    rows = []
    for row in classes[:CLASSES_SHOWN]:
        if row["gained"] + row["lost"] == 0:
            continue
        images = sum(row[name] for name in Pairs._fields)
        rows.append(
            [
                row["class"],
                f"{images:,}",
                str(row["gained"]),
                str(row["lost"]),
                p_in_words(row["p"]),
            ]
        )
    changed = sum(row["gained"] + row["lost"] > 0 for row in classes)
    if changed > len(rows):
        rows.append([f"{changed - len(rows)} more", *[""] * 4])
    return [header, *rows] if rows else []


def param_rows(result: dict[str, Any], names: Sequence[str]) -> list[list[str]]:
    """The parameters that differ, under a header; no rows where none does."""
    rows = [[key, *map(in_yaml, values)] for key, values in result["params"].items()]
    return [["parameter", *names], *rows] if rows else []


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Text in columns, the first one aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]))
    return "\n".join(lines)


def two_in_words(result: dict[str, Any], a: Run, b: Run) -> str:
    """What `compare_two` returned, as text."""
    images = f"{result['images']:,} test images are in both"
    if result["groups"] < result["images"]:
        images += f", in {result['groups']:,} groups"
    paragraphs = [
        f"A: {a.label}\nB: {b.label}\n{images}.",
        "\n".join(f"warning: {warning}" for warning in result["warnings"]),
        table(pair_rows(result)),
        f"{verdict(result)} {MODELS_NOT_SETTINGS}",
        columns(class_rows(result)),
        columns(param_rows(result, ["A", "B"])) or "All parameters are the same.",
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def several_in_words(result: dict[str, Any], runs: Sequence[Run]) -> str:
    """What `compare_several` returned, as text."""
    rows = [
        (run.label, f"{entry['accuracy']:.4f}")
        for run, entry in zip(runs, result["runs"], strict=True)
    ]
    rows += [
        ("mean", f"{result['mean']:.4f}"),
        ("standard deviation", f"{result['standard_deviation']:.4f}"),
        ("images that flip", f"{result['flipped']:.4f}, right in some runs and wrong in others"),
    ]
    paragraphs = [
        f"{result['images']:,} test images are in all {len(runs)} runs.",
        "\n".join(f"warning: {warning}" for warning in result["warnings"]),
        table(rows),
        columns(param_rows(result, [run.name for run in runs])) or "All parameters are the same.",
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def run(args: argparse.Namespace) -> str:
    """What is printed. Writes the page, if one is asked for."""
    runs = [read_run(name) for name in args.runs]
    if len(runs) == 1:
        runs.append(read_work_tree())
    if len(runs) > 2:
        if args.page:
            raise UserError(f"--page shows two runs side by side, and {len(runs)} are named")
        result = compare_several(runs)
        words = several_in_words(result, runs)
    else:
        a, b = runs
        result = compare_two(a, b)
        words = two_in_words(result, a, b)
        if args.page:
            changed = flips(a, b, common_images(runs).files)
            images = page_images(runs, changed, args.images, args.maps) if changed else None
            write_text(args.page, flips_page(a, b, pair_rows(result), images))
    if args.json:
        return json.dumps(result, indent=2, default=str)
    return words


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vit-finetune compare", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a commit, branch, tag or experiment"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--page",
        type=page_file,
        metavar="FILE",
        help="also write an HTML page of the images gained and lost",
    )
    add_page_options(parser)
    return parser


if __name__ == "__main__":
    end_when_the_reader_leaves()
    with readable_errors("compare"):
        complete_environment()
        print(run(make_parser().parse_intermixed_args()))
