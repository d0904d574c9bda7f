"""The families of Vision Transformers that the pipeline can run, and everything that differs
between them.

A family can be split at a block, and the attention of its blocks is one softmax per head over all
tokens: it can be shown. To add a family: a subclass of `Family` and an entry in `FAMILIES`.
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
    """The plain ViT. Its tokens hold their positions, and the blocks take nothing beside the
    tokens."""

    blocks: tuple[type, ...] = (Block,)
    attention: tuple[type, ...] = (Attention,)
    heads: tuple[str, ...] = ("head",)  # modules that classify; the first one is trained
    # modules between the last block and the head
    after_blocks: tuple[str, ...] = ("norm", "fc_norm", "attn_pool")
    # whether the attention itself needs each token's position: then none can be left out
    knows_positions = False
    rotary = False  # whether positions are rotary embeddings, one for each patch
    # whether the last block may compute its CLS token alone, as far as the family goes
    cls_alone = True

    def tokens(self, model: Any, pixels: Tensor) -> Tensor:
        """Normalised images (B, 3, h, w) -> tokens (B, T, D) before the first block."""
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))

    def block_options(self, model: Any) -> Options:
        """What each block takes beside the tokens. It depends on the grid alone, not on the
        image."""
        return [{}] * len(model.blocks)

    def layout(self, model: Any) -> TokenLayout:
        """Prefix tokens, grid, and what the head reads.

        Raises:
            UserError: prefix tokens or pooling of an unknown kind.
        """
        prefix = [
            name
            for parameter, name in PREFIX.items()
            if getattr(model, parameter, None) is not None
        ]
        registers = getattr(model, "reg_token", None)
        prefix += [f"REG{i + 1}" for i in range(0 if registers is None else registers.shape[1])]
        if len(prefix) != model.num_prefix_tokens:
            raise UserError(
                f"{type(model).__name__} has {model.num_prefix_tokens} prefix tokens, known are {prefix}"
            )
        latent = hasattr(getattr(model, "attn_pool", None), "latent")
        pooling: Any = "map" if latent else model.global_pool
        if pooling not in ("token", "avg", "map"):
            raise UserError(
                f"{type(model).__name__} pools by {pooling!r}; known are token, avg and map"
            )
        rows, columns = model.patch_embed.grid_size
        total = len(prefix) + rows * columns
        pooled = (
            range(len(self.heads))
            if pooling == "token"
            else range(self._first_pooled(model, len(prefix)), total)
        )
        return TokenLayout(
            tuple(prefix), (rows, columns), tuple(model.patch_embed.patch_size), pooling, pooled
        )

    def _first_pooled(self, model: Any, prefix: int) -> int:
        return 0 if model.pool_include_prefix else prefix

    @contextmanager
    def keep_patches(self, model: Any, keep: Tensor) -> Iterator[None]:
        """In this block the model sees its prefix tokens and the patches `keep` (B, n), each at its
        own position."""
        usual = model.patch_drop
        model.patch_drop = _KeepPatches(keep, model.num_prefix_tokens, with_numbers=self.rotary)
        try:
            yield
        finally:
            model.patch_drop = usual

    def reads_only_cls(self, model: Any) -> bool:
        """Whether the last block may compute its CLS token alone (`last_block.cls_of_block`).

        It may where nothing else is read after it, and its attention is plain: keys linear in the
        tokens, no gate.
        """
        if not self.cls_alone:
            return False
        attn = model.blocks[-1].attn
        linear = isinstance(attn.k_norm, nn.Identity) and isinstance(attn.q_norm, nn.Identity)
        return (
            model.global_pool == "token"
            and model.attn_pool is None
            and linear
            and attn.gate is None
        )


class _KeepPatches(nn.Module):
    """Stands in for timm's patch dropout, after the position embedding."""

    def __init__(self, keep: Tensor, prefix: int, with_numbers: bool) -> None:
        super().__init__()
        self.keep, self.prefix, self.with_numbers = keep, prefix, with_numbers

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        patches = tokens[:, self.prefix :]
        kept = patches.gather(1, self.keep[..., None].expand(-1, -1, patches.shape[-1]))
        tokens = torch.cat([tokens[:, : self.prefix], kept], dim=1)
        return (tokens, self.keep) if self.with_numbers else tokens


