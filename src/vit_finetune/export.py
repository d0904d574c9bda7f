"""`python -m vit_finetune.export FILE.onnx`: the trained model for other programs (`pip install
onnx onnxscript`)."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop

from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import new_folder, write_bytes
from vit_finetune.model.build import preprocessing
from vit_finetune.model.preprocessing import Preprocessing, resize_weights
from vit_finetune.model.saved import load_model, trained_config

LARGEST = 2_000_000_000  # bytes of one ONNX file: protobuf's limit is 2 GiB


class WithPreprocessing(nn.Module):
    """uint8 images (B, H, W, 3) of one size -> probabilities (B, K): resize, crop and normalise as
    `Preprocessing`.

    `Preprocessing` itself resizes image by image with Pillow, which no ONNX graph can hold.
    """

    columns: Tensor
    rows: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, preprocess: Preprocessing, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.input_size = model, list(preprocess.input_size)
        for name, source, target in zip(
            ("rows", "columns"), size, preprocess.resized(*size), strict=True
        ):
            self.register_buffer(name, resize_weights(preprocess.interpolation, source, target))
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocess, name)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # columns, then rows, as PIL
        pixels = _whole(images.permute(0, 3, 1, 2).double() @ self.columns.T)
        pixels = center_crop(_whole(self.rows @ pixels).float(), self.input_size) / 255
        return self.model((pixels - self.mean) / self.std).softmax(dim=1)


def _whole(levels: Tensor) -> Tensor:
    return (levels + 0.5).floor().clamp(0, 255)


def export(folder: Path, target: Path, with_preprocessing: bool) -> str:
    """Write the model of a folder as ONNX: `pixels` (B, 3, h, w), normalised -> `logits` (B, K).
    Returns how to use it.

    The file's metadata holds, as JSON, the class names; `fit` and `image_size`, to which an image
    is brought first; and the preprocessing that follows: input_size (h, w), interpolation,
    crop_pct, crop_mode, mean and std.

    Args:
        with_preprocessing: the preprocessing is part of the graph: `images`, uint8 (B, H, W, 3) of
            `image_size` -> `probabilities` (B, K).

    Raises:
        UserError: no trained model, or onnx and onnxscript are not installed.
    """
    config, model = trained_config(folder), load_model(folder)
    preprocess, source = preprocessing(model, None), config["trained_on"]
    facts: dict[str, Any] = {
        "classes": config["label_names"],
        **source,
        "preprocessing": vars(preprocess),
    }
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install onnx onnxscript") from None
    for module in model.modules():
        # the exporter knows no fused attention with a bias, as of BEiT
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    size, names, example = (
        preprocess.input_size,
        ("pixels", "logits"),
        torch.zeros(2, 3, *preprocess.input_size),
    )
    if with_preprocessing:
        size, names = tuple(source["image_size"]), ("images", "probabilities")
        model, example = (
            WithPreprocessing(model, preprocess, size),
            torch.zeros(2, *size, 3, dtype=torch.uint8),
        )
    options: dict[str, Any] = {
        "dynamic_shapes": ({0: torch.export.Dim("batch")},),
        "dynamo": True,
        "verbose": False,
    }
    program = torch.onnx.export(
        model.eval(), (example,), input_names=names[:1], output_names=names[1:], **options
    )
    assert program is not None
    written = program.model_proto
    onnx.helper.set_model_props(written, {key: json.dumps(value) for key, value in facts.items()})
    write_onnx(written, target)
    kind = (
        "uint8 (B, H, W, 3)"
        if with_preprocessing
        else "float32 (B, 3, h, w), normalised as the metadata say"
    )
    first = f"Bring an image to {source['image_size'][0]} x {source['image_size'][1]} pixels with fit {source['fit']} first"
    result = f"{size[0]} x {size[1]} pixels -> {names[1]} (B, {len(facts['classes'])})"
    return f"{target}: {names[0]}, {kind}, {result}. {first}; class names and preprocessing are in the metadata"


def write_onnx(model: Any, target: Path) -> None:
    """One file, or from LARGEST on the graph and beside it a second file, `<target>.data`, with the
    weights."""
    import onnx

    if model.ByteSize() < LARGEST:
        write_bytes(target, model.SerializeToString())
        return
    with new_folder(target.with_name(target.name + ".parts")) as parts:
        onnx.save(
            model, parts / target.name, save_as_external_data=True, location=target.name + ".data"
        )
        # the weights first: the graph names them
        for part in sorted(parts.iterdir(), reverse=True):
            part.replace(target.with_name(part.name))
    target.with_name(target.name + ".parts").rmdir()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m vit_finetune.export", description=__doc__)
    parser.add_argument("target", type=Path, metavar="FILE.onnx")
    parser.add_argument(
        "--model", type=Path, default=Path("models/finetuned"), help="(%(default)s)"
    )
    parser.add_argument(
        "--with-preprocessing", action="store_true", help="uint8 images in, probabilities out"
    )
    args = parser.parse_args()
    with readable_errors("export"):
        print(f"export: wrote {export(args.model, args.target, args.with_preprocessing)}")
