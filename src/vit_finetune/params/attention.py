"""`attention`: extraction, drawing and judging of self-attention."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section


class Attention(Section):
    """Which test images, how heads and blocks are combined, how much is measured."""

    gallery: Annotated[int, Field(ge=2, le=64)] = Field(
        description="test images to draw and to explore, half of them right, half wrong, as far as there are so many"
    )
    sample: Annotated[int, Field(ge=8, le=10_000)] = Field(
        description="test images, drawn by the seed, on which the maps are judged, as far as there are so many; also "
        "the number of mosaics, up to 64"
    )
    fusion: Literal["mean", "max"] = Field(
        description="how last block and rollout combine the heads of a block"
    )
    discard_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of the weakest attention that the rollouts leave out in each block"
    )
    batch_size: Annotated[int, Field(ge=1, le=256)] = Field(
        description="images that go together at most; fewer where they would take more than 256 MB"
    )
