"""From attention to maps: six published methods, a class each.

A map takes one block after the other, last block first, and holds (B, T), prefix tokens included.
What the head reads, (B, T), weighs the rows: one-hot on CLS, uniform on the patches for average
pooling, the pooling row for attention pooling. Rollout-like methods need one row of a product of
matrices, so this row, at first what the head reads, is multiplied through the blocks instead of
whole matrices.

To add a method, write a subclass of `Map` and add it to `MAPS`. B images, L blocks, H heads, T
tokens, a grid of G_h x G_w patches, K classes; `attn` and its gradients are (B, H, T, T).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from vit_finetune.attention.operators import unknown_operators
from vit_finetune.attention.shape import read_rows
from vit_finetune.attention.walk import EARLY, EFFECTIVE, GRADIENT, BlockAttention, Walk
from vit_finetune.model.families import token_layout
from vit_finetune.model.tokens import TokenLayout

# that matrices and tokens of a batch may take: so many images go together, or one
BATCH_BYTES = 2**28
# (H, T, T) float32 of an image at once, of one block: attention, two gradients, two on the way
MATRICES = 5
# (T, D) float32 of an image that the graph keeps for each block: up to about 18 in timm's families
GRAPH = 18

Fusion = Literal["mean", "max"]
Maps = dict[str, Tensor]  # method -> (B, G_h, G_w)


@dataclass(frozen=True)
class Settings:
    """How maps are made.

    Attributes:
        fusion: how heads are fused in the maps of attention alone.
        discard_ratio: of each matrix's entries, that rollout and gradient rollout leave out.
        prefix: number of prefix tokens, which are not left out.
    """

    fusion: Fusion = "mean"
    discard_ratio: float = 0.0
    prefix: int = 1

    def __post_init__(self) -> None:
        if self.fusion not in ("mean", "max"):
            raise ValueError(f"heads are fused by {self.fusion!r}; use 'mean' or 'max'")
        if not 0 <= self.discard_ratio < 1:
            raise ValueError(
                f"discard_ratio is {self.discard_ratio}; use 0 up to, not including, 1"
            )


class Map(ABC):
    """The map of one batch of images for one direction.

    Attributes:
        name: of the method.
        description: a sentence on what the map shows.
        asks: what it needs of a block beside the attention: GRADIENT, EARLY or EFFECTIVE. A map
            that needs nothing knows no class.
        signed: whether its values below 0 speak against the class.
        values: (B, T), of the blocks up to now.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    asks: ClassVar[frozenset[str]] = frozenset()
    signed: ClassVar[bool] = False
    values: Tensor

    def __init__(self, readout: Tensor, settings: Settings) -> None:
        """`readout`: what the head reads, (B, T)."""
        self.readout = readout
        self.settings = settings
        self.values = readout

    @abstractmethod
    def pass_block(self, block: BlockAttention) -> None:
        """Take the next block; the last one comes first."""

    @classmethod
    def obstacle(cls, model: nn.Module) -> str:
        """Why this map cannot be made of a model; empty if it can."""
        return ""


class LastBlock(Map):
    """r A of the last block: its attention for what the head reads, heads fused.

    Caron et al. 2021 (DINO, arXiv:2104.14294) show it for CLS.
    """

    name = "last block"
    description = (
        "The last block's attention for what the head reads, heads fused. It knows no class."
    )
    first = True

    def pass_block(self, block: BlockAttention) -> None:
        if self.first:
            self.values = read(fuse_heads(block.attn, self.settings.fusion), self.readout)
            self.first = False


class Rollout(Map):
    """r A'_L ... A'_1 with A' = rownorm(0.5 fuse_h(A) + 0.5 I).

    Abnar & Zuidema 2020 (arXiv:2005.00928). Before the residual is added, the lowest
    `discard_ratio` of each matrix's patch columns are set to zero, per image.
    """

    name = "rollout"
    description = (
        "Attention multiplied through all blocks, half of each block passing by (Abnar & Zuidema "
        "2020). It knows no class."
    )

    def pass_block(self, block: BlockAttention) -> None:
        fused = discard_lowest(fuse_heads(block.attn, self.settings.fusion), self.settings)
        self.values = past_residual(fused, self.values)


class GradientRollout(Map):
    """Rollout of max(0, mean_h(dy/dA * A)).

    Gildenblat 2020 (github.com/jacobgil/vit-explain), with gradient and attention of the same
    block, any prefix, and the discard per image.
    """

    name = "gradient rollout"
    description = "Rollout of attention times its gradient for a class, where that is positive."
    asks = frozenset([GRADIENT])

    def pass_block(self, block: BlockAttention) -> None:
        assert block.gradient is not None
        positive = mean_over_heads(torch.mul, block.gradient, block.attn).clamp_min(0)
        self.values = past_residual(discard_lowest(positive, self.settings), self.values)


