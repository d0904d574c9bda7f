"""Self-attention: captured with proof, turned into maps, judged against baselines, drawn."""

from vit_finetune.attention.faithfulness import (
    Curves,
    centre_prior,
    deletion_insertion,
    random_maps,
)
from vit_finetune.attention.maps import METHODS, MapMaker
from vit_finetune.attention.pixels import PixelGrid, spotlight
from vit_finetune.attention.walk import Walk

__all__ = [
    "METHODS",
    "Curves",
    "MapMaker",
    "PixelGrid",
    "Walk",
    "centre_prior",
    "deletion_insertion",
    "random_maps",
    "spotlight",
]
