"""The features of the images before a training, which its probe is fitted to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vit_finetune.activations.views import View
from vit_finetune.core.arrays import read_split, write_split
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import new_file, new_folder
from vit_finetune.core.ranks import Ranks
from vit_finetune.model.boundary import SplitModel
from vit_finetune.training.data import TrainingData


@dataclass(frozen=True)
class Features:
    """Pooled features of the images as they are.

    Attributes:
        train: (N, D) float32.
        val: (M, D) float32.
    """

    train: Tensor
    val: Tensor

    @classmethod
    def read(cls, folder: str) -> "Features":
        """Those that an earlier stage wrote; UserError if a file is missing or damaged."""
        (train,) = read_split(folder, "train", "features")
        (val,) = read_split(folder, "val", "features")
        return cls(train=torch.tensor(train), val=torch.tensor(val))

    def write(self, folder: str) -> None:
        """Replace the folder by one with these features."""
        with new_folder(folder) as partial:
            write_split(partial, "train", features=self.train.numpy())
            write_split(partial, "val", features=self.val.numpy())


def read_or_compute(
    checkpoint: Path, split_model: SplitModel, data: TrainingData, ranks: Ranks
) -> Features:
    """The processes share the images; every process gets all features.

    Args:
        checkpoint: a file that is read if it exists, and written if not.

    Raises:
        UserError: a feature is not finite.
    """
    if checkpoint.is_file():
        return Features(**torch.load(checkpoint, weights_only=True))
    features = Features(
        train=predict_shared(split_model.predict_features, data.train, split_model, ranks),
        val=predict_shared(split_model.predict_features, data.val, split_model, ranks),
    )
    if not features.train.isfinite().all():
        raise UserError("the model gives NaN for the training images: its weights are damaged")
    if ranks.is_first:
        with new_file(checkpoint) as partial_path:
            torch.save(vars(features), partial_path)
    return features


def predict_shared(
    predict: Callable[[View, range], Tensor], view: View, split_model: SplitModel, ranks: Ranks
) -> Tensor:
    """A prediction of every image of a view, shared by the processes.

    Each predicts whole batches, which are the same for any number of processes.
    """
    rows = ranks.select(range(0, len(view), split_model.batch_size))
    return ranks.all_gather(predict(view, rows))
