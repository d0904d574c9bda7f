"""`vit-finetune export FILE`: the trained model for other programs, FILE.onnx, or as a page that
classifies images in a browser, FILE.html (`pip install onnx onnxscript`)."""

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vit_finetune.classifier_page.page import classifier_page
from vit_finetune.classifier_page.runtime import PACKAGE, fetch_runtime, kept_runtime, read_runtime
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import new_folder, readable_size, write_bytes, write_text
from vit_finetune.model.build import preprocessing
from vit_finetune.model.preprocessing import Preprocessing
from vit_finetune.model.saved import load_model, trained_config

LARGEST = 2_000_000_000  # bytes of one ONNX file: protobuf's limit is 2 GiB
OPSETS = range(17, 24)  # what the exporter can write; layer normalisation came with 17
OPSET = 18  # the lowest that it writes without a conversion


def export(folder: Path, target: Path, with_preprocessing: bool, opset: int = OPSET) -> str:
    """Write the model of a folder as ONNX: `pixels` (B, 3, h, w), normalised -> `logits` (B, K).

    The file's metadata hold what `metadata` returns, each value as JSON.

    Args:
        with_preprocessing: the preprocessing becomes part of the graph: `images`, uint8
            (B, H, W, 3) of `image_size` -> `probabilities` (B, K).
        opset: version of ONNX's operators, one of OPSETS.

    Returns:
        How to use the file.

    Raises:
        UserError: no trained model, onnx and onnxscript are not installed, or the exporter cannot
            write the model with this opset.
    """
    config = trained_config(folder)
    classes = config["label_names"]
    fit = config["trained_on"]["fit"]
    rows, columns = config["trained_on"]["image_size"]
    model = exportable_model(folder)
    preprocess = preprocessing(model, None)
    if with_preprocessing:
        height = rows
        width = columns
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
    graph = to_onnx(model.eval(), example, given, result, opset)
    write_onnx(graph, metadata(config, preprocess), target)
    return (
        f"{target}: {given}, {kind}, {height} x {width} pixels -> {result} (B, {len(classes)}), "
        f"opset {opset}, IR version {graph.ir_version}. "
        f"Bring an image to {rows} x {columns} pixels with fit {fit} first; "
        "class names, and how to read and prepare an image, are in the metadata"
    )


def export_page(folder: Path, target: Path, runtime: Path | None) -> str:
    """Write the model of a folder as one HTML file that classifies images, with all it needs.

    Args:
        runtime: the package of ONNX Runtime Web; None for the kept one, which is fetched at first.

    Returns:
        How to use the file.

    Raises:
        UserError: no trained model, or one too large for a page; no package, or another one; or
            onnx and onnxscript are not installed.
    """
    config = trained_config(folder)
    model = exportable_model(folder)
    parts = read_runtime(runtime or fetched_runtime())
    preprocess = preprocessing(model, None)
    example = torch.zeros(2, 3, *preprocess.input_size)
    graph = to_onnx(model, example, "pixels", "logits", OPSET)
    write_text(target, classifier_page(graph, metadata(config, preprocess), parts))
    size = readable_size(target.stat().st_size)
    return f"{target}, {size}: open it in a browser, on any device; it needs no network"


def fetched_runtime() -> Path:
    """The package of ONNX Runtime Web in the user's cache folder."""
    runtime = kept_runtime()
    if not runtime.exists():
        print(f"export: fetches {PACKAGE} with npm, and keeps it as {runtime}", flush=True)
        fetch_runtime(runtime)
    return runtime


def exportable_model(folder: Path) -> Any:
    """The model of a folder, in eval mode.

    Raises:
        UserError: onnx and onnxscript are not installed.
    """
    require_onnx()
    model = load_model(folder)
    for module in model.modules():
        # the exporter does not know fused attention with a bias, which BEiT has
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


def metadata(config: Mapping[str, Any], preprocess: Preprocessing) -> dict[str, Any]:
    """Class names, and everything that a program needs to make `pixels` of an image file: how it is
    read, `image_size` and `fit`, by which it is brought to that size, and under `preprocessing` the
    steps that follow (`Preprocessing.steps`).

    Args:
        config: config.json of a trained model.
    """
    source = config["trained_on"]
    steps = preprocess.steps(*source["image_size"])
    return {"classes": config["label_names"], **source, "preprocessing": steps}


def require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install onnx onnxscript") from None


def to_onnx(model: nn.Module, example: torch.Tensor, given: str, result: str, opset: int) -> Any:
    """The graph of a model (onnx.ModelProto), for any number of images, in the lowest version of
    the file format that has its operators.

    Args:
        given: name of its input.
        result: name of its output.

    Raises:
        UserError: the exporter cannot convert the graph to this opset.
    """
    import onnx
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    logging.disable(logging.WARNING)  # the exporter tells how it converts to an opset below 18
    try:
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[given],
            output_names=[result],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # every node has a stack trace with paths
    graph = program.model_proto
    (operators,) = graph.opset_import
    if operators.version != opset:
        raise UserError(f"the model cannot be written with opset {opset}; take a higher --opset")
    graph.ir_version = onnx.helper.find_min_ir_version_for([operators])
    return graph


def write_onnx(graph: Any, facts: Mapping[str, Any], target: Path) -> None:
    """One file; from LARGEST bytes on two: the graph, and `<target>.data` with the weights."""
    import onnx

    onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in facts.items()})
    # ByteSize() of protobuf fails beyond its own limit
    weights = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    if weights < LARGEST:
        write_bytes(target, graph.SerializeToString())
        return
    data = target.name + ".data"
    with new_folder(target.with_name(target.name + ".parts")) as parts:
        onnx.save(graph, parts / target.name, save_as_external_data=True, location=data)
        # the weights first: the graph names them
        for name in (data, target.name):
            (parts / name).replace(target.with_name(name))
    target.with_name(target.name + ".parts").rmdir()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vit-finetune export", description=__doc__)
    parser.add_argument("target", type=Path, metavar="FILE", help="FILE.onnx or FILE.html")
    parser.add_argument(
        "--model", type=Path, default=Path("models/finetuned"), help="(%(default)s)"
    )
    onnx = parser.add_argument_group("FILE.onnx")
    onnx.add_argument(
        "--with-preprocessing", action="store_true", help="uint8 images in, probabilities out"
    )
    onnx.add_argument(
        "--opset",
        type=int,
        default=OPSET,
        choices=OPSETS,
        metavar="N",
        help=f"version of ONNX's operators, {OPSETS[0]} to {OPSETS[-1]} (%(default)s)",
    )
    page = parser.add_argument_group("FILE.html")
    page.add_argument(
        "--runtime",
        type=Path,
        metavar="FILE",
        help=f"package of ONNX Runtime Web (default: npm fetches {PACKAGE} once)",
    )
    return parser


def run(args: argparse.Namespace) -> str:
    """Write the file; returns how to use it."""
    if args.target.suffix == ".onnx":
        if args.runtime is not None:
            raise UserError("--runtime is for FILE.html")
        return export(args.model, args.target, args.with_preprocessing, args.opset)
    if args.target.suffix != ".html":
        raise UserError(f"{args.target} must end in .onnx or .html")
    if args.with_preprocessing or args.opset != OPSET:
        raise UserError("--with-preprocessing and --opset are for FILE.onnx")
    return export_page(args.model, args.target, args.runtime)


def main() -> None:
    args = make_parser().parse_args()
    with readable_errors("export"):
        print(f"export: wrote {run(args)}")


if __name__ == "__main__":
    main()
