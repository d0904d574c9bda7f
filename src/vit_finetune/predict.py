"""`vit-finetune predict IMAGE...`: the trained model's predictions for files, folders, or standard
input (`-`)."""

import argparse
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from vit_finetune.attention.pixels import spotlight
from vit_finetune.command_line import accuracy, at_least_one, end_when_the_reader_leaves, page_file
from vit_finetune.core.arrays import printable
from vit_finetune.core.environment import complete_environment
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import write_bytes, write_text
from vit_finetune.data.image_files import (
    UNREADABLE,
    image_files,
)
from vit_finetune.data.tables import normal
from vit_finetune.intervals import wilson
from vit_finetune.model.calibrated import VALIDATION, read_validation
from vit_finetune.pages.cards import Card
from vit_finetune.prediction.page import DrawnMap, prediction_card, predictions_page
from vit_finetune.prediction.predictor import DEFAULT_MAP, Photograph, Predictor
from vit_finetune.prediction.promise import Promise, make_promise
from vit_finetune.prediction.verdicts import marked_methods, read_verdicts

CONFUSED_PAIRS = 6
BATCH = 32  # images; the result does not depend on it
# characters of an image's name in that of its picture: enough bytes are free in any script
LONGEST_STEM = 50


@dataclass(frozen=True)
class MapRequest:
    """Which map is drawn of each image.

    Attributes:
        label: index of the class that it speaks for; None for the predicted one.
        against: index of a second class, which it speaks against.
    """

    method: str
    label: int | None
    against: int | None

    def label_for(self, probabilities: torch.Tensor) -> int:
        """The class that the map of an image speaks for, from (K,)."""
        if self.label is not None:
            return self.label
        others = probabilities.clone()
        if self.against is not None:
            others[self.against] = -1
        return int(others.argmax())


def find_images(
    names: Sequence[str],
) -> Iterator[tuple[str, Path | io.BytesIO, tuple[str, ...]]]:
    """Name and source of each image: a file, `-`, or every image below a folder, in the order of
    their paths. With it, the names of the folders between a named folder and the image.

    Raises:
        UserError: a folder without images.
    """
    for name in names:
        path = Path(name)
        if name == "-":
            yield name, io.BytesIO(sys.stdin.buffer.read()), ()
        elif path.is_dir():
            files = image_files(path)[0]
            if not files:
                raise UserError(f"there is no image below the folder {name}")
            for file in files:
                yield str(file), file, file.relative_to(path).parent.parts
        else:
            yield name, path, ()


def read_images(
    predictor: Predictor, names: Sequence[str], draw: bool, unreadable: list[str]
) -> Iterator[Photograph]:
    """The images that can be read. For each of the others, a sentence is added to `unreadable`."""
    for name, source, folders in find_images(names):
        try:
            photograph = predictor.read(name, source, draw)
        except UNREADABLE as error:
            reason = " ".join(str(error).split())
            unreadable.append(f"{printable(name)} cannot be read as an image: {reason}")
            continue
        names_of_folders = [normal(folder) for folder in folders]
        classes = [folder for folder in names_of_folders if folder in predictor.classes]
        yield replace(photograph, actual=classes[0] if classes else None)


def predict(
    predictor: Predictor, photographs: Iterable[Photograph]
) -> Iterator[tuple[Photograph, torch.Tensor]]:
    """Each image with its probabilities (K,), computed in batches."""
    remaining = iter(photographs)
    while batch := list(islice(remaining, BATCH)):
        probabilities = predictor.probabilities([photograph.pixels for photograph in batch])
        yield from zip(batch, probabilities, strict=True)


def describe(
    name: str, probabilities: torch.Tensor, classes: Sequence[str], top: int
) -> dict[str, Any]:
    """The most probable classes of one image, from (K,)."""
    values, order = probabilities.topk(min(top, len(classes)))
    ranked = [
        {"label": classes[k], "probability": round(value, 6)}
        for k, value in zip(order.tolist(), values.tolist(), strict=True)
    ]
    return {"image": name, **ranked[0], "top": ranked}


def in_words(answer: dict[str, Any]) -> str:
    ranked = [f"{entry['label']} {entry['probability']:.3f}" for entry in answer["top"]]
    line = f"{printable(answer['image'])}: {', '.join(ranked)}"
    return line if answer.get("answered", True) else f"{line} (not answered)"


def promise_of(args: argparse.Namespace) -> Promise | None:
    """What --at-least promises, which is said on standard error; None without that option."""
    if args.at_least is None:
        return None
    folder = Path(args.model)
    try:
        confidence, right = read_validation(folder)
        is_whole = len(confidence) > 0 and bool(((confidence >= 0) & (confidence <= 1)).all())
    except (KeyError, ValueError):
        is_whole = False
    if not is_whole:
        raise UserError(f"{folder / VALIDATION} is damaged; run dvc repro")
    promise = make_promise(confidence, right, args.at_least)
    print(f"predict: {promise.summary}", file=sys.stderr)
    return promise


def accuracy_lines(actual: Sequence[str], predicted: Sequence[str]) -> list[str]:
    """The accuracy of images of known classes with its interval, and the pairs of classes that are
    confused."""
    right = sum(a == p for a, p in zip(actual, predicted, strict=True))
    low, high = wilson(right, len(actual))
    lines = [
        f"accuracy {right / len(actual):.4f}, 95 % interval [{low:.4f}, {high:.4f}], "
        f"n = {len(actual):,} images in folders of classes"
    ]
    answers = Counter(zip(actual, predicted, strict=True))
    confused = [(pair, count) for pair, count in answers.most_common() if pair[0] != pair[1]]
    for (a, p), count in confused[:CONFUSED_PAIRS]:
        lines.append(f"{a} taken for {p}: {count:,} of {actual.count(a):,}")
    return lines


