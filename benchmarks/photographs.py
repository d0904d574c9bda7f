"""`python benchmarks/photographs.py SCIKIT_IMAGE FOLDER`: ten photographs cut into a data set of
ten classes, for `maps.py`.

A class is the crops of one photograph of scikit-image or scikit-learn: which one does a
crop come from? Training crops lie in the left 60 % of a photograph, test crops in the right 40 %,
so none overlap. `pip download --no-deps scikit-image` and `unzip` give SCIKIT_IMAGE, the folder
that holds `skimage/`. FOLDER gets `train/CLASS/` and `test/CLASS/`; set `data.name: folder` and
`data.folder` to it.
"""

import argparse
from pathlib import Path

import numpy as np
import sklearn
from PIL import Image

OF_SCIKIT_LEARN = {"dahlia": "flower.jpg", "temple": "china.jpg"}
OF_SCIKIT_IMAGE = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
SIDES = 96, 144  # of a crop, in pixels of the photograph
SPLIT = 0.6
CROPS = {"train": 40, "test": 10}  # of each class


def draw_crop(photograph: Image.Image, part: str, rng: np.random.Generator) -> Image.Image:
    """A square from one part of a photograph."""
    border = round(SPLIT * photograph.width)
    start, end = (0, border) if part == "train" else (border, photograph.width)
    side = int(rng.integers(*SIDES))
    left = int(rng.integers(start, end - side + 1))
    top = int(rng.integers(photograph.height - side + 1))
    return photograph.crop((left, top, left + side, top + side))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scikit_image", type=Path, help="the folder that holds skimage/")
    parser.add_argument("folder", type=Path, help="that is written")
    arguments = parser.parse_args()
    of_scikit_learn = Path(sklearn.__file__).parent / "datasets/images"
    of_scikit_image = arguments.scikit_image / "skimage/data"
    paths = {name: of_scikit_learn / file for name, file in OF_SCIKIT_LEARN.items()}
    paths |= {name: of_scikit_image / file for name, file in OF_SCIKIT_IMAGE.items()}
    rng = np.random.default_rng(0)
    for name, path in paths.items():
        photograph = Image.open(path).convert("RGB")
        for part, count in CROPS.items():
            folder = arguments.folder / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                draw_crop(photograph, part, rng).save(folder / f"{number:03}.png")


if __name__ == "__main__":
    main()
