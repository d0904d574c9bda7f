"""From attention to maps: five published methods, each a step that takes one block.

`attn` and `grads` are (B, H, T, T) of one block, row = query, column = key. Blocks come last block
first. `readout`, (T,) or (B, T), weights the rows that the head reads: one-hot on CLS, uniform on
the patches for average pooling, the pooling row for attention pooling. Every step returns (B, T),
prefix tokens included. Rollout-like methods need one row of a product of matrices, so this row, at
first the readout, is multiplied through the blocks instead of whole matrices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_finetune.attention.shape import read_rows
from vit_finetune.attention.walk import BlockAttention, Walk, directions_of, one_class_each
from vit_finetune.model.families import token_layout
from vit_finetune.model.tokens import TokenLayout

# that matrices and graph of a batch may take: so many images go together, or one
BATCH_BYTES = 2**28
# (H, T, T) float32 of an image at once, of one block: attention, two gradients, one on the way
MATRICES = 4
# (T, D) float32 of an image that the graph keeps for each block, about: 10 to 16 in timm's families
GRAPH = 16
CLASSES_AT_ONCE = 16  # whose gradients, a few (B, T, D) each, are held together

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


Pair = tuple[int, int]
Visit = Callable[[BlockAttention], object]


def fuse_heads(attn: Tensor, fusion: Fusion) -> Tensor:
    """(B, H, T, T) -> (B, T, T), the mean or the maximum over heads."""
    if fusion not in ("mean", "max"):
        raise ValueError(f"heads are fused by {fusion!r}; use 'mean' or 'max'")
    return attn.mean(dim=1) if fusion == "mean" else attn.amax(dim=1)


def _read(matrix: Tensor, row: Tensor) -> Tensor:
    """row @ matrix: (B, T, T), (T,) or (B, T) -> (B, T)."""
    weights = row.to(matrix).expand(len(matrix), -1)
    return torch.einsum("bt,bts->bs", weights, matrix)


def _positive_mean(values: Tensor) -> Tensor:
    """mean_h(max(0, values)), (B, H, T, T) -> (B, T, T), head by head: it takes a third of the time
    of all at once."""
    total = values.new_zeros(len(values), *values.shape[2:])
    for head in values.unbind(dim=1):
        total += head.clamp_min(0)
    return total / values.shape[1]


def _discard(matrix: Tensor, ratio: float, prefix: int) -> Tensor:
    """Zero the lowest `ratio` of each (T, T) matrix's entries, per image, prefix columns spared."""
    if not 0 <= ratio < 1:
        raise ValueError(f"discard_ratio is {ratio}; use 0 up to, not including, 1")
    if ratio == 0:
        return matrix
    patches = matrix[..., prefix:].flatten(-2)  # (B, T * patches)
    lowest = patches.topk(int(ratio * patches.shape[-1]), dim=-1, largest=False).indices
    kept = patches.scatter(-1, lowest, 0).unflatten(-1, (matrix.shape[-1], -1))
    return torch.cat([matrix[..., :prefix], kept], dim=-1)


def _past_residual(matrix: Tensor, row: Tensor) -> Tensor:
    """row @ rownorm(0.5 A + 0.5 I): the share that passes through attention and past it."""
    row = row / (matrix.sum(dim=-1) + 1)
    return _read(matrix, row) + row


def raw(attn: Tensor, readout: Tensor, fusion: Fusion = "mean") -> Tensor:
    """The readout's own attention, (B, T): r A, heads fused.

    Caron et al. 2021 (DINO, arXiv:2104.14294) show the last block's CLS row.
    """
    return _read(fuse_heads(attn, fusion), readout)


def rollout(
    attn: Tensor, row: Tensor, fusion: Fusion = "mean", discard_ratio: float = 0.0, prefix: int = 1
) -> Tensor:
    """Attention rollout, (B, T): of all blocks r A'_L ... A'_1 with A' = rownorm(0.5 fuse_h(A) +
    0.5 I).

    Abnar & Zuidema 2020 (arXiv:2005.00928). Before the residual is added the lowest `discard_ratio`
    of each matrix's patch columns are set to zero, per image; the first `prefix` columns never are.
    Class-agnostic.
    """
    return _past_residual(_discard(fuse_heads(attn, fusion), discard_ratio, prefix), row)


def gradient_rollout(
    product: Tensor, row: Tensor, discard_ratio: float = 0.0, prefix: int = 1
) -> Tensor:
    """Gradient rollout, (B, T): rollout of max(0, mean_h(dy/dA * A)), given `product` dy/dA * A,
    (B, H, T, T).

    Gildenblat 2020 (github.com/jacobgil/vit-explain), with gradient and attention of the same
    block, any prefix, and the discard per image.
    """
    return _past_residual(_discard(product.mean(dim=1).clamp_min(0), discard_ratio, prefix), row)


def chefer(product: Tensor, row: Tensor) -> Tensor:
    """Relevance of Chefer et al. ICCV 2021 (arXiv:2103.15679), self-attention rule, (B, T).

    R = I, then per block, first to last: R <- R + mean_h(max(0, dy/dA * A)) R; of all blocks r R.
    Given is `product` dy/dA * A, (B, H, T, T).
    """
    return row + _read(_positive_mean(product), row)


