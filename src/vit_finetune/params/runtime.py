"""`runtime`: how fast, not what. Changing it reruns no stage."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section


class Runtime(Section):
    """The machine."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="`auto`: the first of cuda, mps, cpu"
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        description="CPU threads of a stage, all its processes together; `null`: one per core"
    )
    processes: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="that adapt, embed and train run side by side; with `cuda`, one for each GPU"
    )
    workers: Annotated[int, Field(ge=0, le=256)] = Field(
        description="processes that prepare image batches beside the model; 0: none"
    )
