"""Small models of random weights, of every kind that the pipeline can run."""

import timm
import torch
from torch.overrides import TorchFunctionMode

from tests.small_vits import scatter_weights
from vit_finetune.model.boundary import SplitModel, run_prefix

# timm's files of what can be split
OURS = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva", "beit")
SMALL = {"img_size": 32, "depth": 3, "embed_dim": 64, "num_heads": 4}
OF_14 = {"img_size": 28, "patch_size": 14}
KINDS = {  # what is special about it -> architecture of timm, options
    "vit": ("vit_tiny_patch16_224", {}),
    "augreg, normalised before the pooling": (
        "vit_tiny_patch16_224",
        {"global_pool": "avg", "fc_norm": False},
    ),
    "deit": ("deit_tiny_patch16_224", {}),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3, LayerScale, no class position": ("deit3_small_patch16_224", {}),
    "registers, average pooling": ("vit_wee_patch16_reg1_gap_256", {}),
    "dinov2": ("vit_small_patch14_dinov2", OF_14),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", OF_14),
    "siglip, attention pooling": ("vit_base_patch16_siglip_224", {}),
    "clip, norm before": ("vit_base_patch32_clip_224", {"img_size": 64}),
    "dinov3, rotary": ("vit_small_patch16_dinov3", {}),
    "dinov3 with biases": ("vit_small_patch16_dinov3_qkvb", {}),
    "eva02 tiny, rotary, packed swiglu": ("eva02_tiny_patch14_224", OF_14),
    "eva02 base, rotary, swiglu with norm": ("eva02_base_patch14_224", OF_14),
    "eva02 enormous, norm after": ("eva02_enormous_patch14_clip_224", OF_14),
    "eva, absolute positions": ("eva_giant_patch14_224", OF_14),
    "perception encoder, rotary, attention pooling": ("vit_pe_core_tiny_patch16_384", {}),
    "rotary, axial": ("vit_small_patch16_rope_224", {}),
    "rotary, learnt in each block": ("vit_small_patch16_rope_mixed_224", {}),
    "rotary, learnt, and absolute positions": ("vit_small_patch16_rope_mixed_ape_224", {}),
    "beit, relative positions in each block": ("beit_base_patch16_224", {}),
    "beit, relative positions of all blocks": (
        "beit_base_patch16_224",
        {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    ),
    "beit, both relative positions": ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True}),
    "beit, absolute positions": (
        "beit_base_patch16_224",
        {"use_rel_pos_bias": False, "use_abs_pos_emb": True},
    ),
    "beit, CLS": ("beit_base_patch16_224", {"global_pool": "token"}),
    "beitv2": ("beitv2_base_patch16_224", {}),
}


def randomised(model):
    """The model in eval mode, with noise on every parameter: norms, biases and LayerScale often
    start at 0 or 1."""
    return scatter_weights(model, std=0.05)


def build(kind):
    """A small model of one of `KINDS`, for five classes."""
    name, options = KINDS[kind]
    model = randomised(timm.create_model(name, num_classes=5, **{**SMALL, **options}))
    if hasattr(model, "head_dist"):  # as it is saved
        model.head_dist.load_state_dict(model.head.state_dict())
    return model


def split_model_of(model, blocks):
    """The model split before its last blocks, on the CPU in float32; it takes images that are
    normalised already."""
    return SplitModel(model, blocks, lambda images: images, torch.device("cpu"), torch.float32)


def store(model, pixels, blocks):
    """What is stored of normalised images for a number of trainable blocks."""
    with torch.no_grad():
        return pixels if blocks == "all" else run_prefix(model, pixels, blocks)


class NoInitialisation(TorchFunctionMode):
    """Writes no values into new models, which is what takes the time."""

    WRITES = frozenset(
        ("normal_", "uniform_", "clamp_", "erfinv_", "mul_", "div_", "add_", "fill_", "zero_")
    )

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        if function.__name__ in self.WRITES:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
