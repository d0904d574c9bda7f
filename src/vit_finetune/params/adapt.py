"""`adapt`: the short training of the whole backbone, before it is frozen."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section

Pattern = Annotated[str, Field(min_length=1)]


class Adapt(Section):
    """What of the recipe suits the data; the rest is fixed (`training.settings`)."""

    epochs: Annotated[int, Field(ge=0, le=10_000)] = Field(
        description="passes over the training images through the whole network; `0`: the backbone stays as pretrained"
    )
    min_steps: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        description="optimiser steps at least: where `epochs` are fewer, more epochs follow"
    )
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = Field(
        description="images in one optimiser step"
    )
    shards: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="parts that each batch is computed in: as many processes as divide it give the same weights; more "
        "of them need less memory"
    )
    lr: Annotated[float, Field(gt=0, le=10)] = Field(description="peak learning rate, of the head")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        description="factor on the learning rate from each block to the one before it"
    )
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of the patch tokens left out of each training image; saves that share of the time"
    )
    parameters: (
        Literal["all", "norms", "biases"] | Annotated[list[Pattern], Field(min_length=1)]
    ) = Field(description="which parameters are trained, as in `freeze.parameters`")
