"""`subset`: how many images of each split."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Size = Count | Literal["all"]


class Subset(Section):
    """Stratified sizes; training and validation images come from the data set's training part."""

    train_size: Size = Field(description="training images, or `all` that validation leaves")
    val_size: Size = Field(
        description="validation images: early stop and best epoch are chosen on them; `all` of data/images/val/"
    )
    test_size: Size = Field(description="test images, or `all`")
    leaks: Literal["drop", "error", "keep"] = Field(
        description="training images with the pixels of a test or validation image: `drop` them and draw others of "
        "their class, stop with an `error`, or `keep` them"
    )
