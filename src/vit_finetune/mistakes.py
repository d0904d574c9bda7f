"""`vit-finetune mistakes FILE [RUN]`: one HTML page of all wrong test images of a run.

A run is a commit, branch, tag or experiment; without one, that of the work tree.
"""

import argparse
import math

from vit_finetune.command_line import end_when_the_reader_leaves, page_file
from vit_finetune.comparison.images import (
    LONGEST_SIDE,
    PageImages,
    add_page_options,
    page_images,
)
from vit_finetune.comparison.runs import Prediction, Run, read_run, read_work_tree
from vit_finetune.core.environment import complete_environment
from vit_finetune.core.errors import readable_errors
from vit_finetune.core.files import write_text
from vit_finetune.pages.cards import Card
from vit_finetune.pages.images import jpeg, thumbnail
from vit_finetune.pages.render import render


def order_by_confidence(run: Run, include_right: bool) -> list[str]:
    """The wrong test images, or all of them, the most confident answers first."""
    files = [
        file
        for file, prediction in run.predictions.items()
        if include_right or not prediction.right
    ]
    return sorted(files, key=lambda file: (-run.predictions[file].confidence, file))


def mistakes_page(run: Run, images: PageImages | None) -> str:
    """The page as text; `images` is None if there are none."""
    wrong = sum(not prediction.right for prediction in run.predictions.values())
    notes = [
        f"{run.label}: {wrong:,} of {len(run.predictions):,} test images are classified wrongly."
    ]
    cards = []
    if images is not None:
        notes.append("The most confident answers are first.")
        notes += images.notes
        cards = [mistake_card(file, run.predictions[file], images) for file in images.files]
    return render(
        "comparison/page.html",
        title="Mistakes",
        notes=notes,
        rows=[],
        cards=cards,
        choices={"pair": "Classes", "confidence": "Confidence"},
    )


def mistake_card(file: str, prediction: Prediction, images: PageImages) -> Card:
    spotlit = None
    drawn = images.maps.get(file)
    if drawn:
        picture = jpeg(drawn[0].image)
        spotlit = jpeg(drawn[0].spotlit)
    else:
        picture = thumbnail(images.stored.image(file), LONGEST_SIDE)
    pair = f"{prediction.actual} taken for {prediction.predicted}"
    return Card(
        image=picture,
        alt=f"{file}: {prediction.predicted}",
        second=spotlit,
        second_alt=f"{file}: what speaks for {prediction.predicted}",
        caption=f"{file}, true class {prediction.actual}",
        classes=[{"label": prediction.predicted, "probability": prediction.confidence}],
        data={
            "pair": "right" if prediction.right else pair,
            "confidence": confidence_band(prediction.confidence),
            "maps": "yes" if drawn else "no",
        },
    )


def confidence_band(confidence: float) -> str:
    """One of ten: `0.9 to 1.0`."""
    tenth = min(math.floor(confidence * 10), 9)
    return f"{tenth / 10} to {(tenth + 1) / 10}"


def run(args: argparse.Namespace) -> str:
    """Write the page; returns what is printed."""
    run = read_run(args.run) if args.run else read_work_tree()
    files = order_by_confidence(run, args.all)
    images = page_images([run], files, args.images, args.maps) if files else None
    write_text(args.file, mistakes_page(run, images))
    shown = len(images.files) if images else 0
    return f"{args.file} shows {shown:,} of {len(run.predictions):,} test images of {run.label}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vit-finetune mistakes", description=__doc__)
    parser.add_argument("file", type=page_file, metavar="FILE", help="the page to write")
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="a commit, branch, tag or experiment (work tree)"
    )
    parser.add_argument("--all", action="store_true", help="also the images classified correctly")
    add_page_options(parser)
    return parser


if __name__ == "__main__":
    end_when_the_reader_leaves()
    with readable_errors("mistakes"):
        complete_environment()
        print(run(make_parser().parse_intermixed_args()))
