"""`python -m vit_finetune.predict IMAGE...`: what the trained model says to files, folders, or
standard input (`-`)."""

import argparse
import io
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vit_finetune.attention.pixels import spotlight
from vit_finetune.core.device import set_up_torch
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import write_bytes, write_text
from vit_finetune.data.image_files import (
    UNREADABLE,
    around_crop,
    content_boxes,
    fit_image,
    image_files,
    open_image,
)
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import load_model, trained_config
from vit_finetune.pages.cards import Card
from vit_finetune.predict_page import prediction_card, predictions_page

BATCH = 32  # images; the result does not depend on it
DEFAULT_MAP = "relevance"
# characters of an image's name in that of its picture, in any script within a file system's limit
LONGEST_STEM = 50


@dataclass(frozen=True)
class Photograph:
    """An image that was read: its name, and its pixels (H, W, 3) uint8 in the size that the model
    was trained on."""

    name: str
    pixels: NDArray[np.uint8]
    seen: (
        NDArray[np.uint8] | None
    )  # larger, with what a crop cuts away, for a picture of its map; None if none is drawn
    crop: tuple[int, int] = (0, 0)  # top and left of what the model gets in `seen`
    # of what the model gets, without bars: top, left, bottom, right
    content: NDArray[np.int32] | None = None


