"""`python benchmarks/review_cost.py 5000 50000`: seconds of one core and memory of the stage
`review`, with made-up images and features, in benchmarks/review_cost.csv.

As many images to train on as each argument says, 1,000 to validate on, and 10,000 test images; ten
classes, 192 features, 32 pixels.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vit_finetune.core.arrays import encode_names
from vit_finetune.core.files import read_csv, write_csv
from vit_finetune.params import Params
from vit_finetune.review import page, suspects

TABLE = Path(__file__).with_suffix(".csv")
CLASSES = 10
FEATURES = 192
SIDE = 32
VAL = 1_000
TEST = 10_000


def made_up(folder: Path, train: int) -> suspects.Images:
    rng = np.random.default_rng(0)
    counts = (TEST, VAL, train)
    labels = rng.integers(0, CLASSES, sum(counts))
    centres = rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
    features = rng.normal(size=(len(labels), FEATURES)).astype(np.float32)
    features += 0.5 * centres[labels]
    pixels = []
    for part, count in zip(suspects.PARTS, counts, strict=True):
        path = folder / f"{part}.npy"
        shape = (count, SIDE, SIDE, 3)
        file = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        for start in range(0, count, 10_000):
            chunk = file[start : start + 10_000]
            chunk[:] = rng.integers(0, 256, chunk.shape, dtype=np.uint8)
        file.flush()
        pixels.append(np.load(path, mmap_mode="r"))
    return suspects.Images(
        name="made up",
        classes=[str(number) for number in range(CLASSES)],
        pixels=pixels,
        part=np.repeat(np.arange(len(counts)), counts),
        labels=labels,
        files=encode_names(map(str, range(len(labels)))),
        groups=np.arange(len(labels)),
        pretrained=features[TEST:],
        features=features,
    )


def measure(train: int) -> None:
    settings = Params().review
    with tempfile.TemporaryDirectory() as folder:
        images = made_up(Path(folder), train)
        start = time.process_time()
        kept = np.zeros(len(images.labels), dtype=bool)
        found = suspects.review(images, kept, 0, settings.wrong_labels, settings.copies)
        page.compose(images, found, [])
        seconds = time.process_time() - start
    row = {
        "train": train,
        "cpu_s": round(seconds, 1),
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(row, flush=True)
    rows = read_csv(TABLE) if TABLE.exists() else []
    write_csv(TABLE, [*(old for old in rows if int(old["train"]) != train), row])


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")  # so that each has a peak of its own
    for argument in sys.argv[1:]:
        process = context.Process(target=measure, args=(int(argument),))
        process.start()
        process.join()
