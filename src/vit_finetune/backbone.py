"""The Vision Transformer: build, load, save, and split at the freeze boundary.

The boundary is the input of the first trainable block. What lies before it (the prefix) is computed once per
image and stored; what lies after it (the suffix) is trained from what was stored:

    trainable blocks   stored at the boundary              suffix
    0                  pooled features (N, D)              head
    k                  tokens (N, T, D)                    last k blocks, final norm, pooling, head
    all                images (N, H, W, 3) uint8           everything
"""

import difflib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers.attention import Attention
from timm.models import save_for_hf
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vit_finetune.families import family_of, torchvision_model
from vit_finetune.images import Preprocessing

Boundary = Literal["features", "tokens", "images"]
WEIGHTS = "model.safetensors"
EVAL_BATCH = 64  # images; the result does not depend on it
EXPLICIT_TOKENS = 1024  # up to so many, see `to_device`
TORCHVISION = "torchvision/"  # how the names of its models begin
WORKS = (
    "vit_*, deit_*, deit3_*, vit_*_reg*, vit_*_dinov2, vit_*_dinov3, vit_*_clip_*, vit_*_siglip_*, eva02_*, beit_*, "
    "beitv2_* of timm, or torchvision/vit_*"
)


def build_model(name: str, *, pretrained: bool, image_size: int | None, seed: int) -> Any:
    """A ViT of timm, or torchvision's as timm's, without a head, in eval mode.

    `seed` initialises what is not pretrained.

    Raises:
        ValueError: no such model, no such weights, an image size that the patches do not divide, or a model that
            cannot be split at a block.
        OSError: the weights cannot be had.
    """
    options = {} if image_size is None else {"img_size": image_size}
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each of its retries is a warning of several lines
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if name.startswith(TORCHVISION):
                source = name.removeprefix(TORCHVISION)
                model = torchvision_model(source, pretrained=pretrained, num_classes=0, **options)
            else:
                model = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (RuntimeError, ValueError, OSError, AssertionError, TypeError) as error:
        raise _building_failed(name, pretrained, image_size, error) from error
    try:
        family_of(model)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"model.name is {name!r}: {error}; use {WORKS}") from None
    patches = model.patch_embed
    if any(side % step for side, step in zip(patches.img_size, patches.patch_size, strict=True)):
        side, step = patches.img_size[0], patches.patch_size[0]
        raise ValueError(f"model.image_size is {side}: the patches of {name} are {step} pixels; use a multiple")
    return model.eval()


def _building_failed(name: str, pretrained: bool, image_size: int | None, error: Exception) -> Exception:
    """The same error with the key of params.yaml and the way out."""
    reason = " ".join(str(error).split())
    if name.startswith(TORCHVISION):
        if isinstance(error, OSError):
            return OSError(
                f"the weights of {name} could not be loaded: {reason} (torchvision keeps them in TORCH_HOME)"
            )
        return ValueError(f"model.name is {name!r}: {reason}")
    if name.startswith("local-dir:"):
        return OSError(f"model.name is {name!r}, but that folder has no usable model: {reason}")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models("*vit*"), n=3)
        return ValueError(f"model.name is {name!r}, which timm does not know; close: {', '.join(close) or 'none'}")
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        return ValueError(f"model.name is {name!r}, but timm has no such weights; it has: {', '.join(tags)}")
    if pretrained:
        return OSError(
            f"the weights of {name} could not be loaded: {reason} (they come from the Hugging Face hub or its local "
            "cache, HF_HOME; `make demo` needs neither)"
        )
    return ValueError(f"model.name {name!r} with model.image_size {image_size} cannot be built: {reason}")


def preprocessing(model: Any, crop_pct: float | None) -> Preprocessing:
    """How the model wants its images, by its own data configuration; `crop_pct` overrides one value of it."""
    overrides = {} if crop_pct is None else {"crop_pct": crop_pct}
    config = resolve_model_data_config(model, {"input_size": (3, *model.patch_embed.img_size), **overrides})
    return Preprocessing.from_config(config)


def save_model(
    model: nn.Module, folder: Path, preprocess: Preprocessing, dataset: Mapping[str, Any] | None = None
) -> None:
    """A folder that `timm.create_model("local-dir:<folder>", pretrained=True)` builds the same model from.

    Args:
        dataset: of a fine-tuned model, what it was trained on: `classes`, `image_shape`, `fit`.
    """
    data_config = {
        "input_size": (3, *preprocess.input_size),
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop_pct,
        "crop_mode": preprocess.crop_mode,
        "mean": preprocess.mean,
        "std": preprocess.std,
    }
    model_config = {}
    if dataset:
        source = {"image_size": dataset["image_shape"][:2], "fit": dataset["fit"]}
        model_config = {"label_names": dataset["classes"], "trained_on": source}
    if hasattr(model, "head_dist"):  # a distilled model answers with the mean of two heads: the same one, twice
        model.get_submodule("head_dist").load_state_dict(model.get_submodule("head").state_dict())
    save_for_hf(model, str(folder), model_config=model_config, data_config=data_config, safe_serialization=True)


def load_model(folder: str | Path, num_classes: int | None = None) -> Any:
    """A saved model in eval mode; `num_classes` gives it a new head of zeros.

    timm says nothing about tensors that a folder lacks once the number of classes differs: compare
    `weights_digest` with what was recorded when the folder was written.

    Raises:
        OSError: the folder does not hold the model that its configuration describes.
    """
    config_file = Path(folder) / "config.json"
    if not config_file.is_file() or not (config_file.parent / WEIGHTS).is_file():
        raise OSError(f"{folder} does not hold a model ({config_file.name} and {WEIGHTS}); run dvc repro")
    options = {} if num_classes is None else {"num_classes": num_classes}
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, **options)
    if num_classes is not None:
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
    return model.eval()


