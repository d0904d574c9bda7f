"""What an epoch costs here, and in the loop that one would write instead: `python
benchmarks/epoch.py`

The loop: a DataLoader with workers, timm's PIL transform of each image in every epoch, frozen
parameters without gradients, AdamW, in float32. Here, the same blocks of the model in
models/pretrained, in float32 or in --precision, one plain view of the same images of data/subset,
whose activations are at hand. The two take turns, and the ratio is of seconds an image, pair by
pair. The activations are computed once before, which is printed too: that is what a first run pays.
"""

import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader, Dataset

from vit_finetune.activations.files import DTYPES
from vit_finetune.core.arrays import read_split
from vit_finetune.model.boundary import SplitModel, run_prefix, to_device
from vit_finetune.model.build import preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import load_model
from vit_finetune.params import read_params
from vit_finetune.training.data import TrainingData
from vit_finetune.training.trainer import Trainer, make_optimizer

PLAIN = {  # instead of what params.yaml says
    "epochs": 1,
    "min_steps": 0,
    "batch_size": 64,
    "token_dropout": 0.0,
    "mixup": 0.0,
    "label_smoothing": 0.0,
    "grad_clip": None,
}
CPU = torch.device("cpu")


class Photographs(Dataset):
    def __init__(self, images, labels, transform):
        self.images = images
        self.labels = labels
        self.transform = transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def loop_epoch(model, loader, optimizer):
    for pixels, labels in loader:
        loss = F.cross_entropy(model(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def activations(model, images, blocks):
    preprocess = preprocessing(model, None)
    batches = []
    for batch in torch.from_numpy(images).split(32):
        batches.append(run_prefix(model, preprocess(batch), blocks).half())
    return torch.cat(batches)


def trained_model(blocks, classes):
    torch.manual_seed(0)
    model = load_model("models/pretrained", num_classes=classes)
    freeze(model, blocks)
    return model


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=512, help="of the loop; stored activations allow more"
    )
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2], choices=range(1, 13))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="here"
    )
    args = parser.parse_args()
    settings = read_params().train.model_copy(update=PLAIN)
    images, labels = read_split("data/subset", "train", "images", "labels")
    images = np.array(images[: args.images])
    labels = torch.tensor(labels[: args.images])
    classes = int(labels.max()) + 1
    precision = DTYPES[args.precision]
    threads = torch.get_num_threads()
    print(f"{args.images} images, {threads} threads, batches of {settings.batch_size}, {precision}")
    print("blocks  loop ms/image  here ms/image  ratio (lowest to highest)  once, ms/image")
    for blocks in args.blocks:
        start = time.perf_counter()
        backbone = load_model("models/pretrained", num_classes=classes)
        stored = activations(backbone, images, blocks).clone()
        once = time.perf_counter() - start

        model = trained_model(blocks, classes)
        transform = create_transform(**resolve_model_data_config(model), is_training=False)
        loader = DataLoader(
            Photographs(images, labels, transform),
            settings.batch_size,
            shuffle=True,
            num_workers=2,
            persistent_workers=True,
        )
        loop = partial(loop_epoch, model, loader, make_optimizer(model, settings))

        model = to_device(trained_model(blocks, classes), CPU, precision)
        split_model = SplitModel(model, blocks, preprocessing(model, None), CPU, precision)
        data = TrainingData(
            train=stored,
            labels=labels,
            groups=np.arange(len(labels)),
            val=stored,
            val_labels=labels,
            val_groups=np.arange(len(labels)),
        )
        trainer = Trainer(split_model, data, settings, name="train", seed=0)
        here = partial(trainer.run_epoch, 1)

        loop()  # a first time, for caches and workers
        here()
        pairs = [(seconds(loop), seconds(here)) for _ in range(args.repeats)]
        ratios = sorted(of_loop / of_here for of_loop, of_here in pairs)
        loop_ms = 1000 * statistics.median(pair[0] for pair in pairs) / args.images
        here_ms = 1000 * statistics.median(pair[1] for pair in pairs) / args.images
        once_ms = 1000 * once / args.images
        spread = f"{statistics.median(ratios):.3g} ({ratios[0]:.3g} to {ratios[-1]:.3g})"
        print(
            f"{blocks:6}  {loop_ms:13.2f}  {here_ms:13.4f}  {spread:>25}  {once_ms:14.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
