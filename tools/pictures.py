"""`python tools/pictures.py`: the pictures of README and tutorial, from the committed run.

docs/attention.png has the first test image of each class that the model gets right, beside itself
under the spotlight of the map that deserves most trust (the highest lower end of `minus_centre` in
plots/attention_maps.csv). docs/tutorial/ has pictures of the run as WebP, and sources.json says
which outputs they show, by their MD5 in dvc.lock.
"""

import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from vit_finetune.attention.pixels import spotlight
from vit_finetune.charts import render
from vit_finetune.core.arrays import read_split
from vit_finetune.core.files import new_folder, read_csv, write_bytes, write_json
from vit_finetune.params import read_yaml
from vit_finetune.prediction.predictor import Photograph, Predictor
from vit_finetune.style import WIDTH, figure_of, png, styled

ROOT = Path(__file__).resolve().parent.parent
IMAGES = (  # pictures of plots/ that the tutorial shows
    "samples",
    "confusion",
    "mistakes",
    "attention_blocks",
    "attention_montage",
    "attention_classes",
)
CHARTS = {  # table of plots/ that the tutorial shows -> template
    "adaptation": "history",
    "history": "history",
    "reliability": "reliability",
    "attention_curves": "attention_curves",
}


def chosen_map() -> str:
    rows = [row for row in read_csv(ROOT / "plots/attention_maps.csv") if row["verdict"]]
    return max(rows, key=lambda row: float(row["minus_centre_low"]))["map"]


@styled
def spotlights(pairs: list[tuple[str, np.ndarray, np.ndarray]], method: str) -> Figure:
    """Class, image and lit image of each pair, five pairs to a row."""
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    figure.suptitle(
        f"CIFAR-10 test images: bright patches speak for the class ({method})", x=0.008, ha="left"
    )
    axes = figure.subplots(2, 5)
    for ax, (name, image, lit) in zip(axes.flat, pairs, strict=True):
        ax.imshow(np.concatenate([image, np.full((len(image), 8, 3), 255, np.uint8), lit], axis=1))
        ax.set_title(name)
        ax.axis("off")
    return figure


@styled
def tokens(image: np.ndarray, seen: np.ndarray, patch: int) -> Figure:
    """An image as it is stored, as the model sees it, and its patches apart."""
    figure, [panels] = figure_of(2.9, "From an image to tokens", 3)
    rows, columns = seen.shape[0] // patch, seen.shape[1] // patch
    gap = 4
    apart = np.full((rows * (patch + gap) - gap, columns * (patch + gap) - gap, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            block = seen[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            apart[row * (patch + gap) :, column * (patch + gap) :][:patch, :patch] = block
    height, width = image.shape[:2]
    titles = (
        f"stored: {height} × {width} pixels",
        f"resized: {seen.shape[0]} × {seen.shape[1]} pixels",
        f"{rows} × {columns} patches: {rows * columns} tokens, and CLS",
    )
    for ax, picture, title in zip(panels, (image, seen, apart), titles, strict=True):
        ax.imshow(picture)
        ax.set_title(title)
        ax.axis("off")
    return figure


def webp(picture: bytes) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").save(stream, "WEBP", quality=82, method=6)
    return stream.getvalue()


def hashes() -> dict[str, str]:
    """The MD5 of every output in dvc.lock."""
    stages = read_yaml(ROOT / "dvc.lock")["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}


def tutorial(first: bytes) -> None:
    """docs/tutorial/; `first` is the picture of the tokens."""
    locked = hashes()
    sources = {}
    with new_folder(ROOT / "docs/tutorial") as folder:
        write_bytes(folder / "tokens.webp", webp(first))
        for name in IMAGES:
            source = f"plots/{name}.png"
            write_bytes(folder / f"{name}.webp", webp((ROOT / source).read_bytes()))
            sources[name] = {source: locked[source]}
        for name, template in CHARTS.items():
            source = f"plots/{name}.csv"
            chart = render.png(template, read_csv(ROOT / source))
            write_bytes(folder / f"{name}.webp", webp(chart))
            sources[name] = {source: locked[source]}
        write_json(folder / "sources.json", sources)


def main() -> None:
    images, labels = read_split(ROOT / "data/subset", "test", "images", "labels")
    predictions = read_csv(ROOT / "plots/predictions.csv")
    predictor = Predictor(ROOT / "models/finetuned", "cpu")
    method = chosen_map()
    right = np.array([row["actual"] == row["predicted"] for row in predictions])
    pairs = []
    stored = []
    for k, name in enumerate(predictor.classes):
        row = int(np.flatnonzero(right & (labels == k))[0])
        size = predictor.preprocess.resized(*images.shape[1:3])
        seen = np.asarray(Image.fromarray(images[row]).resize(size[::-1], Image.Resampling.BICUBIC))
        painted = predictor.paint_map(
            Photograph(name, np.array(images[row]), seen), method, k, None
        )
        pairs.append((name, seen, spotlight(seen, painted)))
        stored.append(np.array(images[row]))
    write_bytes(ROOT / "docs/attention.png", png(spotlights(pairs, method)))
    tutorial(png(tokens(stored[-3], pairs[-3][1], predictor.model.patch_embed.patch_size[0])))


if __name__ == "__main__":
    main()