class Relevance(Map):
    """r R_L with R_0 = I and R_l = R_(l-1) + mean_h(max(0, dy/dA_l * A_l)) R_(l-1).

    Chefer et al. ICCV 2021 (arXiv:2103.15679), the rule of self-attention.
    """

    name = "relevance"
    description = (
        "Attention times its gradient for a class, accumulated over the blocks (Chefer et al. "
        "2021)."
    )
    asks = frozenset([GRADIENT])

    def pass_block(self, block: BlockAttention) -> None:
        assert block.gradient is not None
        positive = mean_over_heads(positive_product, block.gradient, block.attn)
        self.values = self.values + read(positive, self.values)


class LeGrad(Map):
    """The mean over blocks, heads and rows of max(0, dy_l/dA_l).

    Bousselham et al. ICCV 2025 (arXiv:2404.03214): y_l is the class score read from block l's own
    output. All rows weigh the same, which for CLS pooling leaves the CLS row alone, as no other has
    a gradient there.
    """

    name = "LeGrad"
    description = (
        "Positive gradients of a class score with respect to each block's attention (Bousselham et "
        "al. 2025)."
    )
    asks = frozenset([EARLY])

    def __init__(self, readout: Tensor, settings: Settings) -> None:
        super().__init__(readout, settings)
        self.total = torch.zeros_like(readout)
        self.blocks = 0

    def pass_block(self, block: BlockAttention) -> None:
        assert block.early is not None
        positive = mean_over_heads(positive_part, block.early)
        self.total = self.total + positive.mean(dim=1)
        self.blocks += 1
        self.values = self.total / self.blocks


class EffectiveGradient(Map):
    """g x, summed over the width: x what the patch embedding gives, g the gradient of the score for
    it while attention, norms and gates are held fixed; see `operators`.

    Wróbel et al. 2026 (DAVE, arXiv:2602.06613) and Mehri et al. 2024 (LibraGrad,
    arXiv:2411.16760), at patches, without an average over shifts of the image. The values and the
    score's other parts add up to the score (`effective`).
    """

    name = "effective gradient"
    description = (
        "What each patch adds to the logit of a class, with attention, norms and gates of the "
        "image held fixed (after Wróbel et al. 2026). Values below 0 speak against the class."
    )
    asks = frozenset([EFFECTIVE])
    signed = True

    def pass_block(self, block: BlockAttention) -> None:
        if block.effective is not None:  # the first block has it, and comes last
            self.values = block.effective

    @classmethod
    def obstacle(cls, model: nn.Module) -> str:
        unknown = unknown_operators(model)
        return f"it does not know how to hold {', '.join(unknown)} fixed" if unknown else ""


MAPS: tuple[type[Map], ...] = (
    LastBlock,
    Rollout,
    GradientRollout,
    Relevance,
    LeGrad,
    EffectiveGradient,
)
METHODS = {one.name: one for one in MAPS}


def fuse_heads(attn: Tensor, fusion: Fusion) -> Tensor:
    """(B, H, T, T) -> (B, T, T), the mean or the maximum over heads."""
    return attn.mean(dim=1) if fusion == "mean" else attn.amax(dim=1)


def read(matrix: Tensor, row: Tensor) -> Tensor:
    """row @ matrix: (B, T, T) and (B, T) -> (B, T)."""
    return torch.einsum("bt,bts->bs", row, matrix)


def mean_over_heads(of_head: Callable[..., Tensor], *matrices: Tensor) -> Tensor:
    """The mean of what `of_head` makes of the matrices of each head: (B, H, T, T) each ->
    (B, T, T).

    Head by head takes a third of the time of all at once, and of the memory.
    """
    heads = [matrix.unbind(dim=1) for matrix in matrices]
    total = torch.zeros_like(heads[0][0])
    for of_one in zip(*heads, strict=True):
        total += of_head(*of_one)
    return total / len(heads[0])


def positive_part(values: Tensor) -> Tensor:
    return values.clamp_min(0)


def positive_product(first: Tensor, second: Tensor) -> Tensor:
    return positive_part(first * second)


def discard_lowest(matrix: Tensor, settings: Settings) -> Tensor:
    """Zero the lowest `discard_ratio` of each (T, T) matrix's entries, per image, prefix columns
    spared."""
    if settings.discard_ratio == 0:
        return matrix
    prefix = settings.prefix
    patches = matrix[..., prefix:].flatten(-2)  # (B, T * patches)
    count = int(settings.discard_ratio * patches.shape[-1])
    lowest = patches.topk(count, dim=-1, largest=False).indices
    kept = patches.scatter(-1, lowest, 0).unflatten(-1, (matrix.shape[-1], -1))
    return torch.cat([matrix[..., :prefix], kept], dim=-1)


def past_residual(matrix: Tensor, row: Tensor) -> Tensor:
    """row @ rownorm(0.5 A + 0.5 I): the share that passes through attention and past it."""
    row = row / (matrix.sum(dim=-1) + 1)
    return read(matrix, row) + row


def readout_maps(attn: Tensor, layout: TokenLayout, readout: Tensor) -> Tensor:
    """Where each head of a block looks for the readout, (T,) or (B, T): attn -> (B, H, G_h,
    G_w)."""
    return layout.to_grid(read_rows(attn, readout))


