"""`python tools/pictures.py`: the pictures of README and tutorial, from the committed run.

docs/contrast.png has the most confident mistakes, each beside itself with what speaks for the
predicted and for the true class; docs/attention.png the first test image of each class that the
model gets right, beside itself under a spotlight. The map is the one that deserves most trust (the
highest lower end of `minus_centre` in plots/attention_maps.csv). docs/tutorial/ has pictures of the
run as WebP, and sources.json says which outputs they show, by their MD5 in dvc.lock.
"""

import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from vit_finetune.attention.pixels import bright_end, spotlight
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
MISTAKES = 8  # of docs/contrast.png
# colours of the page of attention
FOR = (255, 223, 63)
AGAINST = (63, 127, 255)
CHARTS = {  # table of plots/ that the tutorial shows -> template
    "adaptation": "history",
    "history": "history",
    "reliability": "reliability",
    "attention_curves": "attention_curves",
}


def chosen_map() -> str:
    rows = [row for row in read_csv(ROOT / "plots/attention_maps.csv") if row["verdict"]]
    return max(rows, key=lambda row: float(row["minus_centre_low"]))["map"]


def two_colours(image: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """The image (h, w, 3) under the spotlight of a signed map (h, w), as on the page of attention:
    yellow where the map is above 0, blue where it is below."""
    sizes = np.abs(painted)
    strength = 0.5 * np.clip(sizes / bright_end(sizes), 0, 1)[..., None]
    colours = np.where(painted[..., None] > 0, FOR, AGAINST)
    lit = spotlight(image, sizes)
    return ((1 - strength) * lit + strength * colours).astype(np.uint8)


@styled
def spotlights(pairs: list[tuple[str, np.ndarray, np.ndarray]], title: str, columns: int) -> Figure:
    """Name, image and lit image of each pair."""
    rows = len(pairs) // columns
    figure = Figure(
        figsize=(WIDTH, 0.3 + rows * (0.3 + 0.45 * WIDTH / columns)), layout="constrained"
    )
    figure.suptitle(title, x=0.008, ha="left")
    axes = figure.subplots(rows, columns)
    for ax, (name, image, lit) in zip(axes.flat, pairs, strict=True):
        ax.imshow(np.concatenate([image, np.full((len(image), 8, 3), 255, np.uint8), lit], axis=1))
        ax.set_title(name)
        ax.axis("off")
    return figure


@styled
def tokens(image: np.ndarray, seen: np.ndarray, patch: int) -> Figure:
    """An image as it is stored, as the model sees it, and its patches apart."""
    figure, [panels] = figure_of(2.9, "From an image to tokens", 3)
    rows = seen.shape[0] // patch
    columns = seen.shape[1] // patch
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


def photograph(predictor: Predictor, image: np.ndarray) -> Photograph:
    """A stored image (H, W, 3), and the same in the size that the model sees."""
    height, width = predictor.preprocess.resized(*image.shape[:2])
    seen = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return Photograph("", np.array(image), np.asarray(seen))


def confident_mistakes(predictions: list[dict[str, str]]) -> list[int]:
    """Rows of the most confident mistakes whose label the review does not doubt."""
    doubtful = {row["file"] for row in read_csv(ROOT / "plots/review.csv")}
    wrong = []
    for row, one in enumerate(predictions):
        if one["actual"] != one["predicted"] and one["file"] not in doubtful:
            wrong.append(row)
    return sorted(wrong, key=lambda row: -float(predictions[row]["confidence"]))[:MISTAKES]


def main() -> None:
    images, labels = read_split(ROOT / "data/subset", "test", "images", "labels")
    predictions = read_csv(ROOT / "plots/predictions.csv")
    predictor = Predictor(ROOT / "models/finetuned", "cpu")
    method = chosen_map()
    mistakes = []
    for row in confident_mistakes(predictions):
        predicted, true = (predictions[row][name] for name in ("predicted", "actual"))
        photo = photograph(predictor, images[row])
        classes = [predictor.classes.index(name) for name in (predicted, true)]
        lit = two_colours(photo.shown, predictor.paint_map(photo, method, *classes))
        mistakes.append((f"{predicted}, not {true}", photo.shown, lit))
    title = "Mistakes: yellow speaks for the predicted class, blue for the true class"
    write_bytes(ROOT / "docs/contrast.png", png(spotlights(mistakes, title, 4)))

    right = np.array([row["actual"] == row["predicted"] for row in predictions])
    pairs = []
    stored = []
    for k, name in enumerate(predictor.classes):
        row = int(np.flatnonzero(right & (labels == k))[0])
        photo = photograph(predictor, images[row])
        painted = predictor.paint_map(photo, method, k, None)
        pairs.append((name, photo.shown, spotlight(photo.shown, painted)))
        stored.append(np.array(images[row]))
    title = f"CIFAR-10 test images: bright patches speak for the class ({method})"
    write_bytes(ROOT / "docs/attention.png", png(spotlights(pairs, title, 5)))
    tutorial(png(tokens(stored[-3], pairs[-3][1], predictor.model.patch_embed.patch_size[0])))


if __name__ == "__main__":
    main()
