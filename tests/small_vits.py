"""Small Vision Transformers of many kinds, with random weights wide enough that an error shows."""

import timm
import torch
from torch import Tensor, nn

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
SIDES = {  # name -> side of an image that is cut into 4 x 4 patches
    "vit_tiny_patch16_224": 64,
    "deit_tiny_distilled_patch16_224": 64,
    "vit_small_patch14_reg4_dinov2": 56,
    "vit_mediumd_patch16_reg4_gap_256": 64,
    "vit_small_patch16_dinov3": 64,
    "vit_base_patch16_siglip_224": 64,
    "beit_base_patch16_224": 64,
    "eva02_tiny_patch14_224": 56,
    "vit_pe_core_tiny_patch16_384": 64,
}
RELPOS = "vit_relpos_small_patch16_224"  # none of our families, as timm has it


class Faulty(nn.Module):
    """A part of a model that fails."""

    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError("inside the model")


def scatter_weights(model: nn.Module, std: float = 0.15) -> nn.Module:
    """The model in eval mode, noise added to its weights: its attention is far from uniform
    then."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


def build(name: str = "vit_tiny_patch16_224", **options: object) -> nn.Module:
    """Two blocks, three heads, 4 x 4 patches, five classes."""
    return scatter_weights(
        timm.create_model(name, **{"img_size": SIDES.get(name, 64), **SMALL, **options})
    )


def pictures(model: nn.Module, n: int = 2) -> Tensor:
    """Images (n, 3, h, w) as the model takes them."""
    return torch.randn(
        n, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(1)
    )
