"""`freeze`: which part of the network is trained."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section


class Freeze(Section):
    """The freeze boundary is the input of the first trainable block."""

    trainable_blocks: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        description="`0`: the head alone; `k`: head, final norm and the last k blocks; `all`: everything"
    )
