"""The record of the adaptation, beside the model that it gave."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from vit_finetune.core.files import read_json, write_json

RECORD = "adapted.json"


@dataclass(frozen=True)
class Adapted:
    """How the backbone was adapted.

    Attributes:
        precision: of the products, `float32` or `bfloat16`; every later stage uses the same.
        parameters_adapted: how many; 0 if the backbone is still the pretrained one.
        kept_epoch: of the adaptation; 0 if the backbone is still the pretrained one.
        probe_accuracy: of a linear probe of the pretrained backbone, on the validation images; None
            if nothing was to be adapted (`adapt.epochs` is 0).
        kept_head: whether the model starts with a head of its own (`build.kept_head`), whose
            accuracy then stands in place of the probe's.
        warnings: what was said of the training.
    """

    precision: str
    parameters_adapted: int
    kept_epoch: int
    probe_accuracy: float | None
    kept_head: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch has it."""
        return getattr(torch, self.precision)

    @classmethod
    def read(cls, folder: str | Path) -> "Adapted":
        """UserError if the record is missing or broken."""
        return cls(**read_json(Path(folder) / RECORD))

    def write(self, folder: str | Path) -> None:
        write_json(Path(folder) / RECORD, asdict(self))
