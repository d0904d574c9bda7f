"""The families of Vision Transformers that the pipeline can run, and what differs between them.

A model of a family can be split at a block. The attention of its blocks is one softmax per head
over all tokens, so it can be shown. To add a family, write a subclass of `Family` and add it to
`FAMILIES`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope
from timm.layers.attention import Attention
from timm.models import beit, eva
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vit_finetune.core.errors import UserError
from vit_finetune.model.tokens import TokenLayout

Options = Sequence[dict[str, Any]]  # of each block
PREFIX = {"cls_token": "CLS", "dist_token": "DIST"}  # timm's parameter -> name of the token


class Family:
    """The plain ViT (arXiv:2010.11929): its tokens hold their positions.

    Attributes:
        blocks: classes of its blocks.
        attention: classes of their attention.
        heads: modules that classify; the first one is trained.
        after_blocks: modules between the last block and the head.
        knows_positions: the attention itself needs each token's position, so no token can be left
            out.
        rotary: positions are rotary embeddings, one for each patch.
        cls_alone: the last block may compute its CLS token alone; see `reads_only_cls`.
    """

    blocks: tuple[type, ...] = (Block,)
    attention: tuple[type, ...] = (Attention,)
    heads: tuple[str, ...] = ("head",)
    after_blocks: tuple[str, ...] = ("norm", "fc_norm", "attn_pool")
    knows_positions = False
    rotary = False
    cls_alone = True

    def tokens(self, model: Any, pixels: Tensor) -> Tensor:
        """Normalised images (B, 3, h, w) -> tokens (B, T, D) before the first block."""
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))

    def block_options(self, model: Any) -> Options:
        """What each block takes in addition to the tokens. It depends on the grid, not on the
        image."""
        return [{}] * len(model.blocks)

    def layout(self, model: Any) -> TokenLayout:
        """Prefix tokens, grid, and what the head reads.

        Raises:
            UserError: prefix tokens or pooling of an unknown kind.
        """
        prefix = self._prefix(model)
        pooling: Any = "map" if _pools_by_attention(model) else model.global_pool
        if pooling not in ("token", "avg", "map"):
            raise UserError(
                f"{type(model).__name__} pools by {pooling!r}; known are token, avg and map"
            )
        rows, columns = model.patch_embed.grid_size
        if pooling == "token":
            pooled = range(len(self.heads))
        else:
            pooled = range(self._first_pooled(model), len(prefix) + rows * columns)
        patch = tuple(model.patch_embed.patch_size)
        return TokenLayout(prefix, (rows, columns), patch, pooling, pooled)

    def _prefix(self, model: Any) -> tuple[str, ...]:
        names = [name for key, name in PREFIX.items() if getattr(model, key, None) is not None]
        registers = getattr(model, "reg_token", None)
        if registers is not None:
            names += [f"REG{i + 1}" for i in range(registers.shape[1])]
        if len(names) != model.num_prefix_tokens:
            raise UserError(
                f"{type(model).__name__} has {model.num_prefix_tokens} prefix tokens, "
                f"known are {names}"
            )
        return tuple(names)

    def _first_pooled(self, model: Any) -> int:
        """The first token that average or attention pooling reads."""
        return 0 if model.pool_include_prefix else model.num_prefix_tokens

    @contextmanager
    def keep_patches(self, model: Any, keep: Tensor) -> Iterator[None]:
        """Inside this context the model sees its prefix tokens and some of the patches alone, each
        at its own position.

        Args:
            keep: numbers of the patches for each image, (B, n).
        """
        with _replaced(
            model, "patch_drop", _KeepPatches(keep, model.num_prefix_tokens, self.rotary)
        ):
            yield

    def reads_only_cls(self, model: Any) -> bool:
        """Whether the last block may compute its CLS token alone (`last_block.cls_of_block`).

        It may if nothing else is read after it and its attention is plain: no norm of queries and
        keys, no gate.
        """
        if not self.cls_alone or model.global_pool != "token" or model.attn_pool is not None:
            return False
        attn = model.blocks[-1].attn
        plain_keys = isinstance(attn.k_norm, nn.Identity) and isinstance(attn.q_norm, nn.Identity)
        return plain_keys and attn.gate is None


def _pools_by_attention(model: Any) -> bool:
    return hasattr(getattr(model, "attn_pool", None), "latent")


@contextmanager
def _replaced(model: Any, name: str, module: nn.Module) -> Iterator[None]:
    """Another module in place of one of the model's, inside this context."""
    original = getattr(model, name)
    setattr(model, name, module)
    try:
        yield
    finally:
        setattr(model, name, original)


class _KeepPatches(nn.Module):
    """Takes the place of timm's patch dropout, which comes after the position embedding."""

    def __init__(self, keep: Tensor, prefix: int, return_numbers: bool) -> None:
        super().__init__()
        self.keep = keep
        self.prefix = prefix
        self.return_numbers = return_numbers

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        patches = tokens[:, self.prefix :]
        kept = patches.gather(1, self.keep[..., None].expand(-1, -1, patches.shape[-1]))
        tokens = torch.cat([tokens[:, : self.prefix], kept], dim=1)
        return (tokens, self.keep) if self.return_numbers else tokens