def legrad(grads: Tensor) -> Tensor:
    """LeGrad, (B, T): mean over heads of max(0, dy_l/dA_l), rows averaged; to be averaged over the
    blocks.

    Bousselham et al. ICCV 2025 (arXiv:2404.03214): y_l is the class score read from block l's own
    output, and all rows weigh the same, which for CLS pooling leaves the CLS row alone, as no other
    has a gradient there.
    """
    return _positive_mean(grads).mean(dim=1)


def readout_maps(attn: Tensor, layout: TokenLayout, readout: Tensor) -> Tensor:
    """Where each head of a block looks for the readout, (T,) or (B, T): attn -> (B, H, G_h,
    G_w)."""
    return layout.to_grid(read_rows(attn, readout))


@dataclass
class Side:
    """The maps of one gradient, carried down the blocks: (B, T) each."""

    gradient_rollout: Tensor
    relevance: Tensor
    legrad: Tensor

    @classmethod
    def begin(cls, readout: Tensor) -> "Side":
        return cls(readout, readout, torch.zeros_like(readout))

    def pass_block(
        self, product: Tensor, legrad: Tensor, discard_ratio: float, prefix: int
    ) -> None:
        """One block further, given attention times gradient, (B, H, T, T), and LeGrad of the block,
        (B, T)."""
        self.gradient_rollout = gradient_rollout(
            product, self.gradient_rollout, discard_ratio, prefix
        )
        self.relevance = chefer(product, self.relevance)
        self.legrad = self.legrad + legrad

    def tokens(self, blocks: int) -> dict[str, Tensor]:
        return {
            "gradient rollout": self.gradient_rollout,
            "relevance": self.relevance,
            "LeGrad": self.legrad / blocks,
        }


