"""The picture of the first suspects: arrays in, a matplotlib Figure out."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from vit_finetune import style
from vit_finetune.review.suspects import KINDS, Images, Suspect

COLUMNS = 4  # suspects of each kind
WIDE = 2.15  # cells of a suspect and its neighbour
TALL = 1.75
FILE_SIZE = 5.0  # points
FILE_LETTERS = 22  # that fit over an image


@style.styled
def first_suspects(images: Images, suspects: Sequence[Suspect]) -> Figure:
    """For each kind the suspects with the highest scores, each beside its nearest image, with their
    labels and files."""
    by_kind = {
        kind: [suspect for suspect in suspects if suspect.kind == kind]
        for kind in KINDS
        if any(suspect.kind == kind for suspect in suspects)
    }
    title = "Images to look at, each beside its nearest" if by_kind else "Nothing to look at"
    figure, axes, inch = style.canvas(COLUMNS * WIDE, max(1, TALL * len(by_kind)), title)
    names = [name_of(images, row) for s in suspects for row in (s.row, s.neighbour)]
    _, size = style.fit_texts(names[: 8 * COLUMNS], 0.94 * inch, em=0.7)
    for number, (kind, of_kind) in enumerate(by_kind.items()):
        y = TALL * number
        axes.text(0, y + 0.2, f"{kind}: {len(of_kind):,}", weight="bold")
        for column, suspect in enumerate(of_kind[:COLUMNS]):
            for place, row in enumerate((suspect.row, suspect.neighbour)):
                x = column * WIDE + place
                file = style.shorten(images.file(row), FILE_LETTERS)
                name = style.shorten(name_of(images, row), 16)
                axes.text(x, y + 0.45, name, fontsize=size)
                axes.text(x, y + 0.6, file, fontsize=FILE_SIZE, color=style.QUIET)
                style.place(axes, images.image(row), x, y + 0.65)
    return figure


def name_of(images: Images, row: int) -> str:
    return images.classes[images.labels[row]]
