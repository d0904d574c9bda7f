"""Other ways to adapt to 5,000 images of CIFAR-10, judged on images that train nothing.

    python benchmarks/adaptation.py --seeds 1 2 3
    python benchmarks/adaptation.py --seeds 1 2 3 --average    # the averages of the weights, too

A seed draws the images as benchmarks/default_run.py does. Each of WAYS is `adapt` with other
parameters, or with a change that the pipeline does not offer and that this script makes in memory.
Then `embed` and `train` follow with the parameters of params.yaml, from the last weights; with
--average also from the exponential average of the weights over the steps (decay 0.98). The features
of the pretrained model are computed once for a seed. The shipped way is always part of a run, since
the others are compared with its answers. A run leaves its answers and its row in
.run/adaptation/kept, and is not computed again. The rows together are benchmarks/adaptation.csv,
which keeps the rows of runs that are not in this folder:

    weights         last or average
    alone           accuracy on 3,000 images of CIFAR-10's training part, by which nothing was
                    trained, of the adapted model with the head that `adapt` trained
    probe, val      accuracy on validation images: of a linear probe of the adapted model, and of
                    what `train` keeps
    others          accuracy of that on the 3,000 images
    gained, lost    on how many of these it is right where the shipped way is wrong, and the other
                    way round
    adapt_s         CPU seconds of the training
"""

import argparse
import contextlib
import itertools
import shutil
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from default_run import answers_on_others, draw, gained_and_lost
from in_process import ROOT, prepare, run_stages
from timm.layers import resample_abs_pos_embed

from vit_finetune.activations.views import ImageView
from vit_finetune.core.device import set_up_torch
from vit_finetune.core.files import new_folder, read_csv, read_json, write_csv, write_json
from vit_finetune.data.cifar import load_cifar
from vit_finetune.model.adapted import Adapted
from vit_finetune.model.boundary import SplitModel, autocast
from vit_finetune.model.build import preprocessing
from vit_finetune.model.preprocessing import Preprocessing
from vit_finetune.model.saved import load_model, save_model
from vit_finetune.training import features, loss
from vit_finetune.training.augmentation import flip_some
from vit_finetune.training.trainer import Trainer

FOLDER = ROOT / ".run/adaptation"
TABLE = Path(__file__).with_suffix(".csv")
DECAY = 0.98
WEIGHTS = ("last", "average")


class Way:
    """Parameters of `adapt`, and what else is done. This one does nothing else."""

    def __init__(self, **parameters):
        self.parameters = {"min_steps": 0, **parameters}

    def token_dropout(self, shipped, progress):
        """Its value after a fraction of the steps."""
        return shipped

    def change_images(self, images, rng, rows, epoch):
        """What replaces `flip_some`, for the images (B, H, W, 3) of these rows."""
        return flip_some(images, rng)

    def input_size(self, shipped, epoch):
        """Pixels of a side of the model's input in an epoch."""
        return shipped


class FallingTokenDropout(Way):
    def __init__(self, first, last, **parameters):
        super().__init__(**parameters)
        self.first = first
        self.last = last

    def token_dropout(self, shipped, progress):
        return self.first + (self.last - self.first) * progress


class Translation(Way):
    """Each image is also moved by up to 4 of its 32 pixels; its border is reflected."""

    def change_images(self, images, rng, rows, epoch):
        mirrored = flip_some(images, rng).permute(0, 3, 1, 2).float()
        padded = F.pad(mirrored, (4, 4, 4, 4), mode="reflect")
        moved = []
        for image, (top, left) in zip(padded, rng.integers(9, size=(len(images), 2)), strict=True):
            moved.append(image[:, top : top + 32, left : left + 32])
        return torch.stack(moved).permute(0, 2, 3, 1).to(images.dtype)


class AlternatingFlips(Way):
    """An image that is mirrored in one epoch is not in the next (Jordan, arXiv:2404.00498)."""

    def change_images(self, images, rng, rows, epoch):
        is_mirrored_first = np.random.default_rng(0).random(50_000) < 0.5
        is_mirrored = torch.from_numpy(is_mirrored_first[rows.numpy()] ^ (epoch % 2 == 0))
        return torch.where(is_mirrored.view(-1, 1, 1, 1), images.flip(2), images)


