"""From images to a trained model, start-up included: `python benchmarks/cold.py`

Four ways, each in processes of its own, one after the other, on the same model, images, blocks,
batch size, learning rate and epochs, one plain view, without what only one of them has (token
dropout, mixing):

    here     python -m stages adapt (without adaptation), embed and train
    float32  the same without bfloat16
    loop     a DataLoader with workers, timm's PIL transform, frozen parameters without gradients,
    AdamW, a cosine
    trainer  the Trainer of Hugging Face on the same module and transform (pip install
    'transformers' 'accelerate')

The other two compute in float32, as their users run them, and are spared validation, which here
comes with every epoch and chooses one. Their epochs cost the same each, and in proportion to the
images; so with --epochs-run 2 --images-run 1280, the second of two epochs over 1,280 images stands
for each of the whole number over all of them, and what the process took beside them is added once.
Run whole, the saved models classify the same test images: accuracy, its interval, and the
difference to `here` with the interval of pairs.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "train.token_dropout": 0,
    "train.mixup": 0,
    "train.brightness": 0,
}
OWN = {"here": "auto", "float32": "float32"}
OTHERS = ("loop", "trainer")


def pieces(settings):
    """Model, images, labels, transform and data set of the two other ways."""
    import numpy as np
    import torch
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config
    from torch.utils.data import Dataset

    from vit_finetune.core.arrays import read_split
    from vit_finetune.model.freezing import freeze
    from vit_finetune.model.saved import load_model

    images, labels = (
        np.array(array) for array in read_split("data/subset", "train", "images", "labels")
    )
    torch.manual_seed(0)
    model = load_model("models/pretrained", num_classes=10)
    freeze(model, settings["blocks"])
    transform = create_transform(**resolve_model_data_config(model), is_training=False)

    class Photographs(Dataset):
        def __len__(self):
            return settings["images_run"]

        def __getitem__(self, index):
            return {
                "pixels": transform(Image.fromarray(images[index])),
                "labels": int(labels[index]),
            }

    return model, Photographs()


def loop(settings):
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    model, data = pieces(settings)
    loader = DataLoader(
        data, settings["batch_size"], shuffle=True, num_workers=2, persistent_workers=True
    )
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), settings["lr"]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, settings["epochs"] * len(loader)
    )
    for _ in range(settings["epochs_run"]):
        start = time.perf_counter()
        for batch in loader:
            loss = F.cross_entropy(model(batch["pixels"]), batch["labels"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {time.perf_counter() - start}", flush=True)
    return model


def trainer(settings):
    import torch.nn.functional as F
    from torch import nn
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model, data = pieces(settings)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels, labels):
            logits = self.model(pixels)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    class Clock(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **_):
            self.start = time.perf_counter()

        def on_epoch_end(self, args, state, control, **_):
            print(f"epoch {time.perf_counter() - self.start}", flush=True)

    steps_per_epoch = math.ceil(len(data) / settings["batch_size"])
    arguments = TrainingArguments(
        "trainer",
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["lr"],
        max_steps=settings["epochs_run"] * steps_per_epoch,
        lr_scheduler_type="cosine",
        optim="adamw_torch",
        use_cpu=True,
        dataloader_num_workers=2,
        dataloader_persistent_workers=True,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    Trainer(Classifier(), arguments, train_dataset=data, callbacks=[Clock()]).train()
    return model


def run_other(way, settings):
    """In a process of its own: train, then save as the pipeline does."""
    from vit_finetune.model.build import preprocessing
    from vit_finetune.model.saved import save_model

    model = {"loop": loop, "trainer": trainer}[way](settings)
    save_model(model, Path(f"models/{way}"), preprocessing(model, None))


def timed(*command):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start, [
        float(line.split()[1]) for line in done.stdout.splitlines() if "epoch " in line
    ]


def hits(folder, count):
    """Which of the first test images of the original data a saved model gets right, in float32:
    (N,)."""
    import numpy as np
    import torch

    from vit_finetune.core.arrays import read_split
    from vit_finetune.model.build import preprocessing
    from vit_finetune.model.saved import load_model

    images, labels = (
        torch.tensor(np.array(a[:count]))
        for a in read_split("data/raw", "test", "images", "labels")
    )
    model = load_model(folder)
    preprocess = preprocessing(model, None)
    with torch.inference_mode():
        logits = torch.cat([model(preprocess(some)) for some in images.split(32)])
    return (logits.argmax(1) == labels).numpy()


def in_words(right, here):
    """Accuracy with its interval, and the difference to `here` with that of the pairs (normal
    approximation)."""
    from vit_finetune.intervals import wilson

    low, high = wilson(int(right.sum()), len(right))
    gap = right.astype(float) - here
    mean = gap.mean()
    half = 1.96 * gap.std() / math.sqrt(len(gap))
    accuracy = f"{right.mean():.4f} [{low:.4f}, {high:.4f}]"
    return f"{accuracy}, {mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"


def write_params(changes):
    """The values of params.yaml under `section.name`."""
    from ruamel.yaml import YAML

    yaml = YAML()
    values = yaml.load(Path("params.yaml").read_text())
    for key, value in changes.items():
        section, name = key.split(".")
        values[section][name] = yaml.load(str(value))
    yaml.dump(values, Path("params.yaml"))
    return values


def prepare(folder, settings, changes):
    """Go to a project whose subset is ready."""
    for name in ("src", "stages", "params.yaml", "pretrained"):
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder / name)
    (folder / "data").mkdir()
    (folder / "data/raw").symlink_to(ROOT / "data/raw")
    os.chdir(folder)
    wanted = {
        "subset.train_size": settings["images"],
        "subset.val_size": settings["val"],
        "subset.test_size": 10,
    }
    wanted |= {"freeze.trainable_blocks": settings["blocks"], "train.epochs": settings["epochs"]}
    wanted |= {
        "train.warmup": 0,
        "train.min_steps": 0,
        "adapt.epochs": 0,
        "attention.sample": 8,
        "attention.gallery": 2,
    }
    values = write_params(SETTINGS | wanted | changes)
    timed("-m", "stages", "subset")
    return {**settings, "batch_size": values["train"]["batch_size"], "lr": values["train"]["lr"]}


def seconds_of(way, settings):
    """From the images to a saved model in models/finetuned (here) or models/<way>."""
    if way in OWN:
        write_params({"model.precision": OWN[way]})
        return sum(timed("-m", "stages", stage)[0] for stage in ("adapt", "embed", "train"))
    seconds, epochs = timed(str(ROOT / "benchmarks/cold.py"), "--run", way, json.dumps(settings))
    left_out = (
        settings["epochs"] * settings["images"] / settings["images_run"] - settings["epochs_run"]
    )
    return seconds + left_out * epochs[-1]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2], choices=range(1, 13))
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--epochs-run", type=int, help="of the other two; default: all")
    parser.add_argument("--images-run", type=int, help="of the other two; default: all")
    parser.add_argument("--ways", nargs="+", choices=(*OWN, *OTHERS), default=(*OWN, *OTHERS))
    parser.add_argument("--val-images", type=int, default=500)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return run_other(args.run[0], json.loads(args.run[1]))
    epochs = min(args.epochs_run or args.epochs, args.epochs)
    images = min(args.images_run or args.images, args.images)
    whole = (epochs, images) == (args.epochs, args.images)
    print(
        f"{args.images} images, {args.epochs} epochs"
        + ("" if whole else f"; of the others run: {images}, {epochs}")
    )
    print(
        "blocks  way          s  times here" + ("  accuracy, difference to here" if whole else ""),
        flush=True,
    )
    for blocks in args.blocks:
        with tempfile.TemporaryDirectory() as place:
            asked = {
                "images": args.images,
                "val": args.val_images,
                "blocks": blocks,
                "epochs": args.epochs,
            }
            settings = prepare(
                Path(place), asked | {"epochs_run": epochs, "images_run": images}, {}
            )
            here = None
            here_right = None
            for way in args.ways:
                seconds = seconds_of(way, settings)
                tested = ""
                here = here or seconds
                if whole:
                    right = hits(
                        "models/finetuned" if way in OWN else f"models/{way}", args.test_images
                    )
                    here_right = right if here_right is None else here_right
                    tested = in_words(right, here_right)
                print(
                    f"{blocks:6}  {way:7}  {seconds:6.1f}  {seconds / here:10.1f}  {tested}",
                    flush=True,
                )
            os.chdir(ROOT)
    return None


if __name__ == "__main__":
    main()