def check_map_options(args: argparse.Namespace) -> None:
    """UserError if options of the map do not fit each other, or nothing is drawn."""
    from vit_finetune.attention.maps import METHODS

    if not (args.attention or args.page) and (args.label or args.against or args.map):
        raise UserError(
            "--map, --class and --against say what is drawn; name a folder with --attention, or a "
            "--page"
        )
    if args.map and args.map not in METHODS:
        judged = marked_methods(read_verdicts(Path(args.model)))
        raise UserError(f"--map is {args.map}; use one of: {', '.join(judged)}")
    if args.against and args.map and not METHODS[args.map].asks:
        raise UserError(
            f"--map is {args.map}, which knows no class, so there is nothing --against another to "
            "draw"
        )


def map_request(args: argparse.Namespace, predictor: Predictor) -> MapRequest:
    """UserError for a class that the model does not have, or the same one twice."""
    label = predictor.class_index("--class", args.label)
    against = predictor.class_index("--against", args.against)
    if label is not None and label == against:
        raise UserError(f"--class and --against are both {args.label}; name two classes")
    return MapRequest(args.map or DEFAULT_MAP, label, against)


def run(args: argparse.Namespace) -> list[str]:
    """Print a line for each image and draw its map, if that is asked for; for images in folders of
    classes also the accuracy. Returns a sentence for each image that cannot be read."""
    check_map_options(args)
    predictor = Predictor(Path(args.model), args.device)
    request = map_request(args, predictor)
    promise = promise_of(args)
    draws = bool(args.attention or args.page)
    cards: list[Card] = []
    unreadable: list[str] = []
    actual: list[str] = []
    predicted: list[str] = []
    photographs = read_images(predictor, args.images, draws, unreadable)
    for number, (photograph, probabilities) in enumerate(predict(predictor, photographs)):
        answer = describe(photograph.name, probabilities, predictor.classes, args.top)
        if photograph.actual is not None:
            answer["actual"] = photograph.actual
            actual.append(photograph.actual)
            predicted.append(answer["label"])
        if promise:
            answer["answered"] = promise.covers(answer["probability"])
        if draws:
            label = request.label_for(probabilities)
            against = request.against
            painted = predictor.paint_map(photograph, request.method, label, against)
            answer["map"] = request.method
            answer["map_class"] = predictor.classes[label]
        if args.attention:
            stem = Path(photograph.name).stem[:LONGEST_STEM]
            answer["attention"] = str(Path(args.attention) / f"{number:04}-{stem}.png")
            title = (
                f"{answer['label']} {answer['probability']:.2f}, "
                f"{answer['map']} for {answer['map_class']}"
            )
            picture = predictor.draw_map(photograph, painted, label, against, title)
            write_bytes(answer["attention"], picture)
        if args.page:
            assert photograph.shown is not None
            lit = spotlight(photograph.shown, painted)
            cards.append(
                prediction_card(
                    printable(photograph.name),
                    photograph.shown,
                    lit,
                    answer["map_class"],
                    answer["top"],
                    answer.get("answered"),
                )
            )
        print(json.dumps(answer) if args.json else in_words(answer), flush=True)
    if args.page:
        verdict = read_verdicts(Path(args.model)).get(request.method)
        bars = predictor.source["fit"] == "pad"
        drawn = DrawnMap(request.method, args.against, verdict, bars)
        write_text(args.page, predictions_page(cards, drawn, promise))
    if actual and not args.json:
        print("\n".join(["", *accuracy_lines(actual, predicted)]))
    return unreadable


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vit-finetune predict", description=__doc__)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, a folder, or - for standard input"
    )
    parser.add_argument(
        "--model", default="models/finetuned", help="folder of the trained model (%(default)s)"
    )
    parser.add_argument(
        "--top",
        type=at_least_one,
        default=3,
        help="classes to show, most probable first (%(default)s)",
    )
    parser.add_argument(
        "--at-least",
        type=accuracy,
        metavar="ACCURACY",
        help="mark the images that cannot be answered with this accuracy, such as 0.99",
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object for each image, one to a line"
    )
    parser.add_argument(
        "--attention", metavar="FOLDER", help="also draw there what speaks for a class"
    )
    parser.add_argument(
        "--page",
        type=page_file,
        metavar="FILE",
        help="also write one HTML page of all images, with their maps",
    )
    parser.add_argument(
        "--map", metavar="NAME", help=f"map that is drawn, as in attention/ ({DEFAULT_MAP})"
    )
    parser.add_argument(
        "--class",
        dest="label",
        metavar="NAME",
        help="class that is drawn (default: the predicted one)",
    )
    parser.add_argument(
        "--against", metavar="NAME", help="a second class: also draw what speaks for it instead"
    )
    parser.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="(%(default)s)"
    )
    return parser


if __name__ == "__main__":
    end_when_the_reader_leaves()
    with readable_errors("predict"):
        complete_environment()
        unreadable = run(make_parser().parse_args())
        sys.exit("\n".join(f"predict: {line}" for line in unreadable) or 0)