class Distilled(Family):
    """Distilled DeiT (arXiv:2012.12877): the mean of two heads, on CLS and DIST."""

    heads = ("head", "head_dist")
    cls_alone = False


class Eva(Family):
    """timm's Eva, with EVA-02 (arXiv:2303.11331) and DINOv3: rotary embeddings hold the
    positions."""

    blocks = (eva.EvaBlock, eva.EvaBlockPostNorm)
    attention = (eva.EvaAttention, AttentionRope)
    knows_positions = True
    rotary = True
    cls_alone = False

    def tokens(self, model: Any, pixels: Tensor) -> Tensor:
        return model.norm_pre(model._pos_embed(model.patch_embed(pixels))[0])

    def block_options(self, model: Any) -> Options:
        device = next(model.parameters()).device
        blank = torch.zeros(1, 3, *model.patch_embed.img_size, device=device)
        rope = model._pos_embed(model.patch_embed(blank))[1]
        if getattr(model, "rope_mixed", False):  # an embedding of its own for each block
            return [{"rope": embedding} for embedding in rope]
        return [{"rope": rope}] * len(model.blocks)

    def _first_pooled(self, model: Any) -> int:
        # its attention pooling reads the prefix, too
        return 0 if model.attn_pool is not None else model.num_prefix_tokens


class Beit(Family):
    """BEiT (arXiv:2106.08254): the attention adds a bias for each pair of positions."""

    blocks = (beit.Block,)
    attention = (beit.Attention,)
    knows_positions = True
    cls_alone = False

    def tokens(self, model: Any, pixels: Tensor) -> Tensor:
        patches = model.patch_embed(pixels)
        tokens = torch.cat([model.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return tokens if model.pos_embed is None else tokens + model.pos_embed

    def block_options(self, model: Any) -> Options:
        bias = None if model.rel_pos_bias is None else model.rel_pos_bias()
        return [{"shared_rel_pos_bias": bias}] * len(model.blocks)

    def _first_pooled(self, model: Any) -> int:
        return model.num_prefix_tokens

    @contextmanager
    def keep_patches(self, model: Any, keep: Tensor) -> Iterator[None]:
        """The other patches stay in their places, since the biases belong to pairs of positions.
        But no token attends to them, and the mean of the patches leaves them out."""
        prefix = model.num_prefix_tokens
        shape = (len(keep), model.patch_embed.num_patches)
        visible = torch.zeros(shape, dtype=torch.bool, device=keep.device).scatter(1, keep, True)

        def spread_mean(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
            """Every patch becomes the mean of the visible ones, which is then their mean, too."""
            weights = visible[..., None].to(tokens.dtype)
            patches = tokens[:, prefix:]
            mean = (patches * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
            return torch.cat([tokens[:, :prefix], mean.expand_as(patches)], dim=1)

        hook = model.norm.register_forward_hook(spread_mean)
        try:
            with _replaced(model, "rel_pos_bias", _HidingBias(model.rel_pos_bias, visible, prefix)):
                yield
        finally:
            hook.remove()


class _HidingBias(nn.Module):
    """Takes the place of BEiT's bias of all blocks: that bias, and -inf towards hidden patches."""

    def __init__(self, bias: nn.Module | None, visible: Tensor, prefix: int) -> None:
        super().__init__()
        self.bias = bias
        hidden = F.pad(~visible, (prefix, 0), value=False)
        self.mask = torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, -torch.inf)

    def forward(self) -> Tensor:
        """(B, 1, 1, T), or with a bias (B, H, T, T)."""
        mask = self.mask[:, None, None]
        return mask if self.bias is None else self.bias() + mask


@contextmanager
def fused_attention(model: nn.Module) -> Iterator[None]:
    """Inside this context all attention of the model calls torch's
    scaled_dot_product_attention."""
    others = [module for module in model.modules() if getattr(module, "fused_attn", True) is False]
    try:
        for module in others:
            module.fused_attn = True  # type: ignore[assignment]  # a plain attribute of timm's attention
        yield
    finally:
        for module in others:
            module.fused_attn = False  # type: ignore[assignment]


FAMILIES: dict[type, Family] = {
    VisionTransformer: Family(),
    VisionTransformerDistilled: Distilled(),
    eva.Eva: Eva(),
    beit.Beit: Beit(),
}


def family_of(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        UserError: the model cannot be split at a block, or its attention cannot be shown; says why.
    """
    kind = type(model).__name__
    family = FAMILIES.get(type(model))
    if family is None:
        raise UserError(f"a {kind} of {type(model).__module__} cannot be split at a block")
    for block in model.get_submodule("blocks").children():
        if type(block) not in family.blocks:
            raise UserError(f"a {kind} of {type(block).__name__} cannot be split at a block")
        attention = type(block.get_submodule("attn"))
        if attention not in family.attention:
            raise UserError(
                f"the attention of a {kind} of {attention.__name__} cannot be shown: "
                "it is not one softmax"
            )
    patches = getattr(model, "patch_embed", None)
    for name in ("img_size", "patch_size"):
        if getattr(patches, name, None) is None:
            raise UserError(f"a {type(patches).__name__} has no fixed grid of patches")
    return family


def token_layout(model: nn.Module) -> TokenLayout:
    """Which token of a model is what.

    Raises:
        UserError: no family knows the model.
    """
    return family_of(model).layout(model)
