"""`train`: fine-tuning from the stored activations."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section

Share = Annotated[float, Field(ge=0, lt=1)]


class Train(Section):
    """Optimiser, schedule, regularisation."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(
        description="passes over the training images"
    )
    min_steps: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        description="optimiser steps at least: where `epochs` are fewer, more epochs follow"
    )
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = Field(
        description="images in one optimiser step"
    )
    shards: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="parts that each batch is computed in: as many processes as divide it give the same weights"
    )
    optimizer: Literal["adamw", "sgd"] = Field(description="`adamw`, or `sgd` with momentum 0.9")
    lr: Annotated[float, Field(gt=0, le=10)] = Field(description="peak learning rate")
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        description="decoupled for adamw; matrices only, not biases and norms"
    )
    warmup: Share = Field(
        description="share of the steps in which the learning rate rises; a cosine to 0 follows"
    )
    label_smoothing: Share = Field(description="share of the target spread over all classes")
    class_weights: Literal["none", "balanced"] = Field(
        description="`balanced`: an image counts in the loss by how rare its class is; `none`: all count the same"
    )
    grad_clip: Annotated[float, Field(gt=0)] | None = Field(
        description="largest norm of the gradient; `null`: no clipping"
    )
    token_dropout: Share = Field(
        description="share of the patch tokens left out of each training image at the freeze boundary"
    )
    brightness: Share = Field(
        description="largest shift of a channel at the freeze boundary, as a share of its range in the image; 0: off"
    )
    crop_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        description="smallest share of an image's area that a random crop keeps; 1: off. Below, as with `randaugment`, "
        "the frozen blocks run in every epoch"
    )
    randaugment: Annotated[int, Field(ge=0, le=30)] = Field(
        description="magnitude of the two operations of RandAugment on each image; 0: off"
    )
    mixup: Annotated[float, Field(ge=0, le=10)] = Field(
        description="α of Beta(α, α) by which two images are mixed at the freeze boundary; 0: off"
    )
    head_init: Literal["probe", "zeros"] = Field(
        description="`probe`: start the head from a logistic regression on the frozen features (LP-FT); or `zeros`"
    )
    probe_c: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        description="inverse L2 strength of that regression (scikit-learn's C) on features of unit variance; `auto`: "
        "chosen on the validation images"
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        description="stop after so many epochs without a better validation accuracy; `null`: never"
    )