class SmallFirst(Way):
    """Smaller images in the first epoch, with position embeddings resampled for their grid."""

    def __init__(self, size, **parameters):
        super().__init__(**parameters)
        self.size = size

    def input_size(self, shipped, epoch):
        return self.size if epoch == 1 else shipped


def tokens_at(split_model, images, size):
    """`SplitModel.tokens` of a plain ViT for images (B, H, W, 3) brought to any size."""
    model = split_model.model
    preprocess = Preprocessing({**split_model.preprocess.facts(), "input_size": (3, size, size)})
    pixels = preprocess(images.to(split_model.device))
    with autocast(split_model.device, split_model.precision):
        grid = model.patch_embed.proj(pixels)
        patches = grid.flatten(2).mT
        positions = resample_abs_pos_embed(model.pos_embed, list(grid.shape[2:]))
        cls = model.cls_token.expand(len(patches), -1, -1)
        return model.norm_pre(torch.cat([cls, patches], dim=1) + positions).float()


SHIPPED = "shipped"
WAYS = {
    SHIPPED: Way(epochs=2),
    "falling token dropout": FallingTokenDropout(0.75, 0.25, epochs=2),
    "one epoch": Way(epochs=1),
    "one epoch, falling token dropout": FallingTokenDropout(0.75, 0.0, epochs=1),
    "batches of 32": Way(epochs=2, batch_size=32),
    "translation": Translation(epochs=2),
    "alternating flips": AlternatingFlips(epochs=2),
    "one epoch, batches of 32": Way(epochs=1, batch_size=32),
    "160 pixels in the first epoch": SmallFirst(160, epochs=2),
}


class Adaptation:
    """Runs `adapt` in a way, and judges the model that it leaves.

    Args:
        pretrained: a file for the features of the pretrained model.
    """

    def __init__(self, way, pretrained):
        self.way = way
        self.pretrained = pretrained
        self.average = None
        self.seconds = 0.0
        self.alone = {}  # accuracy by weights
        self.averaged = {}  # the average by the name of the parameter

    def run(self, folder, others, labels):
        running = threading.local()
        shipped = None
        set_learning_rate = Trainer._set_learning_rate
        run_shard = Trainer._run_shard
        fit = Trainer.fit
        tokens = SplitModel.tokens
        read_or_compute = features.read_or_compute

        def new_set_learning_rate(trainer, step):
            nonlocal shipped
            if step == 0:
                shipped = trainer.settings.token_dropout
            dropout = self.way.token_dropout(shipped, step / (trainer.steps - 1))
            update = {"token_dropout": dropout}
            trainer.settings = trainer.settings.model_copy(update=update)
            self.update_average(trainer.parameters)
            return set_learning_rate(trainer, step)

        def new_run_shard(trainer, batch, epoch, step, shard):
            running.rows = batch.tensor_split(trainer.shards)[shard]
            running.epoch = epoch
            return run_shard(trainer, batch, epoch, step, shard)

        def new_flip_some(images, rng):
            return self.way.change_images(images, rng, running.rows, running.epoch)

        def new_tokens(split_model, images):
            if not torch.is_grad_enabled():  # validation images
                return tokens(split_model, images)
            size = self.way.input_size(split_model.preprocess.input_size[0], running.epoch)
            return tokens_at(split_model, images, size)

        def new_read_or_compute(checkpoint, *args):
            return read_or_compute(self.pretrained, *args)

        def new_fit(trainer, *args, **kwargs):
            start = time.process_time()
            history = fit(trainer, *args, **kwargs)
            self.seconds = time.process_time() - start
            self.judge(trainer, others, labels)
            return history

        with contextlib.ExitStack() as stack:
            for owner, name, new in (
                (Trainer, "_set_learning_rate", new_set_learning_rate),
                (Trainer, "_run_shard", new_run_shard),
                (Trainer, "fit", new_fit),
                (SplitModel, "tokens", new_tokens),
                (loss, "flip_some", new_flip_some),
                (features, "read_or_compute", new_read_or_compute),
            ):
                stack.enter_context(mock.patch.object(owner, name, new))
            run_stages(folder, "adapt")

    def update_average(self, parameters):
        with torch.no_grad():
            if self.average is None:
                self.average = [parameter.clone() for parameter in parameters]
            for mean, parameter in zip(self.average, parameters, strict=True):
                mean.lerp_(parameter, 1 - DECAY)

    def judge(self, trainer, others, labels):
        model = trainer.split_model.model

        def accuracy():
            logits = trainer.split_model.predict_logits(ImageView(others)).numpy()
            return round(float((logits.argmax(axis=1) == labels).mean()), 4)

        self.alone["last"] = accuracy()
        self.update_average(trainer.parameters)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for mean, parameter in zip(self.average, trainer.parameters, strict=True):
            self.averaged[names[id(parameter)]] = mean
        last = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.averaged, strict=False)
        self.alone["average"] = accuracy()
        model.load_state_dict(last)

    def place_average(self, folder):
        """In the place of the adapted model that the stage wrote."""
        adapted = folder / "models/adapted"
        model = load_model(adapted)
        names = model.state_dict()
        averaged = {name: value for name, value in self.averaged.items() if name in names}
        model.load_state_dict(averaged, strict=False)
        record = Adapted.read(adapted)
        with new_folder(adapted) as written:
            save_model(model, written, preprocessing(model, None))
            record.write(written)


