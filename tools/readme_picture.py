"""`python tools/readme_picture.py`: docs/attention.png, from the committed run.

The first test image of each class that the model gets right, beside itself under the spotlight of the map that deserves
most trust (the highest lower end of `minus_centre` in plots/attention_maps.csv).
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from vit_finetune.attention.pixels import spotlight  # noqa: E402
from vit_finetune.core.files import read_csv, read_split, write_bytes  # noqa: E402
from vit_finetune.predict import Photograph, Predictor  # noqa: E402
from vit_finetune.style import WIDTH, png, styled  # noqa: E402


def chosen_map() -> str:
    rows = [row for row in read_csv(ROOT / "plots/attention_maps.csv") if row["verdict"]]
    return max(rows, key=lambda row: float(row["minus_centre_low"]))["map"]


@styled
def picture(pairs: list[tuple[str, np.ndarray, np.ndarray]], method: str) -> Figure:
    """Class, image and lit image of each pair, five pairs to a row."""
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    figure.suptitle(f"CIFAR-10 test images, and what speaks for their class ({method})", x=0.008, ha="left")
    axes = figure.subplots(2, 5)
    for ax, (name, image, lit) in zip(axes.flat, pairs, strict=True):
        ax.imshow(np.concatenate([image, np.full((len(image), 8, 3), 255, np.uint8), lit], axis=1))
        ax.set_title(name)
        ax.axis("off")
    return figure


def main() -> None:
    images, labels = read_split(ROOT / "data/subset", "test", "images", "labels")
    predictions = read_csv(ROOT / "plots/predictions.csv")
    predictor, method = Predictor(ROOT / "models/finetuned", "cpu"), chosen_map()
    right = np.array([row["actual"] == row["predicted"] for row in predictions])
    pairs = []
    for k, name in enumerate(predictor.classes):
        row = int(np.flatnonzero(right & (labels == k))[0])
        size = predictor.preprocess.resized(*images.shape[1:3])
        seen = np.asarray(Image.fromarray(images[row]).resize(size[::-1], Image.Resampling.BICUBIC))
        painted = predictor.painted(Photograph(name, np.array(images[row]), seen), method, k, None)
        pairs.append((name, seen, spotlight(seen, painted)))
    write_bytes(ROOT / "docs/attention.png", png(picture(pairs, method)))


if __name__ == "__main__":
    main()
