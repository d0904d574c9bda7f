"""The split at the freeze boundary, which is the input of the first trainable block.

The prefix, what lies before the boundary, is computed once per image and stored. The suffix, what
lies after it, is trained from what was stored:

    trainable blocks   stored at the boundary              suffix
    0                  pooled features (N, D)              head
    k                  tokens (N, T, D)                    last k blocks, final norm, pooling, head
    all                images (N, H, W, 3) uint8           everything
"""

import math
from collections.abc import Callable
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

    On a CPU that multiplies in bfloat16, torch's fused attention takes two to eight times as long
    as its three operations one by one. From about a thousand tokens on it is no slower, and it
    saves the memory of the matrices.
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
    """Normalised images (B, 3, h, w) -> what is stored of them: tokens (B, T, D), or features
    (B, D) if no block is trainable."""
    tokens = embed_patches(model, pixels)
    options = family_of(model).block_options(model)
    for index in range(len(model.blocks) - trainable_blocks):
        tokens = model.blocks[index](tokens, **options[index])
    if trainable_blocks:
        return tokens
    return model.forward_head(model.norm(tokens), pre_logits=True)


def run_blocks(model: Any, tokens: Tensor, trainable_blocks: int) -> Tensor:
    """Tokens (B, T, D) at the boundary -> pooled features (B, D), by the last blocks, final norm
    and pooling."""
    family = family_of(model)
    options = family.block_options(model)
    last = len(model.blocks) - 1
    for index in range(len(model.blocks) - trainable_blocks, last):
        tokens = model.blocks[index](tokens, **options[index])
    if family.reads_only_cls(model):
        return model.fc_norm(model.norm(cls_of_block(model.blocks[last], tokens)))
    tokens = model.blocks[last](tokens, **options[last])
    return model.forward_head(model.norm(tokens), pre_logits=True)


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
        """Images of one pass without gradients. On a CPU each core takes a pass of its own. No
        result depends on it."""
        return 16 if self.device.type == "cpu" else 256

    def tokens(self, stored: Tensor) -> Tensor:
        """A batch -> what the first trainable layer takes: tokens (B, T, D), or features (B, D).

        Args:
            stored: activations of the boundary; or images (B, H, W, 3), on which the frozen blocks
                are run first.
        """
        batch = stored.to(self.device, non_blocking=True)
        if self.trainable_blocks != "all" and batch.dtype != torch.uint8:
            return batch.float()
        pixels = self.preprocess(batch)
        with autocast(self.device, self.precision):
            if self.trainable_blocks == "all":
                return embed_patches(self.model, pixels).float()
            with torch.no_grad():
                return run_prefix(self.model, pixels, int(self.trainable_blocks)).float()

    def features(self, tokens: Tensor) -> Tensor:
        """Tokens -> pooled features (B, D) in float32."""
        if self.trainable_blocks == 0:
            return tokens
        everything = self.trainable_blocks == "all"
        blocks = len(self.model.blocks) if everything else int(self.trainable_blocks)
        with autocast(self.device, self.precision):
            return run_blocks(self.model, tokens, blocks).float()

    def logits(self, tokens: Tensor) -> Tensor:
        """Tokens -> logits (B, K) in float32."""
        return self.model.head(self.features(tokens))

    def predict_features(self, stored: Any, rows: range | None = None) -> Tensor:
        """Pooled features (N, D) on the CPU, as `predict_logits`."""
        return self._in_batches(self.features, stored, rows)

    def predict_logits(self, stored: Any, rows: range | None = None) -> Tensor:
        """Logits (N, K) on the CPU in float32, without gradients.

        Args:
            stored: activations of the boundary, or images; a tensor, or anything that gives one for
                a slice. No more is read at a time than the passes need.
            rows: those from its start to its stop; without it, all.
        """
        return self._in_batches(self.logits, stored, rows)

    def _in_batches(
        self, compute: Callable[[Tensor], Tensor], stored: Any, rows: range | None
    ) -> Tensor:
        if rows is None:
            rows = range(len(stored))
        first = rows.start
        end = min(rows.stop, len(stored))
        # one batch at least, if an empty one: its result has the right shape
        starts = range(first, max(end, first + 1), self.batch_size)

        @torch.no_grad()
        def compute_batch(start: int) -> Tensor:
            batch = stored[start : min(start + self.batch_size, end)]
            return compute(self.tokens(batch)).cpu()

        with parallel_map(self.device, len(starts)) as each:
            return torch.cat([*each(compute_batch, starts)])