class Distilled(Family):
    """Distilled DeiT: the mean of two heads, on CLS and DIST."""

    heads = ("head", "head_dist")
    cls_alone = False


class Eva(Family):
    """EVA-02, DINOv3 and others of timm's Eva: rotary embeddings hold the positions."""

    blocks = (eva.EvaBlock, eva.EvaBlockPostNorm)
    attention = (eva.EvaAttention, AttentionRope)
    knows_positions = rotary = True
    cls_alone = False

    def tokens(self, model: Any, pixels: Tensor) -> Tensor:
        return model.norm_pre(model._pos_embed(model.patch_embed(pixels))[0])

    def block_options(self, model: Any) -> Options:
        blank = torch.zeros(
            1, 3, *model.patch_embed.img_size, device=next(model.parameters()).device
        )
        rope = model._pos_embed(model.patch_embed(blank))[1]
        by_block = rope if getattr(model, "rope_mixed", False) else [rope] * len(model.blocks)
        return [{"rope": embedding} for embedding in by_block]

    def _first_pooled(self, model: Any, prefix: int) -> int:
        # its attention pooling looks over the prefix, too
        return 0 if model.attn_pool is not None else prefix


class Beit(Family):
    """BEiT: the attention adds a bias for each pair of positions."""

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

    def _first_pooled(self, model: Any, prefix: int) -> int:
        return prefix

    @contextmanager
    def keep_patches(self, model: Any, keep: Tensor) -> Iterator[None]:
        """The other patches stay, since the biases belong to pairs; but nothing attends to them or
        averages them."""
        prefix, original = model.num_prefix_tokens, F.scaled_dot_product_attention
        visible = torch.zeros(
            len(keep), model.patch_embed.num_patches, dtype=torch.bool, device=keep.device
        )
        visible = F.pad(visible.scatter(1, keep, True), (prefix, 0), value=True)
        bias = torch.zeros(visible.shape, device=keep.device).masked_fill(~visible, -torch.inf)[
            :, None, None
        ]

        def attention(
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attn_mask: Tensor | None = None,
            **options: Any,
        ) -> Any:
            mask = bias if attn_mask is None else attn_mask + bias
            return original(query, key, value, attn_mask=mask.to(query.dtype), **options)

        def kept_mean(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
            weights = visible[:, prefix:, None].to(tokens.dtype)
            mean = (tokens[:, prefix:] * weights).sum(dim=1, keepdim=True) / weights.sum(
                dim=1, keepdim=True
            )
            return torch.cat([tokens[:, :prefix], mean.expand_as(tokens[:, prefix:])], dim=1)

        hook = model.norm.register_forward_hook(kept_mean)
        functional: Any = F
        functional.scaled_dot_product_attention = attention
        try:
            with fused_attention(model):
                yield
        finally:
            functional.scaled_dot_product_attention = original
            hook.remove()


@contextmanager
def fused_attention(model: nn.Module) -> Iterator[None]:
    """In this block all attention of the model goes through torch's
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
    family, patches = FAMILIES.get(type(model)), getattr(model, "patch_embed", None)
    kind = type(model).__name__
    if family is None:
        raise UserError(f"a {kind} of {type(model).__module__} cannot be split at a block")
    for block in model.get_submodule("blocks").children():
        if type(block) not in family.blocks:
            raise UserError(f"a {kind} of {type(block).__name__} cannot be split at a block")
        attention = type(block.get_submodule("attn"))
        if attention not in family.attention:
            raise UserError(
                f"the attention of a {kind} of {attention.__name__} cannot be shown: it is not one softmax"
            )
    if getattr(patches, "img_size", None) is None or getattr(patches, "patch_size", None) is None:
        raise UserError(f"a {type(patches).__name__} has no fixed grid of patches")
    return family


def token_layout(model: nn.Module) -> TokenLayout:
    """Which token of a model is what (UserError for one that no family knows)."""
    return family_of(model).layout(model)