def trained_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a fine-tuned model, with its `label_names` in order and `trained_on` (image_size, fit).

    Raises:
        OSError: there is no such model.
    """
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "trained_on" not in config:
        raise OSError(f"{folder} does not hold a trained model; run dvc repro, or name its folder with --model")
    return config


def class_names(folder: str | Path) -> list[str]:
    """The class names that a fine-tuned model's folder carries, in label order."""
    return list(trained_config(folder)["label_names"])


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors but the head's."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(("head.", "head_dist.")):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().cpu().contiguous().numpy().data)
    return sha.hexdigest()


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

    torch's fused attention takes two to eight times the time of its three operations one by one where a CPU multiplies
    in bfloat16. It is no slower from about a thousand tokens on, where it also saves the memory of the matrices.
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
    """Normalised images -> activations at the boundary: tokens (B, T, D), or features (B, D) for no block."""
    tokens, boundary = embed_patches(model, pixels), len(model.blocks) - trainable_blocks
    for block, options in zip(model.blocks[:boundary], family_of(model).options(model), strict=False):
        tokens = block(tokens, **options)
    return tokens if trainable_blocks else model.forward_head(model.norm(tokens), pre_logits=True)


def run_blocks(model: Any, tokens: Tensor, trainable_blocks: int) -> Tensor:
    """Tokens (B, T, D) at the boundary -> pooled features (B, D), by the last blocks, final norm and pooling."""
    first, last = len(model.blocks) - trainable_blocks, len(model.blocks) - 1
    options = family_of(model).options(model)
    for index in range(first, last):
        tokens = model.blocks[index](tokens, **options[index])
    if reads_only_cls(model):
        return model.fc_norm(model.norm(cls_of_block(model.blocks[last], tokens)))
    return model.forward_head(model.norm(model.blocks[last](tokens, **options[last])), pre_logits=True)


def reads_only_cls(model: Any) -> bool:
    """Whether `cls_of_block` stands in exactly for the last block.

    It does where nothing but the CLS token is read after it (token pooling), and its attention is plain: keys that
    are linear in the tokens, no gate, no dropout.
    """
    attn = model.blocks[-1].attn
    if type(model) is not VisionTransformer or type(attn) is not Attention or attn.gate is not None:
        return False
    linear = isinstance(attn.k_norm, nn.Identity) and isinstance(attn.q_norm, nn.Identity)
    return model.global_pool == "token" and model.attn_pool is None and linear


def cls_attention(attn: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of the first token over all, without forming keys or values.

    A key k_t = W_k y_t + b_k meets one query only, so q·k_t = (W_kᵀ q)·y_t + q·b_k, whose second term is the same
    for all t and cancels in the softmax; and Σ p_t (W_v y_t + b_v) = W_v (Σ p_t y_t) + b_v. The cost falls from
    O(T D²) to O(T H D).

    Args:
        tokens: (B, T, D), normalised.

    Returns:
        The attention output for the first token (B, D), and its probabilities (B, H, T).
    """
    heads, head_dim, width = attn.num_heads, attn.head_dim, tokens.shape[-1]
    weight_q, weight_k, weight_v = attn.qkv.weight.view(3, heads, head_dim, width)
    query = torch.einsum("bc,hdc->bhd", tokens[:, 0], weight_q)
    if attn.qkv.bias is not None:
        query = query + attn.qkv.bias.view(3, heads, head_dim)[0]
    folded = torch.einsum("bhd,hdc->bhc", query * attn.scale, weight_k)
    probabilities = torch.matmul(folded, tokens.transpose(1, 2)).softmax(dim=-1)
    value = torch.einsum("bhc,hdc->bhd", torch.matmul(probabilities, tokens), weight_v)
    if attn.qkv.bias is not None:
        value = value + attn.qkv.bias.view(3, heads, head_dim)[2]
    return attn.proj(attn.norm(value.flatten(1))), probabilities


def cls_of_block(block: Block, tokens: Tensor) -> Tensor:
    """The first token (B, D) of `block(tokens)`, with only the work that it needs."""
    attended, _ = cls_attention(block.attn, block.norm1(tokens))
    cls = tokens[:, 0] + block.ls1(attended)
    return cls + block.ls2(block.mlp(block.norm2(cls)))


@dataclass(frozen=True)
class Suffix:
    """The trainable part of a model, from the freeze boundary to the logits.

    `preprocess` turns images into the model's input where they are what is trained from.
    """

    model: Any
    trainable_blocks: int | str
    preprocess: Callable[[Tensor], Tensor]
    device: torch.device
    precision: torch.dtype

    def tokens(self, stored: Tensor) -> Tensor:
        """A batch -> what the first trainable layer takes: tokens (B, T, D), or features (B, D).

        Args:
            stored: activations of the boundary, or images (B, H, W, 3), which the frozen blocks are then run on.
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
        blocks = len(self.model.blocks) if self.trainable_blocks == "all" else int(self.trainable_blocks)
        with autocast(self.device, self.precision):
            return run_blocks(self.model, tokens, blocks).float()

    def logits(self, tokens: Tensor) -> Tensor:
        """Tokens -> logits (B, K) in float32."""
        return self.model.head(self.features(tokens))

    @torch.no_grad()
    def predict(self, stored: Tensor, features: bool = False) -> Tensor:
        """Logits (N, K), or pooled features (N, D), of all stored activations, on the CPU in float32."""
        apply = self.features if features else self.logits
        return torch.cat([apply(self.tokens(batch)).cpu() for batch in stored.split(EVAL_BATCH)])