class MapsOfDirection:
    """Some maps of one batch for one direction, block by block."""

    def __init__(self, kinds: Sequence[type[Map]], readout: Tensor, settings: Settings) -> None:
        self.maps = [kind(readout, settings) for kind in kinds]

    def pass_block(self, block: BlockAttention) -> None:
        for one in self.maps:
            one.pass_block(block)

    def values(self) -> dict[str, Tensor]:
        """(B, T) each."""
        return {one.name: one.values for one in self.maps}


class Contrast:
    """Maps of what speaks for a direction minus what speaks against it: half the difference between
    the map of the direction and that of its opposite.

    The direction is logit[class] - logit[other]. Methods that keep positive parts show the class's
    side alone in its map, and the other's in that of the opposite. The contrast changes its sign
    with the order of the classes, and is 0 for a class against itself and for methods that know no
    class. What raises both logits alike is in neither side. Of a method that is linear in the
    direction it is the map itself.
    """

    def __init__(self, kinds: Sequence[type[Map]], readout: Tensor, settings: Settings) -> None:
        self.for_class = MapsOfDirection(kinds, readout, settings)
        self.against = MapsOfDirection(kinds, readout, settings)

    def pass_block(self, block: BlockAttention) -> None:
        self.for_class.pass_block(block)
        self.against.pass_block(block.opposite())

    def values(self) -> dict[str, Tensor]:
        """(B, T) each, signed."""
        against = self.against.values()
        return {name: (one - against[name]) / 2 for name, one in self.for_class.values().items()}


def one_class_each(images: int, **given: Tensor | None) -> None:
    """ValueError unless each of the tensors, by name, holds one class per image, (B,), or is
    None."""
    for name, classes in given.items():
        if classes is not None and classes.shape != (images,):
            raise ValueError(
                f"{name}: shape {tuple(classes.shape)}; use one class per image, ({images},)"
            )


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Batches as one, by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class MapMaker:
    """Makes maps, for a model and the settings of the maps.

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
    def settings(self) -> Settings:
        return Settings(self.fusion, self.discard_ratio, len(self.layout.prefix))

    @property
    def kinds(self) -> list[type[Map]]:
        """The maps that can be made of the model."""
        return [kind for kind in MAPS if not kind.obstacle(self.model)]

    @property
    def images_at_once(self) -> int:
        """Images of a batch, so that they stay below BATCH_BYTES."""
        model: Any = self.model
        tokens = self.layout.tokens
        matrices = MATRICES * model.blocks[0].attn.num_heads * tokens**2
        graph = GRAPH * len(model.blocks) * tokens * model.embed_dim
        return max(1, min(self.batch_size, BATCH_BYTES // (4 * (matrices + graph))))

    def batches(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Tensors of the same images, batch by batch."""
        return zip(*(tensor.split(self.images_at_once) for tensor in tensors), strict=True)

    def readout(self, walk: Walk) -> Tensor:
        """What the head reads, (B, T)."""
        readout = self.layout.readout(walk.pooling).to(walk.logits)
        return readout.expand(len(walk.logits), -1)

    def maps(
        self,
        pixels: Tensor,
        classes: Tensor,
        against: Tensor | None = None,
        methods: Sequence[str] | None = None,
    ) -> Maps:
        """The maps of images (B, 3, h, w) for one class each, (B,), batch by batch.

        With `against`, a second class each, (B,), the maps are signed, and 0 where the method knows
        no class: see `Contrast`.

        Args:
            methods: names of those that are wanted; None for all.
        """
        one_class_each(len(pixels), classes=classes, against=against)
        kinds = self.kinds if methods is None else [METHODS[name] for name in methods]
        others = classes if against is None else against
        parts = []
        for batch, wanted, other in self.batches(pixels, classes, others):
            walk = Walk(self.model, batch, asked_by(kinds))
            found: MapsOfDirection | Contrast
            if against is None:
                direction = walk.direction(wanted)
                found = MapsOfDirection(kinds, self.readout(walk), self.settings)
            else:
                direction = walk.direction(wanted) - walk.direction(other)
                found = Contrast(kinds, self.readout(walk), self.settings)
            go_back(walk, [direction], [found])
            parts.append(self.on_grid(found.values()))
            del walk  # and with it the graph, before the next batch makes its own
        return joined(parts)

    def on_grid(self, values: Mapping[str, Tensor]) -> Maps:
        """(B, T) each -> (B, G_h, G_w), on the CPU."""
        return {name: self.layout.to_grid(one).cpu() for name, one in values.items()}


def asked_by(kinds: Sequence[type[Map]]) -> frozenset[str]:
    """What some kinds of maps need beside the attention."""
    return frozenset[str]().union(*(kind.asks for kind in kinds))


class TakesBlocks(Protocol):
    """What is shown one block after the other, last block first."""

    def pass_block(self, block: BlockAttention) -> None: ...


def go_back(walk: Walk, directions: Sequence[Tensor], takers: Sequence[TakesBlocks]) -> None:
    """Show each block to the takers, last block first."""

    def visit(block: BlockAttention) -> None:
        for taker in takers:
            taker.pass_block(block)

    walk.each_block(visit, directions)
