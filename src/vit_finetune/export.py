"""`vit-finetune export FILE.onnx`: the trained model for other programs (`pip install onnx
onnxscript`)."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import new_folder, write_bytes
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import load_model, trained_config

LARGEST = 2_000_000_000  # bytes of one ONNX file: protobuf's limit is 2 GiB


def export(folder: Path, target: Path, with_preprocessing: bool) -> str:
    """Write the model of a folder as ONNX: `pixels` (B, 3, h, w), normalised -> `logits` (B, K).

    The file's metadata holds, as JSON, the class names; `fit` and `image_size`, to which an image
    is brought first; and the preprocessing that follows: input_size (h, w), interpolation,
    crop_pct, crop_mode, mean and std.

    Args:
        with_preprocessing: the preprocessing becomes part of the graph: `images`, uint8
            (B, H, W, 3) of `image_size` -> `probabilities` (B, K).

    Returns:
        How to use the file.

    Raises:
        UserError: no trained model, or onnx and onnxscript are not installed.
    """
    config = trained_config(folder)
    classes = config["label_names"]
    source = config["trained_on"]
    model = load_model(folder)
    preprocess = preprocessing(model, None)
    require_onnx()
    for module in model.modules():
        # the exporter does not know fused attention with a bias, which BEiT has
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    if with_preprocessing:
        height, width = source["image_size"]
        model = nn.Sequential(preprocess, model, nn.Softmax(dim=1))
        example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
        given = "images"
        result = "probabilities"
        kind = "uint8 (B, H, W, 3)"
    else:
        height, width = preprocess.input_size
        example = torch.zeros(2, 3, height, width)
        given = "pixels"
        result = "logits"
        kind = "float32 (B, 3, h, w), normalised as the metadata say"
    graph = to_onnx(model.eval(), example, given, result)
    facts = {"classes": classes, **source, "preprocessing": preprocess.facts()}
    write_onnx(graph, facts, target)
    rows, columns = source["image_size"]
    return (
        f"{target}: {given}, {kind}, {height} x {width} pixels -> {result} (B, {len(classes)}). "
        f"Bring an image to {rows} x {columns} pixels with fit {source['fit']} first; "
        "class names and preprocessing are in the metadata"
    )


def require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install onnx onnxscript") from None


def to_onnx(model: nn.Module, example: torch.Tensor, given: str, result: str) -> Any:
    """The graph of a model (onnx.ModelProto), for any number of images.

    Args:
        given: name of its input.
        result: name of its output.
    """
    program = torch.onnx.export(
        model,
        (example,),
        input_names=[given],
        output_names=[result],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def write_onnx(graph: Any, facts: dict[str, Any], target: Path) -> None:
    """One file; from LARGEST bytes on two: the graph, and `<target>.data` with the weights."""
    import onnx

    onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in facts.items()})
    if graph.ByteSize() < LARGEST:
        write_bytes(target, graph.SerializeToString())
        return
    data = target.name + ".data"
    with new_folder(target.with_name(target.name + ".parts")) as parts:
        onnx.save(graph, parts / target.name, save_as_external_data=True, location=data)
        # the weights first: the graph names them
        for name in (data, target.name):
            (parts / name).replace(target.with_name(name))
    target.with_name(target.name + ".parts").rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(prog="vit-finetune export", description=__doc__)
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


if __name__ == "__main__":
    main()
