"""The split at the freeze boundary, which is the input of the first trainable block.

What lies before it (the prefix) is computed once per image and stored; what lies after it (the
suffix) is trained from what was stored:

    trainable blocks   stored at the boundary              suffix
    0                  pooled features (N, D)              head
    k                  tokens (N, T, D)                    last k blocks, final norm, pooling, head
    all                images (N, H, W, 3) uint8           everything
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vit_finetune.core.threads import parallel_map
from vit_finetune.model.families import family_of
from vit_finetune.model.last_block import cls_of_block
from vit_finetune.model.preprocessing import Preprocessing

Boundary = Literal["features", "tokens", "images"]
EXPLICIT_TOKENS = 1024  # up to so many, see `to_device`


def boundary_of(trainable_blocks: int | str) -> Boundary:
    """What is stored for a number of trainable blocks; see the table above."""
    if trainable_blocks == "all":
        return "images"
    return "tokens" if trainable_blocks else "features"


def autocast(device: torch.device, precision: torch.dtype) -> Any:
    """bfloat16 products over float32 weights and residuals, or plain float32."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def to_device(model: Any, device: torch.device, precision: torch.dtype) -> Any:
    """The model on its device, with the attention that is fast there.

    torch's fused attention takes two to eight times the time of its three operations one by one
    where a CPU multiplies in bfloat16. It is no slower from about a thousand tokens on, where it
    also saves the memory of the matrices.
    """
    tokens = math.prod(model.patch_embed.grid_size)
    fused = device.type != "cpu" or precision != torch.bfloat16 or tokens > EXPLICIT_TOKENS
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return model.to(device)


def embed_patches(model: Any, pixels: Tensor) -> Tensor:
    """Normalised images (B, 3, h, w) -> tokens (B, T, D) before the first block."""
    return family_of(model).tokens(model, pixels)


def run_prefix(model: Any, pixels: Tensor, trainable_blocks: int) -> Tensor:
    """Normalised images -> activations at the boundary: tokens (B, T, D), or features (B, D) for no
    block."""
    tokens, boundary = embed_patches(model, pixels), len(model.blocks) - trainable_blocks
    for block, options in zip(
        model.blocks[:boundary], family_of(model).block_options(model), strict=False
    ):
        tokens = block(tokens, **options)
    return tokens if trainable_blocks else model.forward_head(model.norm(tokens), pre_logits=True)


def run_blocks(model: Any, tokens: Tensor, trainable_blocks: int) -> Tensor:
    """Tokens (B, T, D) at the boundary -> pooled features (B, D), by the last blocks, final norm
    and pooling."""
    first, last = len(model.blocks) - trainable_blocks, len(model.blocks) - 1
    options = family_of(model).block_options(model)
    for index in range(first, last):
        tokens = model.blocks[index](tokens, **options[index])
    if family_of(model).reads_only_cls(model):
        return model.fc_norm(model.norm(cls_of_block(model.blocks[last], tokens)))
    return model.forward_head(
        model.norm(model.blocks[last](tokens, **options[last])), pre_logits=True
    )


@dataclass(frozen=True)
class SplitModel:
    """A model on its device, split at the freeze boundary.

    Attributes:
        trainable_blocks: 0, k, or `all`.
        preprocess: turns uint8 images into the model's input.
        precision: of the products.
    """

    model: Any
    trainable_blocks: int | str
    preprocess: Preprocessing
    device: torch.device
    precision: torch.dtype

    @property
    def batch_size(self) -> int:
        """Images of one pass without gradients, of which each core of a CPU takes its own. No
        result depends on it."""
        return 16 if self.device.type == "cpu" else 256

    def tokens(self, stored: Tensor) -> Tensor:
        """A batch -> what the first trainable layer takes: tokens (B, T, D), or features (B, D).

        Args:
            stored: activations of the boundary, or images (B, H, W, 3), which the frozen blocks are
                then run on.
        """
        batch = stored.to(self.device, non_blocking=True)
        if self.trainable_blocks != "all" and batch.dtype != torch.uint8:
            return batch.float()
        with autocast(self.device, self.precision):
            pixels = self.preprocess(batch)
            if self.trainable_blocks == "all":
                return embed_patches(self.model, pixels).float()
            with torch.no_grad():
                return run_prefix(self.model, pixels, int(self.trainable_blocks)).float()

    def features(self, tokens: Tensor) -> Tensor:
        """Tokens -> pooled features (B, D) in float32."""
        if self.trainable_blocks == 0:
            return tokens
        blocks = (
            len(self.model.blocks) if self.trainable_blocks == "all" else int(self.trainable_blocks)
        )
        with autocast(self.device, self.precision):
            return run_blocks(self.model, tokens, blocks).float()

    def logits(self, tokens: Tensor) -> Tensor:
        """Tokens -> logits (B, K) in float32."""
        return self.model.head(self.features(tokens))

    def predict(self, stored: Any, features: bool = False, rows: range | None = None) -> Tensor:
        """Logits (N, K), or pooled features (N, D), of stored activations or of images, on the CPU
        in float32.

        Args:
            stored: a tensor, or what gives one for a slice, so that no more is read than one pass
                needs.
            rows: which of them; all without it.
        """
        apply, size = self.features if features else self.logits, self.batch_size
        first, end = (0, len(stored)) if rows is None else (rows.start, min(rows.stop, len(stored)))
        # also where there are no rows: an empty batch has a shape
        starts = range(first, max(end, first + 1), size)

        @torch.no_grad()
        def predicted(start: int) -> Tensor:
            return apply(self.tokens(stored[start : min(start + size, end)])).cpu()

        with parallel_map(self.device, len(starts)) as each:
            return torch.cat([*each(predicted, starts)])
