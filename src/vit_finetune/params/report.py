"""`report`: the one page to send."""

from typing import Annotated

from pydantic import Field

from vit_finetune.params.base import Section

Line = Annotated[str, Field(min_length=1, max_length=200)]


class Report(Section):
    """What stands at the top of the report."""

    title: Line | None = Field(description="its title; `null`: made of the model and the data set")
    author: Line | None = Field(description="who made it; `null`: not said")
