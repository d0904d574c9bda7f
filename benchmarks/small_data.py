"""The pipeline against logistic regression on small data sets: `python benchmarks/small_data.py`

Both get the same images. The pipeline: every default of params.yaml but for data, sizes and, for
the last set, model. The regression: scikit-learn's, on the frozen model's features, of images that
timm's own transform prepared, its C chosen on the same validation images. A seed draws training and
validation images; the test images of a set are always the same. Each line of
benchmarks/small_data.csv is written as it is done, so an interrupted run goes on; then `python
tools/reference.py` puts the table into docs/benchmarks.md. The CIFAR-10 images are those of
data/raw.
"""

import argparse
import itertools
import shutil
import string

import numpy as np
import timm
import torch
from in_process import ROOT, prepare, run_stages
from PIL import Image
from sklearn.linear_model import LogisticRegression
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader, Dataset

from vit_finetune.core.arrays import read_split
from vit_finetune.core.device import set_up_torch
from vit_finetune.core.files import read_csv, write_csv
from vit_finetune.core.hashes import digest, key_of
from vit_finetune.data.digits import load_digits
from vit_finetune.params import read_yaml

WORK = ROOT / ".checkpoints/small_data"
TABLE = ROOT / "benchmarks/small_data.csv"
SEEDS = (0, 1, 2)
STRENGTHS = 10.0 ** np.arange(-6, 4)
TEST = 1_000
UNEQUAL = (500, 300, 180, 108, 65, 39, 23, 14, 8, 5)  # training images of each class
GLYPHS = {"model": {"name": "local-dir:pretrained/glyph-vit"}}


def draw(labels, counts, rng):
    """Rows of so many images of each class, and the other rows."""
    order = rng.permutation(len(labels))
    chosen = np.concatenate(
        [order[labels[order] == label][:count] for label, count in enumerate(counts)]
    )
    return chosen, np.setdiff1d(order, chosen)


def splits_of(pool, test, train, val, seed):
    """Training images by class counts `train`, then validation images by `val`, from a pool; TEST
    test images."""
    images, labels = pool
    rng = np.random.default_rng(seed)
    rows, rest = draw(labels, train, rng)
    val_rows = rest[draw(labels[rest], val, rng)[0]]
    first = np.random.default_rng(0).permutation(len(test[1]))[:TEST]
    return {
        "train": (images[rows], labels[rows]),
        "val": (images[val_rows], labels[val_rows]),
        "test": (test[0][first], test[1][first]),
    }


def cifar(train, val, seed, classes=range(10)):
    """CIFAR-10, or some of its classes."""
    parts = []
    for part in ("train", "test"):
        images, labels = read_split(ROOT / "data/raw", part, "images", "labels")
        rows = np.flatnonzero(np.isin(labels, classes))
        parts.append((images[rows], np.searchsorted(classes, labels[rows])))
    return splits_of(*parts, train, val, seed)


def digits(train, val, seed):
    """Handwritten digits of scikit-learn, 8 pixels a side."""
    data = load_digits()
    return splits_of(
        *((data.images[part], data.labels[part]) for part in ("train", "test")), train, val, seed
    )


def letters(train, val, seed):
    """Letters and digits of matplotlib's fonts, warped; the test images are of three other
    fonts."""
    import sys

    sys.path.insert(0, str(ROOT / "tools"))
    from pretrain_glyphs import FONTS, HELD_OUT_FONTS, make_batch, render_bank

    def drawn(fonts, count, start):
        pixels, labels = make_batch(render_bank(fonts), count, torch.Generator().manual_seed(start))
        return ((pixels.permute(0, 2, 3, 1) + 1) * 127.5).round().to(
            torch.uint8
        ).numpy(), labels.numpy()

    return splits_of(drawn(FONTS, 4_000, 1), drawn(HELD_OUT_FONTS, TEST, 2), train, val, seed)


