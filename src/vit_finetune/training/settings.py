"""What a training can be told: the same settings for `adapt` and `train`."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """Optimiser, schedule, regularisation; `params.train` says what each means.

    What a section of params.yaml does not offer has the value that stands here.

    Attributes:
        section: of params.yaml, for messages.
        layer_decay: factor on the learning rate from each block to the one before it.
    """

    section: str
    epochs: int
    lr: float
    min_steps: int = 0
    batch_size: int = 64
    shards: int = 4
    optimizer: Literal["adamw", "sgd"] = "adamw"
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    grad_clip: float | None = 1.0
    token_dropout: float = 0.0
    brightness: float = 0.0
    crop_scale: float = 1.0
    randaugment: int = 0
    mixup: float = 0.2
    head_init: Literal["probe", "zeros"] = "probe"
    probe_c: float | Literal["auto"] = "auto"
    patience: int | None = None

    @property
    def changes_images(self) -> bool:
        """Whether images differ from epoch to epoch, so that nothing stored stands for them."""
        return self.crop_scale < 1 or self.randaugment > 0

    def steps_per_epoch(self, images: int) -> int:
        """Optimiser steps of one pass over so many training images."""
        return math.ceil(images / self.batch_size)

    def epochs_over(self, images: int) -> int:
        """Epochs at most: `epochs`, or as many as make `min_steps` optimiser steps."""
        return max(self.epochs, math.ceil(self.min_steps / self.steps_per_epoch(images)))
