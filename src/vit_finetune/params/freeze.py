"""`freeze`: which part of the network is trained."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section

Pattern = Annotated[str, Field(min_length=1)]


class Freeze(Section):
    """The freeze boundary is the input of the first trainable block."""

    trainable_blocks: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        description="`0`: the head alone; `k`: the last k blocks and all that follows them; `all`: everything"
    )
    parameters: (
        Literal["all", "norms", "biases"] | Annotated[list[Pattern], Field(min_length=1)]
    ) = Field(
        description="which parameters of these are trained: `all`, `norms`, `biases` (BitFit), or a list of patterns "
        "of names in order, `!pattern` taking away again; the head always is"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        description="factor on the learning rate from each block to the one before it; `1`: the same for all"
    )