SETS = {  # name: images, class names, changes of params.yaml
    "CIFAR-10, 100 images": (
        lambda seed: cifar([10] * 10, [5] * 10, seed),
        string.ascii_lowercase[:10],
        {},
    ),
    "CIFAR-10, 500 images": (
        lambda seed: cifar([50] * 10, [20] * 10, seed),
        string.ascii_lowercase[:10],
        {},
    ),
    "CIFAR-10, 1,000 images": (
        lambda seed: cifar([100] * 10, [50] * 10, seed),
        string.ascii_lowercase[:10],
        {},
    ),
    "cats and dogs, 50 each": (lambda seed: cifar([50] * 2, [25] * 2, seed, [3, 5]), "cd", {}),
    "ten classes, 500 to 5 images": (
        lambda seed: cifar(UNEQUAL, [max(2, count // 5) for count in UNEQUAL], seed),
        string.ascii_lowercase[:10],
        {},
    ),
    "digits, 300 images": (lambda seed: digits([30] * 10, [10] * 10, seed), string.digits, {}),
    "letters, 62 classes of 10": (
        lambda seed: letters([10] * 62, [5] * 62, seed),
        string.digits + string.ascii_uppercase + string.ascii_lowercase,
        {},
    ),
    "digits, 300 images, glyph ViT": (
        lambda seed: digits([30] * 10, [10] * 10, seed),
        string.digits,
        GLYPHS,
    ),
}


class Pictures(Dataset):
    def __init__(self, images, transform):
        self.images = images
        self.transform = transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index]))


@torch.inference_mode()
def features_of(images, name):
    """Pooled features (N, D) of the frozen model, by timm alone; those of the same images are
    computed once."""
    path = WORK / f"features-{key_of(digest(images), name)}.npy"
    if not path.is_file():
        model = timm.create_model(
            name.replace("local-dir:", f"local-dir:{ROOT}/"), pretrained=True, num_classes=0
        ).eval()
        pictures = Pictures(images, create_transform(**resolve_model_data_config(model)))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(
            path, torch.cat([model(some) for some in DataLoader(pictures, 16)]).double().numpy()
        )
    return np.load(path)


def regression_hits(splits, changes):
    """Which test images the regression gets right, and its C."""
    name = changes.get("model", read_yaml(ROOT / "params.yaml")["model"])["name"]
    features = {split: features_of(images, name) for split, (images, _) in splits.items()}
    fitted = [
        LogisticRegression(C=c, max_iter=5_000).fit(features["train"], splits["train"][1])
        for c in STRENGTHS
    ]
    best = max(fitted, key=lambda one: one.score(features["val"], splits["val"][1]))
    return best.predict(features["test"]) == splits["test"][1], best.C


def pipeline_hits(name, splits, classes, changes, seed):
    """Which test images the pipeline gets right, and the CPU seconds of its stages."""
    folder = WORK / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    prepare(
        folder,
        splits,
        classes,
        {"seed": seed, "runtime": {"threads": torch.get_num_threads()}, **changes},
    )
    seconds = run_stages(folder, "adapt", "embed", "train", "evaluate")
    rows = read_csv(folder / "plots/predictions.csv")
    shutil.rmtree(folder)
    return np.array([row["actual"] == row["predicted"] for row in rows]), sum(seconds.values())


def bits(hits):
    return "".join(str(int(hit)) for hit in hits)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    rows = read_csv(TABLE) if TABLE.is_file() else []
    done = {(row["data"], row["seed"]) for row in rows}
    for (name, (images, classes, changes)), seed in itertools.product(SETS.items(), SEEDS):
        if (name, str(seed)) in done:
            continue
        set_up_torch("auto", args.threads)
        splits = images(seed)
        theirs, c = regression_hits(splits, changes)
        ours, seconds = pipeline_hits(name, splits, classes, changes, seed)
        print(
            f"{name}, seed {seed}: {theirs.mean():.4f} -> {ours.mean():.4f}, {seconds:.0f} CPU s",
            flush=True,
        )
        rows.append(
            {
                "data": name,
                "seed": seed,
                "c": f"{c:g}",
                "cpu_s": round(seconds, 1),
                "regression": bits(theirs),
                "ours": bits(ours),
            }
        )
        write_csv(TABLE, rows)


if __name__ == "__main__":
    main()
