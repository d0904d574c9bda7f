"""Which matrices of the gallery are kept: all of them, or as many as a stated size allows.

N images, L blocks, H heads, T tokens; a matrix is (T, T).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FILE_BYTES = 2**28  # of gallery.safetensors, two bytes for each value
PAGE_BYTES = 2**26  # of the page before it is compressed, one byte for each value


@dataclass(frozen=True)
class Kept:
    """Blocks whose matrices are kept, of `depth`, and whether each of their `heads` is, or their
    mean alone."""

    blocks: tuple[int, ...]
    depth: int
    heads: int
    each_head: bool = True

    def take(self, attn: Tensor) -> Tensor:
        """Of one block: (B, H, T, T) -> the same, or (B, 1, T, T)."""
        return attn if self.each_head else attn.mean(dim=1, keepdim=True)

    def empty(self, images: int, tokens: int, dtype: torch.dtype) -> Tensor:
        """Room for what is kept, (N, blocks, H or 1, T, T)."""
        return torch.empty(
            images,
            len(self.blocks),
            self.heads if self.each_head else 1,
            tokens,
            tokens,
            dtype=dtype,
        )

    @property
    def left_out(self) -> str:
        """A sentence on what is missing, empty if nothing is."""
        numbers = ", ".join(map(str, self.blocks))
        parts = [] if len(self.blocks) == self.depth else [f"of {self.depth} blocks only {numbers}"]
        parts += [] if self.each_head else [f"the mean over each block's {self.heads} heads alone"]
        return (
            f"So as not to become too large, the page holds {' and '.join(parts)}." if parts else ""
        )


def spread(depth: int, count: int) -> tuple[int, ...]:
    """`count` of the blocks 0 to depth - 1, evenly spread, first and last included; of one, the
    last."""
    if count >= depth:
        return tuple(range(depth))
    if count <= 1:
        return (depth - 1,)
    return tuple(round(i * (depth - 1) / (count - 1)) for i in range(count))


def kept_in_file(images: int, depth: int, heads: int, tokens: int) -> Kept:
    """All heads of as many blocks as FILE_BYTES allow; if of none, the mean over heads of as many,
    at least of one."""
    whole = FILE_BYTES // (2 * images * heads * tokens**2)
    blocks = whole or FILE_BYTES // (2 * images * tokens**2)
    return Kept(spread(depth, blocks), depth, heads, each_head=whole > 0)


def kept_on_page(images: int, depth: int, heads: int, tokens: int) -> Kept:
    """All heads of all blocks if PAGE_BYTES allow; else the mean over heads of as many, at least of
    one."""
    if images * depth * heads * tokens**2 <= PAGE_BYTES:
        return Kept(tuple(range(depth)), depth, heads)
    return Kept(spread(depth, PAGE_BYTES // (images * tokens**2)), depth, heads, each_head=False)
