"""`python tools/write_digits.py FOLDER`: scikit-learn's handwritten digits as image files, a folder
for each class."""

import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits


def main(folder: Path) -> None:
    bunch = load_digits()
    for number, (grey, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((grey * (255 / 16)).round().astype("uint8")).save(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python tools/write_digits.py FOLDER, for example data/images")
    main(Path(sys.argv[1]))
