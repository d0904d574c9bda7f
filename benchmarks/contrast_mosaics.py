"""`python benchmarks/contrast_mosaics.py`: does the contrast of two classes point at their images?

Mosaics of four test images of different classes, from the finished run in the work tree. The
contrast of two of the classes is asked for. Printed is the share of its positive part in the
quadrant of the first class, and of its negative part in that of the second, with 95 % intervals;
chance is 0.25.
"""

import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from vit_finetune.attention.maps import CLASS_AGNOSTIC, MapMaker  # noqa: E402
from vit_finetune.attention.pointing import mosaics, quadrant_share  # noqa: E402
from vit_finetune.core.arrays import read_split  # noqa: E402
from vit_finetune.intervals import mean  # noqa: E402
from vit_finetune.model.build import preprocessing  # noqa: E402
from vit_finetune.model.saved import load_model  # noqa: E402

MOSAICS = 96


def main() -> None:
    rng = np.random.default_rng(0)
    model = load_model(ROOT / "models/finetuned")
    images, labels = read_split(ROOT / "data/subset", "test", "images", "labels")
    tiles, sources, first = mosaics(images, np.array(labels), MOSAICS, rng)
    second = (first + rng.integers(1, 4, size=MOSAICS)) % 4
    one, other = (
        torch.from_numpy(labels[sources[np.arange(MOSAICS), at]]) for at in (first, second)
    )
    pixels = preprocessing(model, None)(torch.from_numpy(tiles))
    for name, values in MapMaker(model).maps(pixels, one, other).items():
        if name in CLASS_AGNOSTIC:
            continue
        parts = (
            quadrant_share(values, torch.from_numpy(first)),
            quadrant_share(-values, torch.from_numpy(second)),
        )
        said = "; ".join("{:.2f} [{:.2f}, {:.2f}]".format(*mean(part)[:3]) for part in parts)
        print(f"{name}: positive part, negative part: {said}, n = {MOSAICS}", flush=True)


if __name__ == "__main__":
    main()
