"""How wide, how far and where the attention goes."""

import torch
from torch import Tensor

from vit_finetune.model.tokens import TokenLayout


def effective_patches(maps: Tensor) -> Tensor:
    """exp(entropy) of maps (..., G_h, G_w), between 1 (one patch) and G_h G_w (all alike) ->
    (...)."""
    shares = maps.clamp_min(0).flatten(-2)
    shares = shares / shares.sum(dim=-1, keepdim=True)
    return torch.special.entr(shares).sum(dim=-1).exp()


def corner_share(maps: Tensor) -> Tensor:
    """Share of maps (..., G_h, G_w) on the four corner patches -> (...), where attention sinks
    show."""
    corners = torch.zeros(maps.shape[-2:], dtype=torch.bool, device=maps.device)
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return maps[..., corners].sum(dim=-1) / maps.sum(dim=(-2, -1))


def read_rows(attn: Tensor, readout: Tensor) -> Tensor:
    """The readout's row of each head, (B, H, T, T), (T,) or (B, T) -> (B, H, T)."""
    weights = readout.to(attn).expand(len(attn), -1)
    return (weights[:, None, None] @ attn)[..., 0, :]


def prefix_mass(attn: Tensor, layout: TokenLayout, readout: Tensor) -> Tensor:
    """Share of the readout's attention on prefix tokens, mean over heads: (B, H, T, T) of a block
    -> (B,)."""
    return read_rows(attn, readout)[..., : len(layout.prefix)].sum(dim=-1).mean(dim=-1)


def attention_distance(attn: Tensor, layout: TokenLayout) -> Tensor:
    """Mean distance, in pixels of the input, from a patch to the patches it attends to: (..., T, T)
    -> (...).

    Dosovitskiy et al. 2021 (arXiv:2010.11929), figure 7. Between patch centres, each row's
    attention on patches scaled to one: what goes to prefix tokens travels no distance and would
    make a head look local.
    """
    rows, columns = layout.grid
    height, width = layout.patch
    prefix = len(layout.prefix)
    centres = torch.cartesian_prod(
        torch.arange(rows) * float(height), torch.arange(columns) * float(width)
    )
    distances = torch.cdist(centres, centres).to(attn)
    among = attn[..., prefix:, prefix:]
    # matrix by matrix, since a product of all takes as much memory as they do
    travelled = [(matrix * distances).sum(dim=-1) for matrix in among.flatten(end_dim=-3)]
    return (torch.stack(travelled).view(among.shape[:-1]) / among.sum(dim=-1)).mean(dim=-1)
