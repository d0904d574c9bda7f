"""Settings, data and models that the tests of training share. Images are already pixels: nothing
preprocesses them."""

import numpy as np
import timm
import torch

from vit_finetune.activations.views import ImageView
from vit_finetune.model.boundary import SplitModel, run_prefix
from vit_finetune.model.freezing import freeze
from vit_finetune.params import Training
from vit_finetune.training.data import TrainingData
from vit_finetune.training.features import Features
from vit_finetune.training.trainer import Trainer

PLAIN = Training(
    epochs=4,
    min_steps=0,
    batch_size=8,
    shards=1,
    lr=0.003,
    warmup=0.25,
    token_dropout=0.0,
    mixup=0.0,
    head_init="zeros",
    probe_c=1.0,
)


def plain_settings(**changes):
    """`PLAIN` but for some keys."""
    return PLAIN.model_copy(update=changes)


def make_trainer(split_model, view, labels, settings=PLAIN, *, seed=0, **options):
    """A trainer whose training images are its validation images, too."""
    images = view if isinstance(view, ImageView) else None
    groups = np.arange(len(labels))
    data = TrainingData(view, labels, groups, view, labels, groups, images)
    return Trainer(split_model, data, settings, name="train", seed=seed, **options)


def features_of(trainer):
    """Of the trainer's model as it is now."""
    predict = trainer.split_model.predict_features
    return Features(train=predict(trainer.data.train), val=predict(trainer.data.val))


def fit(trainer, *options):
    return trainer.fit(features_of(trainer), *options)


def make_data(n=40, seed=0, size=32):
    """Noise that is brighter the higher the label of three: pixels (n, 3, size, size) and labels
    (n,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    return torch.randn(n, 3, size, size, generator=generator) + labels.view(-1, 1, 1, 1), labels


def split_at(model, blocks, parameters="all", preprocess=lambda images: images):
    """The model, frozen up to its last `blocks`, in float32 on the CPU."""
    freeze(model, blocks, parameters)
    return SplitModel(model, blocks, preprocess, torch.device("cpu"), torch.float32)


def store(model, pixels, blocks, dtype=torch.float32):
    """What the embed stage would store of pixels."""
    with torch.no_grad():
        return (pixels if blocks == "all" else run_prefix(model, pixels, blocks)).to(dtype)


def copy_of_weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def small(name, **options):
    """A model of timm with three blocks and three classes, of random weights."""
    options = {
        "img_size": 32,
        "depth": 3,
        "embed_dim": 64,
        "num_heads": 4,
        "num_classes": 3,
        **options,
    }
    return timm.create_model(name, **options).eval()
