"""The families of Vision Transformers that can be split at a block, and torchvision's models as timm's.

A family says how images become the tokens of the first block, and what the blocks take beside the tokens: rotary
embeddings or biases that hold the positions. These depend on the grid alone, so the blocks can go on from stored
tokens.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import beit, eva
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

Options = Sequence[dict[str, Any]]  # of each block


@dataclass(frozen=True)
class Family:
    """How images become tokens.

    Attributes:
        tokens: model, normalised images (B, 3, h, w) -> tokens (B, T, D) before the first block.
        options: model -> what each block takes beside the tokens.
    """

    tokens: Callable[[Any, Tensor], Tensor]
    options: Callable[[Any], Options]


def _vit_tokens(model: Any, pixels: Tensor) -> Tensor:
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))


def _no_options(model: Any) -> Options:
    return [{}] * len(model.blocks)


def _eva_tokens(model: Any, pixels: Tensor) -> Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(pixels))[0])


def _eva_options(model: Any) -> Options:
    blank = torch.zeros(1, 3, *model.patch_embed.img_size, device=next(model.parameters()).device)
    rope = model._pos_embed(model.patch_embed(blank))[1]
    by_block = rope if getattr(model, "rope_mixed", False) else [rope] * len(model.blocks)
    return [{"rope": embedding} for embedding in by_block]


def _beit_tokens(model: Any, pixels: Tensor) -> Tensor:
    patches = model.patch_embed(pixels)
    tokens = torch.cat([model.cls_token.expand(len(patches), -1, -1), patches], dim=1)
    return tokens if model.pos_embed is None else tokens + model.pos_embed


def _beit_options(model: Any) -> Options:
    bias = None if model.rel_pos_bias is None else model.rel_pos_bias()
    return [{"shared_rel_pos_bias": bias}] * len(model.blocks)


PLAIN = Family(_vit_tokens, _no_options)
FAMILIES: dict[type, Family] = {
    VisionTransformer: PLAIN,
    VisionTransformerDistilled: PLAIN,
    eva.Eva: Family(_eva_tokens, _eva_options),
    beit.Beit: Family(_beit_tokens, _beit_options),
}
BLOCKS = (Block, eva.EvaBlock, eva.EvaBlockPostNorm, beit.Block)


def family_of(model: nn.Module) -> Family:
    """How to split a model at a block (ValueError for one that cannot be)."""
    family, patches = FAMILIES.get(type(model)), getattr(model, "patch_embed", None)
    if family is None:
        raise ValueError(f"a {type(model).__name__} of {type(model).__module__} cannot be split at a block")
    for block in model.get_submodule("blocks").children():
        if type(block) not in BLOCKS:
            raise ValueError(f"a {type(model).__name__} of {type(block).__name__} cannot be split at a block")
    if getattr(patches, "img_size", None) is None or getattr(patches, "patch_size", None) is None:
        raise ValueError(f"a {type(patches).__name__} has no fixed grid of patches")
    return family


def knows_positions(model: nn.Module) -> bool:
    """Whether the attention itself knows where a token stands, so that leaving tokens out is not defined."""
    return type(model) not in (VisionTransformer, VisionTransformerDistilled)


# torchvision

TORCHVISION = {  # its architecture -> the equal one of timm
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
}
_RENAMED = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"^heads\.head\.", "head."),
)


def torchvision_model(name: str, *, pretrained: bool, **options: Any) -> Any:
    """torchvision's `vit_b_16` or `vit_b_16.<weights>` as the equal timm model, with torchvision's preprocessing.

    Raises:
        ValueError: no such model or weights; names those there are.
        OSError: the weights cannot be downloaded.
    """
    from torchvision.models import get_model_weights

    architecture, _, tag = name.partition(".")
    if architecture not in TORCHVISION:
        raise ValueError(f"torchvision has no Vision Transformer {architecture!r}; it has: {', '.join(TORCHVISION)}")
    known = get_model_weights(architecture)
    if tag and tag not in known.__members__:
        raise ValueError(
            f"torchvision has no weights {tag!r} of {architecture}; it has: {', '.join(known.__members__)}"
        )
    weights: Any = known[tag or "DEFAULT"]
    preset = weights.transforms()
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    model = timm.create_model(TORCHVISION[architecture], **{"img_size": crop, **options})
    model.pretrained_cfg = {
        **model.pretrained_cfg,
        "input_size": (3, crop, crop),
        "crop_pct": crop / resize,
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }
    if pretrained:
        load_torchvision_state(model, weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    return model


def load_torchvision_state(model: VisionTransformer, state: dict[str, Tensor]) -> None:
    """torchvision's tensors into the equal timm model; position embeddings fit the model's own grid."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    if isinstance(model.head, nn.Identity):
        renamed = {name: tensor for name, tensor in renamed.items() if not name.startswith("head.")}
    grid = list(model.patch_embed.grid_size)
    renamed["pos_embed"] = resample_abs_pos_embed(renamed["pos_embed"], new_size=grid)
    model.load_state_dict(renamed)