def kept_folder(name, weights, seed):
    return FOLDER / "kept" / f"{name}, {weights}, seed {seed}"


def record(name, all_weights, seed, splits, classes, threads):
    """Keep the answers and the rows of a way, for each kind of weights."""
    way = WAYS[name]
    folder = FOLDER / f"run-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    changes = {"seed": seed, "adapt": way.parameters, "runtime": {"threads": threads}}
    prepare(folder, splits, classes, changes)
    others, labels = splits["test"]
    adaptation = Adaptation(way, FOLDER / f"features-{seed}.pt")
    adaptation.run(folder, others, labels)
    for weights in all_weights:
        if weights == "average":
            adaptation.place_average(folder)
        run_stages(folder, "embed", "train")
        right = answers_on_others(folder, labels, set_up_torch("auto", threads))
        trained = read_json(folder / "metrics/train.json")
        row = {
            "way": name,
            "weights": weights,
            "seed": seed,
            "precision": trained["precision"],
            "alone": adaptation.alone[weights],
            "probe": trained["probe_accuracy"],
            "val": trained["val_accuracy"],
            "others": round(float(right.mean()), 4),
            "adapt_s": round(adaptation.seconds, 1),
        }
        with new_folder(kept_folder(name, weights, seed)) as kept:
            np.save(kept / "right.npy", right)
            write_json(kept / "row.json", row)
        print(row, flush=True)


def write_table():
    """The rows of all runs that were kept, in the place of theirs, among those of the table."""
    rows = {}
    for row in read_csv(TABLE) if TABLE.is_file() else []:
        rows[row["way"], row["weights"], int(row["seed"])] = row
    keys = list(itertools.product(WAYS, WEIGHTS, range(10)))
    for name, weights, seed in keys:
        kept = kept_folder(name, weights, seed)
        if kept.is_dir():
            shipped = kept_folder(SHIPPED, "last", seed)
            row = read_json(kept / "row.json")
            row |= gained_and_lost(kept / "right.npy", shipped / "right.npy")
            rows[name, weights, seed] = row
    write_csv(TABLE, [rows[key] for key in keys if key in rows])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--average", action="store_true", help="of the weights, too")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    args = parser.parse_args()
    data = load_cifar("cifar10")
    all_weights = WEIGHTS if args.average else WEIGHTS[:1]
    for seed in args.seeds:
        splits = draw(data, seed)
        for name in dict.fromkeys([SHIPPED, *args.ways]):
            missing = [kind for kind in all_weights if not kept_folder(name, kind, seed).is_dir()]
            if missing:
                record(name, missing, seed, splits, data.classes, args.threads)
            write_table()


if __name__ == "__main__":
    main()
