"""What data/embedded holds."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vit_finetune.core.errors import UserError
from vit_finetune.core.files import read_json, write_json
from vit_finetune.model.boundary import Boundary, SplitModel, to_device
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import weights_digest

MANIFEST = "embedded.json"


@dataclass(frozen=True)
class Manifest:
    """Of which model and images the stored activations are, and in which form.

    Attributes:
        weights_sha256: of the model.
        images_sha256: of the images of each split.
        preprocessing: `Preprocessing.facts` of the model.
        trainable_blocks: 0, k, or `all`.
        boundary: what was stored.
        precision: of the products, `float32` or `bfloat16`.
        storage: type of the stored numbers, such as `float16`.
        shapes: of each split.
    """

    weights_sha256: str
    images_sha256: dict[str, str]
    preprocessing: dict[str, Any]
    trainable_blocks: int | str
    boundary: Boundary
    precision: str
    storage: str
    shapes: dict[str, list[int]]

    @classmethod
    def read(cls, folder: str | Path) -> "Manifest":
        """UserError if it is missing or broken."""
        return cls(**read_json(Path(folder) / MANIFEST))

    def write(self, folder: str | Path) -> None:
        write_json(Path(folder) / MANIFEST, self.to_json())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def require_weights(self, model: nn.Module) -> None:
        """UserError unless the model has the weights that the activations were computed with."""
        if weights_digest(model) != self.weights_sha256:
            raise UserError(
                "models/adapted is not the model that data/embedded was made with; run dvc repro"
            )

    def split_model(self, model: Any, device: torch.device) -> SplitModel:
        """The model on its device, split where the activations were stored, in their precision."""
        precision = getattr(torch, self.precision)
        placed = to_device(model, device, precision)
        preprocess = preprocessing(model, None)
        return SplitModel(placed, self.trainable_blocks, preprocess, device, precision)
