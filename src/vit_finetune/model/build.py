"""Build a model by its name."""

import difflib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data import resolve_model_data_config
from torch import Tensor

from vit_finetune.core.errors import UserError
from vit_finetune.core.files import refuse_link_to_folder
from vit_finetune.model.families import family_of, token_layout
from vit_finetune.model.hub import WAYS_ON, require_weights
from vit_finetune.model.preprocessing import Preprocessing
from vit_finetune.model.torchvision import torchvision_model

TORCHVISION = "torchvision/"  # how the names of torchvision's models begin
LOCAL = "local-dir:"  # those of models in a folder
PRETRAINED = "pretrained"  # the folder that these usually lie in
HUB = "hf_hub:"  # and those of models on the Hugging Face hub
# what timm and the libraries below it raise for a name, weights or options that do not fit
BUILDING_ERRORS = (
    UserError,
    RuntimeError,
    ValueError,
    OSError,
    AssertionError,
    TypeError,
    KeyError,
    SafetensorError,
)
WORKS = (
    "vit_*, deit_*, deit3_*, vit_*_reg*, vit_*_dinov2, vit_*_dinov3, vit_*_clip_*, vit_*_siglip_*, "
    "eva02_*, beit_*, beitv2_* of timm, or torchvision/vit_*"
)


def build_model(name: str, *, pretrained: bool, image_size: int | None, seed: int) -> Any:
    """A ViT of timm, or torchvision's as the equal one of timm, without a head, in eval mode.

    Args:
        seed: of the values of what is not pretrained.

    Raises:
        UserError: no such model or weights, weights that cannot be loaded or lie behind a link to a
            folder, an image size that the patches do not divide, or a model that no family knows.
    """
    if name.startswith(LOCAL):
        _refuse_links(Path(name.removeprefix(LOCAL)))
    if pretrained and not name.startswith((LOCAL, TORCHVISION)):
        require_weights(name)
    options = {} if image_size is None else {"img_size": image_size}
    # the hub's library warns in several lines at each retry
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if name.startswith(TORCHVISION):
                source = name.removeprefix(TORCHVISION)
                model = torchvision_model(source, pretrained=pretrained, num_classes=0, **options)
            elif pretrained and name.startswith((LOCAL, HUB)):
                # with its own head: without, timm would not report tensors that are missing
                model = timm.create_model(name, pretrained=True, **options)
                model.reset_classifier(0)
            else:
                model = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except BUILDING_ERRORS as error:
        raise _building_failed(name, pretrained, image_size, error) from error
    try:
        token_layout(model)
    except (UserError, AttributeError) as error:
        raise UserError(f"model.name is {name!r}: {error}; use {WORKS}") from None
    _require_whole_patches(model.patch_embed, name)
    return model.eval()


def _refuse_links(folder: Path) -> None:
    """Of the folders from pretrained/, on which `adapt` depends, down to that of a model."""
    below = folder.parts
    if below[:1] == (PRETRAINED,):
        for depth in range(2, len(below) + 1):
            refuse_link_to_folder(Path(*below[:depth]))


def known_classes(model: Any) -> list[str]:
    """The classes that the weights of a model were trained on; none if they do not say."""
    return list(model.pretrained_cfg.get("label_names") or [])


def kept_head(name: str, backbone: Any, classes: Sequence[str]) -> dict[str, Tensor] | None:
    """The head that came with the weights of a model, as `weight` (K, D) and `bias` (K,).

    Args:
        name: of a folder or a model of the hub, from which `build_model` made the backbone.
        classes: of the K rows. If the weights were trained on other ones, there is no such head.
    """
    known = known_classes(backbone)
    if not known or set(known) != set(classes):
        return None
    model = timm.create_model(name, pretrained=True)
    head = model.get_submodule(family_of(model).heads[0])
    rows = [known.index(label) for label in classes]
    return {key: tensor[rows] for key, tensor in head.state_dict().items()}


def _require_whole_patches(patches: Any, name: str) -> None:
    sizes = zip(patches.img_size, patches.patch_size, strict=True)
    if all(side % step == 0 for side, step in sizes):
        return
    side = patches.img_size[0]
    step = patches.patch_size[0]
    below = max(step, side // step * step)
    above = math.ceil(side / step) * step
    nearest = [below] if below == above else [below, above]
    raise UserError(
        f"model.image_size is {side}: the patches of {name} are {step} pixels; use a multiple such "
        f"as {' or '.join(map(str, nearest))}"
    )


def _building_failed(
    name: str, pretrained: bool, image_size: int | None, error: Exception
) -> UserError:
    """The same error with the key of params.yaml and the way out."""
    reason = " ".join(str(error).split())
    if isinstance(error, KeyError):
        reason = f"its configuration has no {error}, so timm did not write it"
    if name.startswith(TORCHVISION):
        if isinstance(error, OSError):
            return UserError(
                f"the weights of {name} could not be loaded: {reason} "
                "(torchvision keeps them in TORCH_HOME)"
            )
        return UserError(f"model.name is {name!r}: {reason}")
    if name.startswith(LOCAL):
        return UserError(f"model.name is {name!r}, but that folder has no usable model: {reason}")
    if name.startswith(HUB):
        return UserError(f"model.name is {name!r}, which could not be loaded: {reason}")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models("*vit*"), n=3)
        return UserError(
            f"model.name is {name!r}, which timm does not know; close: {', '.join(close) or 'none'}"
        )
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        return UserError(
            f"model.name is {name!r}, but timm has no such weights; it has: {', '.join(tags)}"
        )
    if pretrained:
        return UserError(
            f"the weights of {name} could not be loaded from the Hugging Face hub or its cache: "
            f"{reason}; {WAYS_ON}"
        )
    return UserError(
        f"model.name {name!r} with model.image_size {image_size} cannot be built: {reason}"
    )


def preprocessing(model: Any, crop_pct: float | None) -> Preprocessing:
    """The preprocessing that the model's own data configuration asks for; `crop_pct` replaces one
    value of it."""
    wanted: dict[str, Any] = {"input_size": (3, *model.patch_embed.img_size)}
    if crop_pct is not None:
        wanted["crop_pct"] = crop_pct
    return Preprocessing(resolve_model_data_config(model, wanted))
