"""How good is the demo? `python benchmarks/demo_accuracy.py` prints a table over several seeds, none of them chosen.

On the handwritten digits, with the settings of profiles/demo.yaml: the shipped ViT fine-tuned as the profile says
and with its head alone; the same network with random frozen weights; and logistic regression on the raw pixels, the
bar that a transformer has to clear. A seed draws the training and validation images and everything in training; the
test images are always the same.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from vit_finetune.core.device import set_up_torch  # noqa: E402
from vit_finetune.data.digits import load_digits  # noqa: E402
from vit_finetune.data.split import train_val_test  # noqa: E402
from vit_finetune.intervals import bootstrap, wilson  # noqa: E402
from vit_finetune.model.boundary import SplitModel  # noqa: E402
from vit_finetune.model.build import build_model, preprocessing  # noqa: E402
from vit_finetune.model.freezing import freeze  # noqa: E402
from vit_finetune.params import Params, check_params, read_yaml  # noqa: E402
from vit_finetune.params.freeze import Freeze  # noqa: E402
from vit_finetune.params.model import Model  # noqa: E402
from vit_finetune.params.subset import Subset  # noqa: E402
from vit_finetune.params.train import Train  # noqa: E402
from vit_finetune.profiles import merge  # noqa: E402
from vit_finetune.training.recipe import Recipe, TrainingData  # noqa: E402


def fine_tuned(params: Params, seed: int, data, indices, *, pretrained: bool, blocks: int) -> np.ndarray:
    """Predicted classes of the test images."""
    model_params = params.section(Model)
    model = build_model(model_params.name, pretrained=pretrained, image_size=model_params.image_size, seed=seed)
    preprocess = preprocessing(model, model_params.crop_pct)
    model.reset_classifier(len(data.classes))
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    freeze(model, blocks)
    split_model = SplitModel(model, blocks, preprocess, torch.device("cpu"), torch.float32)
    stored, labels = {}, {}
    for split, rows in indices.items():
        part = "test" if split == "test" else "train"
        images = torch.from_numpy(data.images[part][rows])
        stored[split] = torch.cat([split_model.tokens(some) for some in images.split(64)])
        labels[split] = torch.from_numpy(data.labels[part][rows])
    recipe = Recipe(params.section(Train), seed, params.section(Freeze).layer_decay)
    recipe.train(split_model, TrainingData([stored["train"]], labels["train"], stored["val"], labels["val"]))
    return split_model.predict(stored["test"]).argmax(1).numpy()


def pixel_regression(data, indices) -> np.ndarray:
    """Logistic regression on the 64 grey levels, its strength chosen on the validation images."""
    flat = {part: images[..., 0].reshape(len(images), -1) / 255 for part, images in data.images.items()}
    train, val = indices["train"], indices["val"]
    models = [LogisticRegression(C=c, max_iter=5000).fit(flat["train"][train], data.labels["train"][train])
              for c in (0.1, 1, 10, 100)]  # fmt: skip
    best = max(models, key=lambda model: model.score(flat["train"][val], data.labels["train"][val]))
    return best.predict(flat["test"][indices["test"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to n - 1")
    args = parser.parse_args()
    set_up_torch("cpu", None)
    overlay = read_yaml(ROOT / "profiles" / f"{args.profile}.yaml")
    params = check_params(merge(read_yaml(ROOT / "params.yaml"), overlay))
    sizes, blocks = params.section(Subset), int(params.section(Freeze).trainable_blocks)
    data = load_digits()
    methods = {
        f"shipped ViT, {blocks} blocks and head trained": {"pretrained": True, "blocks": blocks},
        "shipped ViT, head alone": {"pretrained": True, "blocks": 0},
        "random frozen ViT, head alone": {"pretrained": False, "blocks": 0},
        "logistic regression on pixels": None,
    }
    hits: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for seed in range(args.seeds):
        indices = train_val_test(data.labels, seed=seed, **sizes.model_dump())
        truth = data.labels["test"][indices["test"]]
        for name, options in methods.items():
            found = (
                pixel_regression(data, indices)
                if options is None
                else fine_tuned(params, seed, data, indices, **options)
            )
            hits[name].append(found == truth)
            print(f"seed {seed}: {name}: {hits[name][-1].mean():.4f}", file=sys.stderr, flush=True)

    bar = np.mean(hits["logistic regression on pixels"], axis=0)
    n = len(bar)
    print(f"| method | accuracy, mean of {args.seeds} seeds | 95 % (n = {n}) | lowest to highest | minus pixels |")
    print("|---|---|---|---|---|")
    for name, found in hits.items():
        by_seed, by_image = np.mean(found, axis=1), np.mean(found, axis=0)
        low, high = wilson(round(by_image.mean() * n), n)
        change = bootstrap(by_image - bar, np.random.default_rng(0))
        margin = f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
        spread = f"{by_seed.min():.4f} to {by_seed.max():.4f}"
        print(f"| {name} | {by_image.mean():.4f} | [{low:.3f}, {high:.3f}] | {spread} | {margin} |")


if __name__ == "__main__":
    main()
