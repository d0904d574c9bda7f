"""`python -m vit_finetune.export FILE.onnx`: the trained model for other programs (`pip install onnx onnxscript`)."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import write_bytes
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import class_names, load_model


def export(folder: Path, target: Path) -> None:
    """Write the model of a folder as ONNX: `pixels` (B, 3, h, w), normalised -> `logits` (B, K).

    The file's metadata holds, as JSON, the class names and the preprocessing: input_size (h, w), interpolation,
    crop_pct, crop_mode, mean and std.

    Raises:
        UserError: no trained model, or onnx and onnxscript are not installed.
    """
    classes, model = class_names(folder), load_model(folder)
    preprocess = preprocessing(model, None)
    facts: dict[str, Any] = {"classes": classes, "preprocessing": vars(preprocess)}
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install onnx onnxscript") from None
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, *preprocess.input_size),),
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    written = program.model_proto
    onnx.helper.set_model_props(written, {key: json.dumps(value) for key, value in facts.items()})
    write_bytes(target, written.SerializeToString())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m vit_finetune.export", description=__doc__)
    parser.add_argument("target", type=Path, metavar="FILE.onnx")
    parser.add_argument("--model", type=Path, default=Path("models/finetuned"), help="(%(default)s)")
    args = parser.parse_args()
    with readable_errors("export"):
        export(args.model, args.target)
