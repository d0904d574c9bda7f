"""`data`: which images."""

from typing import Literal

from pydantic import Field

from vit_finetune.params.base import Section


class Data(Section):
    """Where the images come from."""

    name: Literal["cifar10", "digits"] = Field(
        description="data set: `cifar10` (60,000 photographs, downloaded) or `digits` (1,797 handwritten digits "
        "that scikit-learn carries)"
    )
