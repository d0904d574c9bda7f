"""From images to a trained model, start-up included: `python benchmarks/cold.py`

Three ways, each in processes of its own, one after the other, on the same model, images, blocks, batch size, learning
rate and epochs, one plain view, without what only one of them has (token dropout, mixing):

    here     python -m stages.embed, then python -m stages.train
    loop     a DataLoader with workers, timm's PIL transform, frozen parameters without gradients, AdamW, a cosine
    trainer  the Trainer of Hugging Face on the same module and transform (pip install 'transformers' 'accelerate')

The others compute in float32, as their users run them. Accuracy is that of the saved models on the same test images.
An epoch of the other two costs what the one before cost, so --epochs-run 2 stands for ten by adding the second one's
time for each that is left out; accuracy is then not comparable, and is not shown.
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
SETTINGS = {"train.token_dropout": 0, "train.mixup": 0, "train.brightness": 0, "embed.flip": "false"}
WAYS = ("here", "loop", "trainer")


def pieces(settings):
    """Model, images, labels, transform and data set of the two other ways."""
    import numpy as np
    import torch
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config
    from torch.utils.data import Dataset

    from vit_finetune.backbone import load_model
    from vit_finetune.files import read_split
    from vit_finetune.freezing import freeze

    images, labels = (np.array(array) for array in read_split("data/subset", "train", "images", "labels"))
    torch.manual_seed(0)
    model = load_model("models/pretrained", num_classes=10)
    freeze(model, settings["blocks"])
    transform = create_transform(**resolve_model_data_config(model), is_training=False)

    class Photographs(Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return {"pixels": transform(Image.fromarray(images[index])), "labels": int(labels[index])}

    return model, Photographs()


def loop(settings):
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    model, data = pieces(settings)
    loader = DataLoader(data, settings["batch_size"], shuffle=True, num_workers=2, persistent_workers=True)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), settings["lr"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings["epochs"] * len(loader))
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

    arguments = TrainingArguments(
        "trainer", per_device_train_batch_size=settings["batch_size"], learning_rate=settings["lr"],
        max_steps=settings["epochs_run"] * math.ceil(len(data) / settings["batch_size"]), lr_scheduler_type="cosine",
        save_strategy="no", report_to=[], dataloader_num_workers=2, dataloader_persistent_workers=True, use_cpu=True,
        remove_unused_columns=False, disable_tqdm=True, logging_strategy="no", optim="adamw_torch",
    )  # fmt: skip
    Trainer(Classifier(), arguments, train_dataset=data, callbacks=[Clock()]).train()
    return model


def run_other(way, settings):
    """In a process of its own: train, then save as the pipeline does."""
    from vit_finetune.backbone import preprocessing, save_model

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


def accuracy(folder, count):
    """Right answers of a saved model on the first test images of the original data, in float32."""
    import numpy as np
    import torch

    from vit_finetune.backbone import load_model, preprocessing
    from vit_finetune.files import read_split

    images, labels = (torch.tensor(np.array(a[:count])) for a in read_split("data/raw", "test", "images", "labels"))
    model = load_model(folder)
    preprocess = preprocessing(model, None)
    with torch.inference_mode():
        logits = torch.cat([model(preprocess(some)) for some in images.split(32)])
    return int((logits.argmax(1) == labels).sum())


def prepare(folder, settings, changes=None):
    """Go to a project whose subset is ready."""
    for name in ("src", "stages", "params.yaml", "pretrained"):
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder / name)
    (folder / "data").mkdir()
    (folder / "data/raw").symlink_to(ROOT / "data/raw")
    os.chdir(folder)
    from ruamel.yaml import YAML

    yaml = YAML()
    values = yaml.load(Path("params.yaml").read_text())
    wanted = SETTINGS | {"subset.train_size": settings["images"], "subset.val_size": 10, "subset.test_size": 10}
    wanted |= {
        "freeze.trainable_blocks": settings["blocks"],
        "train.epochs": settings["epochs"],
        "train.warmup_epochs": 0,
    }
    wanted |= {"attention.sample": 8, "attention.gallery": 2}
    for key, value in (wanted | (changes or {})).items():
        section, name = key.split(".")
        values[section][name] = yaml.load(str(value))
    yaml.dump(values, Path("params.yaml"))
    timed("-m", "stages.subset")
    return {**settings, "batch_size": values["train"]["batch_size"], "lr": values["train"]["lr"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--epochs-run", type=int, help="of the other two; default: all")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return run_other(args.run[0], json.loads(args.run[1]))
    run = min(args.epochs_run or args.epochs, args.epochs)
    print(f"{args.images} images, {args.epochs} epochs" + (f", {run} of them run" if run < args.epochs else ""))
    print("blocks  way          s  times here" + ("" if run < args.epochs else "  right of tested"), flush=True)
    for blocks in args.blocks:
        with tempfile.TemporaryDirectory() as place:
            asked = {"images": args.images, "blocks": blocks, "epochs": args.epochs, "epochs_run": run}
            settings, here = prepare(Path(place), asked), None
            for way in args.ways:
                if way == "here":
                    seconds = timed("-m", "stages.embed")[0] + timed("-m", "stages.train")[0]
                    here, folder = seconds, "models/finetuned"
                else:
                    seconds, epochs = timed(str(ROOT / "benchmarks/cold.py"), "--run", way, json.dumps(settings))
                    seconds, folder = seconds + (args.epochs - run) * epochs[-1], f"models/{way}"
                tested = ""
                if run == args.epochs:
                    tested = f"  {accuracy(folder, args.test_images)} of {args.test_images}"
                print(f"{blocks:6}  {way:7}  {seconds:6.1f}  {seconds / here:10.1f}{tested}", flush=True)
            os.chdir(ROOT)
    return None


if __name__ == "__main__":
    main()
