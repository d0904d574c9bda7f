"""The README.md of a trained model, in the format of model cards on the Hugging Face hub."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from torch import nn

from vit_finetune.activations.manifest import Manifest
from vit_finetune.core.versions import released_versions
from vit_finetune.model.freezing import count_parameters
from vit_finetune.training.data import TrainingData
from vit_finetune.training.history import History
from vit_finetune.training.temperature import Calibration

CARD = "README.md"  # in the folder of the trained model
HUB_DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}  # names there
LIBRARIES = ("torch", "timm", "numpy", "scipy", "scikit-learn")  # that train computes with
TEXT = """---
{front}
---

# {name} on {dataset}

{classes} classes: {labels}.

| | |
|---|---|
{rows}

The accuracy on test images is in `metrics/evaluation.json` of the run. The temperature was fitted
on the validation images. It is part of the weights: a softmax of the logits gives calibrated
probabilities. `validation.csv` holds the confidence of each validation image (with groups, of one
of each), and whether its prediction is right.

## Use

```python
import timm
from PIL import Image, ImageOps

model = timm.create_model("local-dir:models/finetuned", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
label_names = model.pretrained_cfg["label_names"]

image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
image = {fitted}
probabilities = model(transform(image).unsqueeze(0)).softmax(dim=1)
```

`{call}` does what `fit: {fit}` did with the images of this run.
Transparency was laid over the colour {background}, and greys of 16 bits were divided by {divisor}.
"""
FITTED = {  # `fit` -> what Pillow is to be called with
    "crop": "ImageOps.fit(image, {size}, {resampling})",
    "pad": "ImageOps.pad(image, {size}, {resampling}, {pad_colour})",
    "squash": "image.resize({size}, {resampling})",
}


def model_card(
    model: nn.Module,
    dataset: Mapping[str, Any],
    data: TrainingData,
    history: History,
    manifest: Manifest,
    calibration: Calibration,
) -> str:
    """Data, classes, accuracy on validation images, what was trained, the licence of the weights,
    and how to use the model.

    Args:
        dataset: `name`, `classes`, `image_shape`, `fit` and `reading` of the images.
    """
    # timm's, for every model
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    name = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    facts = _facts(model, data, history, manifest) | _calibration_facts(calibration)
    fitted = _fitted(dataset)
    reading = dataset["reading"]
    return TEXT.format(
        front=_front_matter(config, name, dataset, data, history),
        name=name,
        dataset=dataset["name"],
        classes=len(dataset["classes"]),
        labels=", ".join(dataset["classes"]),
        rows="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        fitted=fitted,
        call=fitted.partition("(")[0],
        fit=dataset["fit"],
        background=tuple(reading["transparency_over"]),
        divisor=reading["grey_of_16_bits_divided_by"],
    )


def _fitted(dataset: Mapping[str, Any]) -> str:
    """The call of Pillow that brings an RGB image to the size of the training images."""
    height, width = dataset["image_shape"][:2]
    reading = dataset["reading"]
    return FITTED[dataset["fit"]].format(
        size=(width, height),
        resampling=f"Image.Resampling.{reading['fit_interpolation'].upper()}",
        pad_colour=tuple(reading["pad_colour"]),
    )


def _front_matter(
    config: Mapping[str, Any],
    name: str,
    dataset: Mapping[str, Any],
    data: TrainingData,
    history: History,
) -> str:
    """What the hub reads of a card, as YAML."""
    hub_name = HUB_DATASETS.get(dataset["name"])
    validation = EvalResult(
        task_type="image-classification",
        dataset_type=hub_name or "imagefolder",
        dataset_name=dataset["name"],
        dataset_split="validation",
        metric_type="accuracy",
        metric_value=round(history.kept["val_accuracy"], 6),
        metric_name=f"validation accuracy, n = {len(data.val_labels):,}",
    )
    card = ModelCardData(
        license=config.get("license"),
        base_model=f"timm/{name}" if config.get("tag") else None,
        datasets=[hub_name] if hub_name else None,
        library_name="timm",
        pipeline_tag="image-classification",
        metrics=["accuracy"],
        model_name=name,
        eval_results=[validation],
    )
    return str(card.to_yaml())


def _facts(
    model: nn.Module, data: TrainingData, history: History, manifest: Manifest
) -> dict[str, str]:
    trained, frozen = count_parameters(model)
    val_images = len(data.val_labels)
    kept = history.kept
    start = history.rows[0]
    head = f"a probe, C = {history.probe_c:g}" if history.probe_c else "no probe was fitted"
    licence = model.pretrained_cfg.get("license")  # type: ignore[union-attr,operator]
    versions = released_versions()
    if history.kept_epoch:
        outcome = f"{history.epochs}"
        parameters = f"{trained:,} trained from stored activations, {frozen:,} frozen before that"
    else:
        outcome = "none: the start was better, training did not help"
        if history.epochs == 0:
            outcome = "none: the head alone is not trained in epochs"
        parameters = f"{trained + frozen:,}; the head is that of the start"
    return {
        "images": f"{len(data.labels):,} for training, {val_images:,} for validation",
        "validation accuracy": f"{kept['val_accuracy']:.4f} (n = {val_images:,})",
        "before training": f"{start['val_accuracy']:.4f} ({head})",
        "epochs of training": outcome,
        "loss": (f"training {kept['train_loss']:.4f}, validation {kept['val_loss']:.4f}"),
        "parameters": parameters,
        "activations": (
            f"{manifest.boundary}, stored as {manifest.storage}, computed in {manifest.precision}"
        ),
        "trained with": ", ".join(f"{name} {versions[name]}" for name in LIBRARIES),
        "licence of the pretrained weights": licence or "not stated by their source",
    }


def _calibration_facts(calibration: Calibration) -> dict[str, str]:
    before = calibration.before
    after = calibration.after
    return {
        "temperature": f"{calibration.temperature:g}",
        "negative log-likelihood of validation images": (
            f"{before.nll:.4f} before the temperature, {after.nll:.4f} after it"
        ),
        "calibration error of validation images": (
            f"{before.ece:.4f} before the temperature, {after.ece:.4f} after it"
        ),
    }
