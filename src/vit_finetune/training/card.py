"""The README.md of a trained model, in the format of model cards on the Hugging Face hub."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from vit_finetune.activations.manifest import Manifest
from vit_finetune.model.freezing import count_parameters
from vit_finetune.training.recipe import History, TrainingData

CARD = "README.md"  # in the folder of the trained model
TEXT = """---
{front}
---

# {name}, fine-tuned on {dataset}

{classes} classes: {labels}.

| | |
|---|---|
{rows}

The best epoch was chosen on the validation images, so their accuracy is slightly optimistic. The accuracy on test
images is in `metrics/evaluation.json` of the run.

## Use

```python
import timm

model = timm.create_model("local-dir:models/finetuned", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
label_names = model.pretrained_cfg["label_names"]
```

Images were brought to {height} × {width} pixels with `fit: {fit}` before this transform.
"""


def model_card(
    model: nn.Module,
    dataset: Mapping[str, Any],
    data: TrainingData,
    history: History,
    manifest: Manifest,
) -> str:
    """Data, classes, accuracy on validation images, what was trained, licence of the weights, and
    lines of use.

    Args:
        dataset: `name`, `classes`, `image_shape` and `fit` of the images.
        manifest: of the stored activations.
    """
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # timm's, for every model
    name = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    front = {
        "license": config.get("license"),
        "base_model": f"timm/{name}" if config.get("tag") else None,
    }
    front |= {"library_name": "timm", "pipeline_tag": "image-classification"}
    trained, frozen = count_parameters(model)
    rows = {
        "images": f"{len(data.labels):,} for training, {len(data.val_labels):,} for validation",
        "validation accuracy": f"{history.best['val_accuracy']:.4f} (n = {len(data.val_labels):,})",
        "of the probe before training": f"{history.rows[0]['val_accuracy']:.4f}, C = {history.probe_c:g}",
        "best epoch": f"{history.best_epoch} of {history.epochs}",
        "loss of that epoch": f"training {history.best['train_loss']:.4f}, validation {history.best['val_loss']:.4f}",
        "parameters": f"{trained:,} trained from stored activations, {frozen:,} frozen before that",
        "activations": f"{manifest.boundary}, stored as {manifest.storage}, computed in {manifest.precision}",
        "licence of the pretrained weights": config.get("license") or "not stated by their source",
    }
    return TEXT.format(
        front="\n".join(f"{key}: {value}" for key, value in front.items() if value),
        name=name,
        dataset=dataset["name"],
        classes=len(dataset["classes"]),
        labels=", ".join(dataset["classes"]),
        rows="\n".join(f"| {key} | {value} |" for key, value in rows.items()),
        height=dataset["image_shape"][0],
        width=dataset["image_shape"][1],
        fit=dataset["fit"],
    )
