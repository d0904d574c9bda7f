"""`python tools/write_jpegs.py FOLDER COUNT`: generated JPEG files of 300 x 200 pixels in ten
classes, no two alike."""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

CLASSES = 10
WIDTH = 300
HEIGHT = 200
BASES = 20


def main(folder: Path, count: int) -> None:
    """Bases are textures that compress like photographs; each file is one of them, shifted by its
    own number of pixels and with a line of its own colour."""
    rng = np.random.default_rng(0)
    noise = (
        rng.integers(256, size=(2 * HEIGHT, 2 * WIDTH, 3), dtype=np.uint8) for _ in range(BASES)
    )
    bases = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)) for image in noise]
    for name in range(CLASSES):
        (folder / f"class {name}").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        x, y = (int(rng.integers(side)) for side in (WIDTH, HEIGHT))
        image = bases[number % BASES].crop((x, y, x + WIDTH, y + HEIGHT))
        image.paste(
            (number % 251, number // 251 % 251, number // 63001),
            (WIDTH // 3, 80, 2 * WIDTH // 3, 120),
        )
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        (folder / f"class {number % CLASSES}" / f"{number:07}.jpg").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    args = parser.parse_args()
    main(args.folder, args.count)