@dataclass
class Reduction:
    """Every method's maps of one batch, made from its blocks one by one, last block first.

    Asked for are the directions of the walk and differences of two of them, by their places among
    the directions. A `signed` direction and a difference have the map of what speaks for it minus
    that of what speaks against it.

    The gradients are those of y = logit[class] - logit[other]. Gradient rollout, relevance (Chefer
    et al. 2021) and LeGrad (Bousselham et al. 2025) keep positive parts, so a map of y shows the
    class's side alone. The map of -y, whose gradients are the negated ones, shows the other's. The
    contrast is the first minus the second: it changes its sign with the order of the classes, and
    is 0 for a class against itself. What raises both logits alike is in neither side. As max(0, g)
    - max(0, -g) = g, LeGrad's contrast is the mean gradient itself.
    """

    maker: "MapMaker"
    readout: Tensor  # (B, T)
    asked: Sequence[int | Pair]
    signed: bool = False
    last_block: Tensor | None = None
    rollout: Tensor | None = None
    blocks: int = 0
    # of each asked for: for, and if signed against
    sides: list[list[Side]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sides = [
            [Side.begin(self.readout) for _ in range(1 + self._is_signed(one))]
            for one in self.asked
        ]

    def _is_signed(self, asked: int | Pair) -> bool:
        return self.signed or not isinstance(asked, int)

    def pass_block(self, block: BlockAttention) -> None:
        maker, prefix = self.maker, len(self.maker.layout.prefix)
        if self.last_block is None:
            self.last_block = raw(block.attn, self.readout, maker.fusion)
        row = self.readout if self.rollout is None else self.rollout
        self.rollout = rollout(block.attn, row, maker.fusion, maker.discard_ratio, prefix)
        self.blocks += 1
        assert block.early_reads is not None or not self.asked
        for asked, sides in zip(self.asked, self.sides, strict=True):
            product = block.gradient(_chosen(block.reads, asked)).mul_(block.attn)
            early = _chosen(block.early_reads, asked)
            if len(sides) == 1:
                sides[0].pass_block(
                    product, legrad(block.gradient(early)), maker.discard_ratio, prefix
                )
                continue
            signed = block.mean_gradient(early)  # both sides of LeGrad at once, without a matrix
            sides[0].pass_block(product, signed, maker.discard_ratio, prefix)
            sides[1].pass_block(
                product.neg_(), torch.zeros_like(signed), maker.discard_ratio, prefix
            )

    def maps(self) -> tuple[Maps, list[Maps]]:
        """Of the methods that know no class, and of the others for each asked for."""
        grid = self.maker.layout.to_grid
        assert self.last_block is not None
        assert self.rollout is not None
        found = []
        for first, *second in (
            [side.tokens(self.blocks) for side in sides] for sides in self.sides
        ):
            found.append({m: grid(first[m] - second[0][m] if second else first[m]) for m in first})
        return {"last block": grid(self.last_block), "rollout": grid(self.rollout)}, found


def _chosen(reads: Any, asked: int | Pair) -> Tensor:
    """(C, ...) -> that of one direction, or the difference of two."""
    return reads[asked] if isinstance(asked, int) else reads[asked[0]] - reads[asked[1]]


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Batches as one, by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class ClassMaps:
    """The maps of images for several classes, and for pairs of them.

    Attributes:
        agnostic: of the methods that know no class.
        classes: by class, of the others.
        contrasts: by pair of classes, of the others, signed: what speaks for the first minus what
            for the second.
    """

    agnostic: Maps
    classes: dict[int, Maps]
    contrasts: dict[Pair, Maps]


@dataclass(frozen=True)
class MapMaker:
    """Makes the map of every method, for a model and the settings of the maps.

    At most `batch_size` images go together, and no more than BATCH_BYTES allow.
    """

    model: nn.Module
    fusion: Fusion = "mean"
    discard_ratio: float = 0.0
    batch_size: int = 8

    @property
    def layout(self) -> TokenLayout:
        return token_layout(self.model)

    @property
    def heads(self) -> int:
        """H."""
        attention: Any = self.model.get_submodule("blocks.0.attn")
        return int(attention.num_heads)

    @property
    def image_bytes(self) -> int:
        """What the walk keeps of one image, about: matrices of one block, the graph of all."""
        model: Any = self.model
        tokens = self.layout.tokens
        return 4 * (
            MATRICES * self.heads * tokens**2 + GRAPH * len(model.blocks) * tokens * model.embed_dim
        )

    @property
    def images_at_once(self) -> int:
        """Images of a batch, so that they stay below BATCH_BYTES."""
        return max(1, min(self.batch_size, BATCH_BYTES // self.image_bytes))

    def batches(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Tensors of the same images, batch by batch."""
        return zip(*(tensor.split(self.images_at_once) for tensor in tensors), strict=True)

    def readout(self, walk: Walk) -> Tensor:
        """What the head reads, (B, T)."""
        return self.layout.readout(walk.pooling).to(walk.logits.device).expand(len(walk.logits), -1)

    def maps_of(
        self, walk: Walk, classes: Tensor, against: Tensor | None = None, visit: Visit | None = None
    ) -> Maps:
        """Every method's map of one batch, as `maps` gives them; `visit` sees each block once, last
        block first."""
        directions = directions_of(classes, against, walk.logits.shape[1])
        agnostic, (found,) = self._reduced(walk, directions, [0], visit, signed=against is not None)
        if against is not None:
            agnostic = {name: torch.zeros_like(values) for name, values in agnostic.items()}
        return {name: (agnostic | found)[name] for name in METHODS}

    def maps(self, pixels: Tensor, classes: Tensor, against: Tensor | None = None) -> Maps:
        """Every method's map of images (B, 3, h, w) for one class each, (B,), batch by batch.

        With `against`, a second class each, (B,), the maps are signed, and 0 where the method knows
        no class: see `Reduction`.
        """
        one_class_each(len(pixels), classes=classes, against=against)
        parts = []
        for batch, wanted, *others in self.batches(
            pixels, classes, *([] if against is None else [against])
        ):
            parts.append(
                self.maps_of(Walk(self.model, batch), wanted, others[0] if others else None)
            )
        return joined(parts)

    def class_maps(
        self,
        walk: Walk,
        classes: Sequence[int],
        pairs: Sequence[Pair] = (),
        visit: Visit | None = None,
    ) -> ClassMaps:
        """The maps of one batch for each of the classes and each of the pairs of them, from one
        pass forward.

        `visit` sees each block once, last block first. Classes beyond CLASSES_AT_ONCE take another
        walk through the blocks; those of the pairs come first, together.
        """
        paired = dict.fromkeys(k for pair in pairs for k in pair)
        order = [*paired, *(k for k in classes if k not in paired)]
        at_once = max(len(paired), CLASSES_AT_ONCE)
        agnostic: Maps = {}
        found: dict[int | Pair, Maps] = {}
        for start in range(0, len(order), at_once):
            group = order[start : start + at_once]
            asked: list[int | Pair] = [*group, *(pairs if start == 0 else ())]
            place = {k: i for i, k in enumerate(group)}
            places = [
                place[one] if isinstance(one, int) else (place[one[0]], place[one[1]])
                for one in asked
            ]
            wanted = torch.tensor(group, device=walk.logits.device)[:, None].expand(
                -1, len(walk.logits)
            )
            directions = torch.cat(
                [directions_of(of_class, None, walk.logits.shape[1]) for of_class in wanted]
            )
            agnostic, of_asked = self._reduced(
                walk, directions, places, visit if start == 0 else None
            )
            found |= dict(zip(asked, of_asked, strict=True))
        return ClassMaps(
            agnostic, {k: found[k] for k in classes}, {pair: found[pair] for pair in pairs}
        )

    def _reduced(
        self,
        walk: Walk,
        directions: Tensor,
        asked: Sequence[int | Pair],
        visit: Visit | None = None,
        signed: bool = False,
    ) -> tuple[Maps, list[Maps]]:
        """One walk: the maps that know no class, and the others for each asked for."""
        reduction = Reduction(self, self.readout(walk), asked, signed)

        def pass_block(block: BlockAttention) -> None:
            reduction.pass_block(block)
            if visit is not None:
                visit(block)

        walk.each_block(pass_block, directions, early=True)
        return reduction.maps()
