"""Save and load a model as a folder that timm itself can load."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import Tensor, nn

from vit_finetune.core.errors import UserError
from vit_finetune.model.families import family_of
from vit_finetune.model.preprocessing import Preprocessing

WEIGHTS = "model.safetensors"


def save_model(
    model: nn.Module,
    folder: Path,
    preprocess: Preprocessing,
    dataset: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder from which `timm.create_model("local-dir:<folder>", pretrained=True)` builds
    the same model.

    Args:
        dataset: what a fine-tuned model was trained on: `classes`, `image_shape`, `fit`, and
            `reading`, how an image file becomes pixels before that.
    """
    data_config = {**preprocess.facts(), "input_size": (3, *preprocess.input_size)}
    model_config = {}
    if dataset:
        size = dataset["image_shape"][:2]
        source = {"image_size": size, "fit": dataset["fit"], **dataset["reading"]}
        model_config = {"label_names": dataset["classes"], "trained_on": source}
    # A distilled model's logits are the mean of its two heads, so both become the trained one.
    first, *others = family_of(model).heads
    for other in others:
        model.get_submodule(other).load_state_dict(model.get_submodule(first).state_dict())
    save_for_hf(
        model,
        str(folder),
        model_config=model_config,
        data_config=data_config,
        safe_serialization=True,
    )


def load_model(folder: str | Path, num_classes: int | None = None) -> Any:
    """A saved model in eval mode. If it has no head for `num_classes`, it gets one of zeros.

    If the number of classes differs, timm does not report tensors that the folder lacks. To be sure
    of them, compare `weights_digest` with what was recorded when the folder was written.

    Raises:
        UserError: the folder does not hold the model that its configuration describes.
    """
    config_file = Path(folder) / "config.json"
    if not config_file.is_file() or not (config_file.parent / WEIGHTS).is_file():
        raise UserError(
            f"{folder} does not hold a model ({config_file.name} and {WEIGHTS}); run dvc repro"
        )
    options = {} if num_classes is None else {"num_classes": num_classes}
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, **options)
        config = json.loads(config_file.read_text("utf-8"))
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _unreadable(folder, error) from error
    has_head = config["num_classes"] == num_classes
    if num_classes is not None and not has_head:
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
    return model.eval()


def trained_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a fine-tuned model, with `label_names` in order and `trained_on` (image_size,
    fit, and how an image file is read).

    Raises:
        UserError: there is no such model.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise _unreadable(folder, error) from error
    if not isinstance(config, dict) or "trained_on" not in config:
        raise UserError(
            f"{folder} does not hold a trained model; run dvc repro, or name its folder with "
            "--model"
        )
    return config


def _unreadable(folder: str | Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(
        f"{folder} holds a damaged model ({type(error).__name__}: {reason}); run dvc repro, or "
        "copy the folder again"
    )


def class_names(folder: str | Path) -> list[str]:
    """The class names that a fine-tuned model's folder carries, in label order."""
    return list(trained_config(folder)["label_names"])


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors but the heads'."""
    heads = tuple(f"{head}." for head in family_of(model).heads)
    tensors = model.state_dict().items()
    return _digest({name: tensor for name, tensor in tensors if not name.startswith(heads)})


def head_digest(model: nn.Module) -> str:
    """The same over the tensors of the head that is trained."""
    return _digest(model.get_submodule(family_of(model).heads[0]).state_dict())


def _digest(tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().data)
    return sha.hexdigest()
