"""The page of `compare --page`: the images gained and lost between two runs."""

from collections.abc import Sequence

from vit_finetune.comparison.images import LONGEST_SIDE, PageImages, side_by_side
from vit_finetune.comparison.runs import Prediction, Run
from vit_finetune.pages.cards import Card
from vit_finetune.pages.images import thumbnail
from vit_finetune.pages.render import render


def flips(a: Run, b: Run, files: Sequence[str]) -> list[str]:
    """The images gained and lost, those first of which both runs are most sure of their answers.

    If the largest probabilities of two distributions, p and q, are those of different classes, the
    distributions differ by at least p + q - 1 in total variation.
    """

    def least_change(file: str) -> float:
        return a.predictions[file].confidence + b.predictions[file].confidence - 1

    changed = [file for file in files if a.predictions[file].right != b.predictions[file].right]
    return sorted(changed, key=lambda file: (-least_change(file), file))


def flips_page(a: Run, b: Run, rows: Sequence[tuple[str, str]], images: PageImages | None) -> str:
    """The page as text.

    Args:
        rows: names and values of the comparison.
        images: of `flips`; None if there are none.
    """
    notes = [f"A: {a.label}. B: {b.label}."]
    cards = []
    if images is None:
        notes.append("No image is right in one run and wrong in the other.")
    else:
        notes.append("The images of which both runs are most sure of their answers are first.")
        if images.maps:
            notes.append("With maps: the image, then the maps of A and of B, each for its answer.")
        notes += images.notes
        cards = [
            flip_card(file, a.predictions[file], b.predictions[file], images)
            for file in images.files
        ]
    return render(
        "comparison/page.html",
        title="Images gained and lost",
        notes=notes,
        rows=rows,
        cards=cards,
        choices={"kind": "Gained or lost", "pair": "Classes"},
    )


def flip_card(file: str, a: Prediction, b: Prediction, images: PageImages) -> Card:
    kind = "gained" if b.right else "lost"
    wrong = a.predicted if b.right else b.predicted
    drawn = images.maps.get(file)
    if drawn:
        map_a, map_b = drawn
        picture = side_by_side([map_a.image, map_a.spotlit, map_b.spotlit])
    else:
        picture = thumbnail(images.stored.image(file), LONGEST_SIDE)
    return Card(
        image=picture,
        alt=f"{file}: {a.predicted} in A, {b.predicted} in B",
        caption=f"{kind}: {file}, true class {a.actual}",
        classes=[
            {"label": f"A: {a.predicted}", "probability": a.confidence},
            {"label": f"B: {b.predicted}", "probability": b.confidence},
        ],
        data={
            "kind": kind,
            "pair": f"{a.actual} taken for {wrong}",
            "maps": "yes" if drawn else "no",
        },
    )
