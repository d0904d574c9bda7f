"""From attention to maps: five published methods, each a pure function of tensors.

`attn` and `grads` are (B, L, H, T, T), first block first, row = query, column = key. `readout`, (T,) or (B, T), weights
the rows that the head reads: one-hot on CLS, uniform on the patches for average pooling, the pooling row for attention
pooling. Every function returns (B, T), prefix tokens included. Rollout-like methods need one row of a product of
matrices, so this row is multiplied through the blocks, last block first, instead of whole matrices.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vit_finetune.attention.capture import Gradients, attention_gradients
from vit_finetune.model.families import token_layout
from vit_finetune.model.tokens import TokenLayout

Fusion = Literal["mean", "max"]
Maps = dict[str, Tensor]  # method -> (B, G_h, G_w)

METHODS = {
    "last block": "The last block's attention for what the head reads, heads fused. It knows no class.",
    "rollout": "Attention multiplied through all blocks, half of each block passing by (Abnar & Zuidema 2020). "
    "It knows no class.",
    "gradient rollout": "Rollout of attention times its gradient for a class, where that is positive.",
    "relevance": "Attention times its gradient for a class, accumulated over the blocks (Chefer et al. 2021).",
    "LeGrad": "Positive gradients of a class score with respect to each block's attention (Bousselham et al. 2025).",
}
CLASS_AGNOSTIC = ("last block", "rollout")


def fuse_heads(attn: Tensor, fusion: Fusion) -> Tensor:
    """(B, L, H, T, T) -> (B, L, T, T), the mean or the maximum over heads."""
    if fusion not in ("mean", "max"):
        raise ValueError(f"heads are fused by {fusion!r}; use 'mean' or 'max'")
    return attn.mean(dim=2) if fusion == "mean" else attn.amax(dim=2)


def _read(matrix: Tensor, readout: Tensor) -> Tensor:
    """readout @ matrix: (T,) or (B, T), (B, T, T) -> (B, T)."""
    weights = readout.to(matrix).expand(len(matrix), -1)
    return torch.einsum("bt,bts->bs", weights, matrix)


def _carry(mixings: Iterable[Tensor], readout: Tensor) -> Tensor:
    """readout @ M_L @ ... @ M_1 for (B, T, T) given last block first."""
    for mixing in mixings:
        readout = _read(mixing, readout)
    return readout


def _discard(matrix: Tensor, ratio: float, prefix: int) -> Tensor:
    """Zero the lowest `ratio` of each (T, T) matrix's entries, per image and block, prefix columns spared."""
    if not 0 <= ratio < 1:
        raise ValueError(f"discard_ratio is {ratio}; use 0 up to, not including, 1")
    patches = matrix[..., prefix:].flatten(-2)  # (B, L, T * patches)
    lowest = patches.topk(int(ratio * patches.shape[-1]), dim=-1, largest=False).indices
    kept = patches.scatter(-1, lowest, 0).unflatten(-1, (matrix.shape[-1], -1))
    return torch.cat([matrix[..., :prefix], kept], dim=-1)


def _with_residual(matrix: Tensor) -> Tensor:
    """0.5 A + 0.5 I, rows normalised to one: the share that passes through attention and past it."""
    mixed = 0.5 * matrix + 0.5 * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return mixed / mixed.sum(dim=-1, keepdim=True)


def raw(attn: Tensor, readout: Tensor, fusion: Fusion = "mean", block: int | None = -1) -> Tensor:
    """The readout's own attention, (B, T): r A_block, heads fused; `block` None = mean over all blocks.

    Caron et al. 2021 (DINO, arXiv:2104.14294) show the last block's CLS row.
    """
    fused = fuse_heads(attn, fusion)
    return _read(fused.mean(dim=1) if block is None else fused[:, block], readout)


def rollout(
    attn: Tensor, readout: Tensor, fusion: Fusion = "mean", discard_ratio: float = 0.0, prefix: int = 1
) -> Tensor:
    """Attention rollout, (B, T): r A'_L ... A'_1 with A' = rownorm(0.5 fuse_h(A) + 0.5 I).

    Abnar & Zuidema 2020 (arXiv:2005.00928). Before the residual is added the lowest `discard_ratio` of each
    matrix's patch columns are set to zero, per image; the first `prefix` columns never are. Class-agnostic.
    """
    fused = _discard(fuse_heads(attn, fusion), discard_ratio, prefix)
    return _carry(reversed(_with_residual(fused).unbind(dim=1)), readout)


def gradient_rollout(
    attn: Tensor, grads: Tensor, readout: Tensor, discard_ratio: float = 0.0, prefix: int = 1
) -> Tensor:
    """Gradient rollout, (B, T): rollout of max(0, mean_h(dy/dA * A)), A and gradient of the same block.

    Gildenblat 2020 (github.com/jacobgil/vit-explain), with gradients in forward order, any prefix, and the
    discard per image.
    """
    fused = _discard((attn * grads).mean(dim=2).clamp_min(0), discard_ratio, prefix)
    return _carry(reversed(_with_residual(fused).unbind(dim=1)), readout)


