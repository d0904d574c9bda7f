"""A calibrated classifier: its heads, and how confident and right it was on validation images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vit_finetune.core.arrays import one_of_each
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import read_csv, write_csv
from vit_finetune.model.families import family_of

VALIDATION = "validation.csv"  # in the folder of the trained model


@torch.no_grad()
def divide_logits(model: nn.Module, temperature: float) -> None:
    """Divide the weights and biases of every linear head, and so the logits, by a temperature.

    A prediction stays the same unless its two best logits differ by less than the rounding of
    float32.
    """
    for name in family_of(model).heads:
        for parameter in model.get_submodule(name).parameters():
            parameter.div_(temperature)


def write_validation(
    folder: Path,
    confidence: NDArray[Any],
    right: NDArray[Any],
    groups: NDArray[Any],
    rng: np.random.Generator,
) -> None:
    """Confidence, and whether the prediction is right, of a random validation image of each group,
    so that they can be counted as independent.

    Args:
        confidence, right, groups: of all validation images, (M,). Without groups each image has its
            own number.
    """
    rows = []
    for image in one_of_each(groups, rng):
        rows.append({"confidence": round(float(confidence[image]), 6), "right": int(right[image])})
    write_csv(folder / VALIDATION, rows, columns=("confidence", "right"))


def read_validation(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What `write_validation` wrote.

    Raises:
        UserError: the folder has no such file.
    """
    path = folder / VALIDATION
    if not path.is_file():
        raise UserError(f"{path} is missing; run dvc repro")
    rows = read_csv(path)
    confidence = np.array([float(row["confidence"]) for row in rows])
    right = np.array([row["right"] == "1" for row in rows])
    return confidence, right
