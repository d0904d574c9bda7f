"""`data`: which images."""

from typing import Annotated, Literal

from pydantic import Field

from vit_finetune.params.base import Section


class Data(Section):
    """Where the images come from, and how those of a folder are taken in."""

    name: Literal["cifar10", "cifar100", "digits", "folder"] = Field(
        description="data set: `cifar10` or `cifar100` (60,000 photographs each, downloaded), `digits` (1,797 "
        "handwritten digits that scikit-learn carries), or `folder`: your own, a folder for each class"
    )
    folder: str = Field(
        min_length=1,
        description="where the images of `folder` are: data/images, or any folder; DVC follows its files by hash",
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] = Field(
        description="side in pixels at which images of `folder` are kept; at least that of the model's input is of use"
    )
    fit: Literal["crop", "pad", "squash"] = Field(
        description="how an image of `folder` becomes square: `crop` to its middle, `pad` with grey, or `squash`"
    )
    test_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of each class of `folder` that is for testing, where it has no test/"
    )
    broken: Literal["error", "skip"] = Field(
        description="a file of `folder` that is no readable image is an `error`, or is named and left out (`skip`)"
    )