def chefer(attn: Tensor, grads: Tensor, readout: Tensor) -> Tensor:
    """Relevance of Chefer et al. ICCV 2021 (arXiv:2103.15679), self-attention rule, (B, T).

    R = I, then per block, first to last: R <- R + mean_h(max(0, dy/dA * A)) R; returned is r R.
    """
    relevance = (attn * grads).clamp_min(0).mean(dim=2)
    eye = torch.eye(attn.shape[-1], dtype=attn.dtype, device=attn.device)
    return _carry(reversed((eye + relevance).unbind(dim=1)), readout)


def legrad(grads: Tensor, readout: Tensor | None = None) -> Tensor:
    """LeGrad, (B, T): mean over blocks and heads of max(0, dy_l/dA_l), rows averaged.

    Bousselham et al. ICCV 2025 (arXiv:2404.03214): y_l is the class score read from block l's own output, and
    all rows weigh the same, which for CLS pooling leaves the CLS row alone, as no other has a gradient there.
    With gradients of the final score instead, give the `readout` whose rows are to be read.
    """
    tokens = grads.shape[-1]
    rows = torch.full((tokens,), 1 / tokens) if readout is None else readout
    return _read(grads.clamp_min(0).mean(dim=(1, 2)), rows)


def readout_maps(attn: Tensor, layout: TokenLayout, readout: Tensor) -> Tensor:
    """Where each head of each block looks for the readout, (T,) or (B, T): attn -> (B, L, H, G_h, G_w)."""
    weights = readout.to(attn).expand(len(attn), -1)
    return layout.to_grid(torch.einsum("bt,blhts->blhs", weights, attn))


@dataclass(frozen=True)
class MapMaker:
    """Makes the map of every method, for a model and the settings of the maps."""

    model: nn.Module
    fusion: Fusion = "mean"
    discard_ratio: float = 0.0
    batch_size: int = 8

    @property
    def layout(self) -> TokenLayout:
        return token_layout(self.model)

    def gradients(self, pixels: Tensor, classes: Tensor, against: Tensor | None = None) -> Gradients:
        """Of one batch (B, 3, h, w), for one class each, (B,), or for its logit minus that of `against`, (B,)."""
        return attention_gradients(self.model, pixels, classes, against, per_block=True)

    def readout(self, gradients: Gradients) -> Tensor:
        return self.layout.readout(gradients.pooling)

    def maps_of(self, gradients: Gradients) -> Maps:
        """Every method's map of one batch."""
        readout, layout = self.readout(gradients), self.layout
        attn, grads, prefix = gradients.attn, gradients.grads, len(layout.prefix)
        assert gradients.block_grads is not None
        tokens = {
            "last block": raw(attn, readout, self.fusion),
            "rollout": rollout(attn, readout, self.fusion, self.discard_ratio, prefix),
            "gradient rollout": gradient_rollout(attn, grads, readout, self.discard_ratio, prefix),
            "relevance": chefer(attn, grads, readout),
            "LeGrad": legrad(gradients.block_grads),
        }
        return {name: layout.to_grid(values) for name, values in tokens.items()}

    def contrast_of(self, gradients: Gradients) -> Maps:
        """Every method's signed map of one batch: what speaks for the class minus what speaks for the other.

        The gradients are those of y = logit[class] - logit[against]. Gradient rollout, relevance (Chefer et al. 2021)
        and LeGrad (Bousselham et al. 2025) keep positive parts, so a map of y shows the class's side alone. The map of
        -y, whose gradients are the negated ones, shows the other's. The contrast is the first minus the second: it
        changes its sign with the order of the classes, and is 0 for a class against itself. What raises both logits
        alike is in neither side. As max(0, g) - max(0, -g) = g, LeGrad's contrast is the mean gradient itself. A map
        that knows no class is 0.
        """
        assert gradients.block_grads is not None
        negated = gradients._replace(grads=-gradients.grads, block_grads=-gradients.block_grads)
        of_class, of_other = self.maps_of(gradients), self.maps_of(negated)
        return {name: of_class[name] - of_other[name] for name in METHODS}

    def maps(self, pixels: Tensor, classes: Tensor, against: Tensor | None = None) -> Maps:
        """Every method's map of images (B, 3, h, w) for one class each, (B,), batch by batch.

        With `against`, a second class each, (B,), the maps are signed: see `contrast_of`.
        """
        given = (pixels, classes) if against is None else (pixels, classes, against)
        made = self.maps_of if against is None else self.contrast_of
        batches = zip(*(values.split(self.batch_size) for values in given), strict=True)
        parts = [made(self.gradients(*batch)) for batch in batches]
        return {name: torch.cat([part[name] for part in parts]) for name in METHODS}
