"""`embed`: what is computed once by the frozen blocks, and how it is stored."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section


class Embed(Section):
    """The one pass through the frozen part."""

    flip: bool = Field(
        description="also store the mirrored view of each training image, for augmentation"
    )
    storage: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        description="format of stored activations; `auto`: float16, or bfloat16 if values are too large for it"
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        description="images in one forward pass; bounds the memory, 16 to 32 is fastest on a CPU"
    )
