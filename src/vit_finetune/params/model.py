"""`model`: the pretrained network and how images reach it."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section


class Model(Section):
    """A plain Vision Transformer of timm."""

    name: str = Field(
        min_length=1,
        description="timm model name with its weights tag, or `local-dir:pretrained/<folder>`",
    )
    pretrained: bool = Field(
        description="`true`: pretrained weights; `false`: random ones, from `seed`"
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        description="side in pixels the images are resized to; `null`: the model's own"
    )
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = Field(
        description="share of the resized image that the centre crop keeps; `null`: the model's own"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="arithmetic; `auto`: bfloat16 where the hardware has units for it, else float32"
    )