class Predictor:
    """A fine-tuned model with what its folder says of its classes and of the images that it was
    trained on."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = set_up_torch(device, None, key="--device")
        config = trained_config(folder)
        self.classes, self.source = config["label_names"], config["trained_on"]
        self.model = load_model(folder).to(self.device)
        self.preprocess = preprocessing(self.model, None)

    def read(self, name: str, source: Path | io.BytesIO, draw: bool) -> Photograph:
        """One image, at once in the sizes that are needed: a photograph takes a hundred times the
        memory."""
        image = open_image(source)
        size, fit = self.source["image_size"], self.source["fit"]
        larger = self.preprocess.resized(*size)
        seen, crop = None, (0, 0)
        if draw:
            seen, crop = (
                around_crop(image, larger)
                if fit == "crop"
                else (fit_image(image, larger, fit), crop)
            )
        content = content_boxes(np.array([image.size[::-1]]), larger, fit)[0]
        return Photograph(name, fit_image(image, size, fit), seen, crop, content)

    def pixels(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Images (H, W, 3) of the size that the model was trained on -> (B, 3, h, w) as the model
        takes them."""
        return self.preprocess(torch.from_numpy(np.stack(images)).to(self.device))

    @torch.inference_mode()
    def probabilities(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """(B, K), on the CPU."""
        return self.model(self.pixels(images)).softmax(dim=1).cpu()

    def index(self, key: str, name: str | None) -> int | None:
        """The class of that name, None for None (UserError that names the key)."""
        if name is not None and name not in self.classes:
            raise UserError(
                f"{key} is {name}, which is no class of the model; use one of: {', '.join(self.classes)}"
            )
        return None if name is None else self.classes.index(name)

    def painted(
        self, photograph: Photograph, method: str, label: int, against: int | None
    ) -> NDArray[np.float64]:
        """A map of `photograph.seen`, (H, W), NaN on what was cut away and on bars: of what speaks
        for a class.

        With `against`, a second class, it is signed: of what speaks for the one and for the other.
        """
        from vit_finetune.attention.maps import MapMaker
        from vit_finetune.attention.pixels import PixelGrid

        assert photograph.seen is not None
        maker, size = MapMaker(self.model), self.preprocess.resized(*photograph.pixels.shape[:2])
        asked = [torch.tensor([k], device=self.device) for k in (label, against) if k is not None]
        found = maker.maps(self.pixels([photograph.pixels]), *asked)[method][0]
        grid = PixelGrid(size, size, self.preprocess.input_size, maker.layout.grid)
        painted = np.full(photograph.seen.shape[:2], np.nan)
        rows, columns = (
            slice(start, start + side) for start, side in zip(photograph.crop, size, strict=True)
        )
        painted[rows, columns] = grid.paint(found.cpu().numpy(), content=photograph.content)
        return painted

    def overlay(
        self,
        photograph: Photograph,
        painted: NDArray[np.float64],
        label: int,
        against: int | None,
        title: str,
    ) -> bytes:
        """A picture (PNG) of the image, and of a map of it as `painted` gives it."""
        from vit_finetune.attention.figures import contrast, overlay
        from vit_finetune.style import png

        assert photograph.seen is not None
        if against is not None:
            return png(
                contrast(photograph.seen, painted, self.classes[label], self.classes[against])
            )
        return png(overlay(photograph.seen, painted, title))


def find_images(names: Sequence[str]) -> Iterator[tuple[str, Path | io.BytesIO]]:
    """Name and source of each image: a file, every image below a folder in the order of their
    paths, or `-`.

    Raises:
        UserError: a folder without images.
    """
    for name in names:
        path = Path(name)
        if name == "-":
            yield name, io.BytesIO(sys.stdin.buffer.read())
        elif path.is_dir():
            files = image_files(path)[0]
            if not files:
                raise UserError(f"there is no image below the folder {name}")
            yield from ((str(file), file) for file in files)
        else:
            yield name, path


def read_images(
    predictor: Predictor, names: Sequence[str], draw: bool, unreadable: list[str]
) -> Iterator[Photograph]:
    """The images that can be read; of the others, one line each is added to `unreadable`."""
    for name, source in find_images(names):
        try:
            yield predictor.read(name, source, draw)
        except UNREADABLE as error:
            unreadable.append(f"{name} cannot be read as an image: {' '.join(str(error).split())}")


def describe(
    name: str, probabilities: torch.Tensor, classes: Sequence[str], top: int
) -> dict[str, Any]:
    """The most probable classes of one image, from (K,)."""
    values, order = probabilities.topk(min(top, len(classes)))
    ranked = [
        {"label": classes[k], "probability": round(p, 6)}
        for k, p in zip(order.tolist(), values.tolist(), strict=True)
    ]
    return {"image": name, **ranked[0], "top": ranked}


def explained_class(probabilities: torch.Tensor, label: int | None, against: int | None) -> int:
    """The class of which a picture is drawn: `label`, or of (K,) the most probable that is not
    `against`."""
    if label is not None:
        return label
    others = probabilities.clone()
    if against is not None:
        others[against] = -1
    return int(others.argmax())


def asked_classes(args: argparse.Namespace, predictor: Predictor) -> tuple[int | None, int | None]:
    """The classes of --class and --against (UserError for a name that is wrong, or equal ones)."""
    label, against = (
        predictor.index("--class", args.label),
        predictor.index("--against", args.against),
    )
    if label is not None and label == against:
        raise UserError(f"--class and --against are both {args.label}; name two classes")
    return label, against


def check_map(args: argparse.Namespace) -> None:
    """UserError if options of the map are given without a place to draw it, or do not go
    together."""
    from vit_finetune.attention.maps import CLASS_AGNOSTIC, METHODS

    if not (args.attention or args.page) and (args.label or args.against or args.map):
        raise UserError(
            "--map, --class and --against say what is drawn; name a folder with --attention, or a --page"
        )
    if args.map and args.map not in METHODS:
        raise UserError(f"--map is {args.map}; use one of: {', '.join(METHODS)}")
    if args.against and args.map in CLASS_AGNOSTIC:
        raise UserError(
            f"--map is {args.map}, which knows no class, so there is nothing --against another to draw"
        )


def run(args: argparse.Namespace) -> list[str]:
    """Print a line for each image, and return what could not be read."""
    unreadable: list[str] = []
    cards: list[Card] = []
    check_map(args)
    predictor = Predictor(Path(args.model), args.device)
    label, against = asked_classes(args, predictor)
    draws = bool(args.attention or args.page)
    images, number = read_images(predictor, args.images, draws, unreadable), count()
    while batch := list(islice(images, BATCH)):
        probabilities = predictor.probabilities([image.pixels for image in batch])
        for image, row in zip(batch, probabilities, strict=True):
            answer = describe(image.name, row, predictor.classes, args.top)
            if draws:
                drawn = explained_class(row, label, against)
                painted = predictor.painted(image, args.map or DEFAULT_MAP, drawn, against)
                answer |= {"map": args.map or DEFAULT_MAP, "map_class": predictor.classes[drawn]}
            if args.attention:
                stem = Path(image.name).stem[:LONGEST_STEM]
                answer["attention"] = str(Path(args.attention) / f"{next(number):04}-{stem}.png")
                said = f"{answer['label']} {answer['probability']:.2f}, "
                said += f"{args.map or DEFAULT_MAP} for {predictor.classes[drawn]}"
                write_bytes(
                    answer["attention"], predictor.overlay(image, painted, drawn, against, said)
                )
            if args.page:
                assert image.seen is not None
                pictures = image.seen, spotlight(image.seen, painted)
                cards.append(
                    prediction_card(image.name, *pictures, predictor.classes[drawn], answer["top"])
                )
            shown = ", ".join(
                f"{entry['label']} {entry['probability']:.3f}" for entry in answer["top"]
            )
            print(json.dumps(answer) if args.json else f"{image.name}: {shown}", flush=True)
    if args.page:
        page = predictions_page(cards, args.map or DEFAULT_MAP, args.against)
        write_text(args.page, page)
    return unreadable


def at_least_one(text: str) -> int:
    """For argparse: a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m vit_finetune.predict", description=__doc__)
    made.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, a folder, or - for standard input"
    )
    made.add_argument(
        "--model", default="models/finetuned", help="folder of the trained model (%(default)s)"
    )
    made.add_argument(
        "--top",
        type=at_least_one,
        default=3,
        help="classes to show, most probable first (%(default)s)",
    )
    made.add_argument(
        "--json", action="store_true", help="a JSON object for each image, one to a line"
    )
    made.add_argument(
        "--attention", metavar="FOLDER", help="also draw there what speaks for a class"
    )
    made.add_argument(
        "--page", metavar="FILE", help="also write one HTML page of all images, with their maps"
    )
    made.add_argument(
        "--map", metavar="NAME", help=f"map that is drawn, as in attention/ ({DEFAULT_MAP})"
    )
    made.add_argument(
        "--class",
        dest="label",
        metavar="NAME",
        help="class that is drawn (default: the predicted one)",
    )
    made.add_argument(
        "--against", metavar="NAME", help="a second class: also draw what speaks for it instead"
    )
    made.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="(%(default)s)"
    )
    return made


if __name__ == "__main__":
    # a reader such as `head` may leave early: then end without a word
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with readable_errors("predict"):
        problems = run(parser().parse_args())
        sys.exit("\n".join(f"predict: {line}" for line in problems) or 0)
