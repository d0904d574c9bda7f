"""How good is the demo? `python benchmarks/demo_accuracy.py` prints a table over several seeds,
none of them chosen.

On the handwritten digits, with the settings of profiles/demo.yaml: the shipped ViT fine-tuned as
the profile says and with its head alone; the same network with random frozen weights; and logistic
regression on the raw pixels, the bar that a transformer has to clear. A seed draws the training and
validation images and everything in training; the test images are always the same.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from in_process import ROOT, prepare, run_stages
from sklearn.linear_model import LogisticRegression

from vit_finetune.core.device import set_up_torch
from vit_finetune.core.files import read_csv
from vit_finetune.data.digits import load_digits
from vit_finetune.data.split import train_val_test
from vit_finetune.intervals import mean, wilson
from vit_finetune.params import check_params, read_yaml
from vit_finetune.profiles import merge

ALONE = {"adapt": {"epochs": 0}}  # frozen as it came


def fine_tuned(overlay, seed: int, data, indices, changes) -> np.ndarray:
    """Predicted classes of the test images, of the pipeline's own stages."""
    splits = {}
    for split, rows in indices.items():
        part = "test" if split == "test" else "train"
        splits[split] = data.images[part][rows], data.labels[part][rows]
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), splits, data.classes, merge(merge(overlay, {"seed": seed}), changes))
        run_stages(Path(place), "adapt", "embed", "train", "evaluate")
        rows = read_csv(Path(place) / "plots/predictions.csv")
    return np.array([data.classes.index(row["predicted"]) for row in rows])


def pixel_regression(data, indices) -> np.ndarray:
    """Logistic regression on the 64 grey levels, its strength chosen on the validation images."""
    pixels = {}
    labels = {}
    for split, rows in indices.items():
        part = "test" if split == "test" else "train"
        images = data.images[part][rows]
        pixels[split] = images[..., 0].reshape(len(images), -1) / 255
        labels[split] = data.labels[part][rows]
    models = []
    for strength in (0.1, 1, 10, 100):
        model = LogisticRegression(C=strength, max_iter=5000)
        models.append(model.fit(pixels["train"], labels["train"]))
    best = max(models, key=lambda model: model.score(pixels["val"], labels["val"]))
    return best.predict(pixels["test"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to n - 1")
    args = parser.parse_args()
    set_up_torch("cpu", None)
    overlay = read_yaml(ROOT / "profiles" / f"{args.profile}.yaml")
    params = check_params(merge(read_yaml(ROOT / "params.yaml"), overlay))
    sizes = params.subset
    data = load_digits()
    methods = {
        "shipped ViT, as the profile trains it": {},
        "shipped ViT, head alone": {"freeze": {"trainable_blocks": 0}, **ALONE},
        "random frozen ViT, head alone": {
            "freeze": {"trainable_blocks": 0},
            "model": {"pretrained": False},
            **ALONE,
        },
        "logistic regression on pixels": None,
    }
    hits: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for seed in range(args.seeds):
        indices = train_val_test(data.labels, seed=seed, **sizes.model_dump(exclude={"leaks"}))
        truth = data.labels["test"][indices["test"]]
        for name, options in methods.items():
            if options is None:
                predicted = pixel_regression(data, indices)
            else:
                predicted = fine_tuned(overlay, seed, data, indices, options)
            hits[name].append(predicted == truth)
            print(f"seed {seed}: {name}: {hits[name][-1].mean():.4f}", file=sys.stderr, flush=True)

    bar = np.mean(hits["logistic regression on pixels"], axis=0)
    n = len(bar)
    print(
        f"| method | accuracy, mean of {args.seeds} seeds | 95 % (n = {n}) | lowest to highest "
        "| minus pixels |"
    )
    print("|---|---|---|---|---|")
    for name, right in hits.items():
        by_seed = np.mean(right, axis=1)
        by_image = np.mean(right, axis=0)
        low, high = wilson(round(by_image.mean() * n), n)
        change = mean(by_image - bar)
        margin = f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
        spread = f"{by_seed.min():.4f} to {by_seed.max():.4f}"
        print(f"| {name} | {by_image.mean():.4f} | [{low:.3f}, {high:.3f}] | {spread} | {margin} |")


if __name__ == "__main__":
    main()
