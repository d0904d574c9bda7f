"""`python benchmarks/contrast_mosaics.py`: does the contrast of two classes point at their images?

Mosaics of four test images of different classes, from the finished run in the work tree. The
contrast of two of the classes is asked for. Printed is the fraction of its positive part in the
quadrant of the first class, and of its negative part in that of the second, with 95 % intervals;
chance is 0.25.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from vit_finetune.attention.maps import METHODS, MapMaker
from vit_finetune.attention.pointing import cell_share, mosaics
from vit_finetune.core.arrays import read_split
from vit_finetune.intervals import mean
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import load_model

ROOT = Path(__file__).resolve().parents[1]
MOSAICS = 96


def in_words(fractions: np.ndarray) -> str:
    interval = mean(fractions)
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def main() -> None:
    rng = np.random.default_rng(0)
    model = load_model(ROOT / "models/finetuned")
    images, labels = read_split(ROOT / "data/subset", "test", "images", "labels")
    tiles, sources, first = mosaics(images, np.array(labels), np.arange(len(labels)), MOSAICS, rng)
    second = (first + rng.integers(1, 4, size=MOSAICS)) % 4
    one = torch.from_numpy(labels[sources[np.arange(MOSAICS), first]])
    other = torch.from_numpy(labels[sources[np.arange(MOSAICS), second]])
    pixels = preprocessing(model, None)(torch.from_numpy(tiles))
    for name, values in MapMaker(model).maps(pixels, one, other).items():
        if not METHODS[name].asks:
            continue
        positive = in_words(cell_share(values, torch.from_numpy(first)))
        negative = in_words(cell_share(-values, torch.from_numpy(second)))
        print(f"{name}: positive part {positive}; negative part {negative}; n = {MOSAICS}")


if __name__ == "__main__":
    main()
