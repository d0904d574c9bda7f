"""torchvision's Vision Transformers as the equal models of timm, with torchvision's weights and
preprocessing."""

import re
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vit_finetune.core.errors import UserError

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
    """torchvision's `vit_b_16` or `vit_b_16.<weights>` as the equal timm model, with torchvision's
    preprocessing.

    Raises:
        UserError: torchvision has no such model or weights; lists those it has.
        OSError: the weights cannot be downloaded.
    """
    from torchvision.models import get_model_weights

    architecture, _, tag = name.partition(".")
    if architecture not in TORCHVISION:
        raise UserError(
            f"torchvision has no Vision Transformer {architecture!r}; it has: "
            f"{', '.join(TORCHVISION)}"
        )
    known = get_model_weights(architecture)
    if tag and tag not in known.__members__:
        raise UserError(
            f"torchvision has no weights {tag!r} of {architecture}; it has: "
            f"{', '.join(known.__members__)}"
        )
    weights: Any = known[tag or "DEFAULT"]
    preset = weights.transforms()
    (crop,) = preset.crop_size
    (resize,) = preset.resize_size
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
        load_torchvision_state(
            model, weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        )
    return model


def load_torchvision_state(model: VisionTransformer, state: dict[str, Tensor]) -> None:
    """Load torchvision's tensors into the equal timm model; position embeddings are resampled to
    its grid."""
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
