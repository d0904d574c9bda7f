"""`evaluate`: the test of the trained model."""

from typing import Annotated

from pydantic import Field

from vit_finetune.params.base import Section


class Evaluate(Section):
    """What the evaluation reports."""

    calibration_bins: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="confidence bins of the reliability diagram and of the calibration error"
    )
    mistakes: Annotated[int, Field(ge=1, le=100)] = Field(
        description="most confident mistakes to draw"
    )
