"""Test images of runs, and maps of them, from DVC's cache: for the pages of `compare` and
`mistakes`."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_finetune.command_line import at_least_one, zero_or_more
from vit_finetune.comparison.runs import TABLE, Run, cache_folder, cached_files
from vit_finetune.core.arrays import decode_names
from vit_finetune.core.errors import UserError
from vit_finetune.core.progress import progress
from vit_finetune.pages.images import jpeg

if TYPE_CHECKING:
    from vit_finetune.prediction.predictor import Predictor

MODEL = "models/finetuned"
IMAGES = "data/subset"
MOST_IMAGES = 1000  # a browser filters so many cards at once, and the page stays below 10 MB
MOST_MAPS = 24  # some ten seconds with the default model
LONGEST_SIDE = 160  # pixels of an image without a map
MAPS_NOTE = (
    "A map shows what speaks for the answer (map: relevance), each on its own scale: bright where "
    "it is high, dimmed where it is low. Whether a map explains a prediction has to be measured: "
    "see plots/attention_maps.csv of the run."
)

Pixels = NDArray[np.uint8]


class StoredImages(NamedTuple):
    """The test images of a run.

    Attributes:
        pixels: (N, H, W, 3), mapped from a file.
        content: of padded images the boxes without the bars, (N, 4): top, left, bottom, right.
        rows: row of each image by its file.
    """

    pixels: Pixels
    content: NDArray[np.int32] | None
    rows: dict[str, int]

    def image(self, file: str) -> Pixels:
        """(H, W, 3)."""
        return np.array(self.pixels[self.rows[file]])


class Drawn(NamedTuple):
    """An image (H, W, 3), and the same under the spotlight of a map."""

    image: Pixels
    spotlit: Pixels


class PageImages(NamedTuple):
    """What a page shows.

    Attributes:
        files: of its images, in their order.
        maps: of the first of them a map by each run.
        notes: what is left out, and why.
    """

    files: Sequence[str]
    stored: StoredImages
    maps: dict[str, list[Drawn]]
    notes: list[str]


def add_page_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        type=at_least_one,
        default=MOST_IMAGES,
        metavar="N",
        help="largest number of images on the page (%(default)s)",
    )
    parser.add_argument(
        "--maps",
        type=zero_or_more,
        default=MOST_MAPS,
        metavar="N",
        help="how many of them have maps, which take time (%(default)s)",
    )


def page_images(runs: Sequence[Run], files: Sequence[str], images: int, maps: int) -> PageImages:
    """The first `images` files, and for the first `maps` of them a map by the model of each run for
    its own answer.

    Raises:
        UserError: no run has its images in DVC's cache.
    """
    cache = cache_folder()
    shown = files[:images]
    stored = _first_stored(runs, shown, cache)
    notes = []
    if len(shown) < len(files):
        notes.append(f"{len(files) - len(shown):,} more images are left out: see --images.")
    without_model = [run.name for run in runs if not cached_files(run, MODEL, cache)]
    if without_model:
        notes.append(f"No maps: {MODEL} of {', '.join(without_model)} is not in DVC's cache.")
        return PageImages(shown, stored, {}, notes)
    drawn: dict[str, list[Drawn]] = {file: [] for file in shown[:maps]}
    if drawn:
        for run in runs:
            _draw_maps(run, stored, drawn, cache)
        notes.append(MAPS_NOTE)
    if len(drawn) < len(shown):
        notes.append(f"{len(shown) - len(drawn):,} images are shown without maps: see --maps.")
    return PageImages(shown, stored, drawn, notes)


def _first_stored(runs: Sequence[Run], files: Sequence[str], cache: Path) -> StoredImages:
    for run in runs:
        paths = cached_files(run, IMAGES, cache)
        if paths:
            return _read_stored(run, files, paths)
    names = " or ".join(run.name for run in runs)
    raise UserError(
        f"{IMAGES} of {names} is not in DVC's cache, so there is no image to show; get it with "
        "dvc fetch, or run dvc repro there"
    )


def _read_stored(run: Run, files: Sequence[str], paths: dict[str, Path]) -> StoredImages:
    names = decode_names(np.load(paths["test_files.npy"]))
    rows = {name: row for row, name in enumerate(names)}
    if not rows.keys() >= set(files):
        raise UserError(
            f"{TABLE} and {IMAGES} of {run.name} have other images; run dvc repro there"
        )
    content = paths.get("test_content.npy")
    return StoredImages(
        pixels=np.load(paths["test_images.npy"], mmap_mode="r"),
        content=np.load(content) if content else None,
        rows=rows,
    )


def _draw_maps(run: Run, stored: StoredImages, drawn: dict[str, list[Drawn]], cache: Path) -> None:
    """Add to each file of `drawn` a map by the model of the run."""
    from vit_finetune.prediction.predictor import Predictor

    with tempfile.TemporaryDirectory() as folder:
        for name, path in cached_files(run, MODEL, cache).items():
            (Path(folder) / name).symlink_to(path)
        predictor = Predictor(Path(folder), "cpu")
    for file in progress(drawn, f"maps of {run.name}", "image"):
        answer = run.predictions[file].predicted
        drawn[file].append(_draw_map(predictor, stored, file, answer))


def _draw_map(predictor: "Predictor", stored: StoredImages, file: str, answer: str) -> Drawn:
    from vit_finetune.attention.pixels import spotlight
    from vit_finetune.data.image_files import fit_image
    from vit_finetune.prediction.predictor import DEFAULT_MAP, Photograph

    pixels = stored.image(file)
    height, width = predictor.preprocess.resized(*pixels.shape[:2])
    shown = fit_image(Image.fromarray(pixels), (height, width), "squash")
    content = None
    if stored.content is not None:
        scale = np.array([height, width, height, width]) / pixels.shape[0]
        content = np.rint(stored.content[stored.rows[file]] * scale).astype(np.int32)
    photograph = Photograph(file, pixels, shown, content=content)
    label = predictor.classes.index(answer)
    painted = predictor.paint_map(photograph, DEFAULT_MAP, label, None)
    return Drawn(shown, spotlight(shown, painted))


def side_by_side(pictures: Sequence[Pixels]) -> bytes:
    """Pictures as one JPEG, each in the size of the first."""
    height, width = pictures[0].shape[:2]
    gap = np.full((height, max(1, width // 50), 3), 128, dtype=np.uint8)
    parts = [pictures[0]]
    for picture in pictures[1:]:
        resized = Image.fromarray(picture).resize((width, height))
        parts += [gap, np.asarray(resized)]
    return jpeg(np.concatenate(parts, axis=1))
