"""Run the pipeline's own stages in this process, in a folder of their own, without their
start-up."""

import contextlib
import importlib
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from vit_finetune.core.arrays import encode_names, write_split
from vit_finetune.core.files import write_json
from vit_finetune.data.image_files import READING
from vit_finetune.params import check_params, read_params, read_yaml
from vit_finetune.profiles import merge
from vit_finetune.stage import Stage

ROOT = Path(__file__).resolve().parent.parent


def prepare(folder, splits, classes, changes):
    """A folder in which `adapt` and what follows can run.

    Args:
        splits: {"train", "val", "test": (images (N, H, W, 3) uint8, labels (N,))}.
        changes: of params.yaml, {"section": {"key": value}}.
    """
    values = merge(read_yaml(ROOT / "params.yaml"), changes)
    check_params(values)
    (folder / "data/subset").mkdir(parents=True, exist_ok=True)
    if not (folder / "pretrained").exists():
        (folder / "pretrained").symlink_to(ROOT / "pretrained")
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    for split, (images, labels) in splits.items():
        arrays = {"images": images, "labels": labels, "indices": range(len(labels))}
        arrays["files"] = encode_names(f"{split}/{index}" for index in range(len(labels)))
        arrays["groups"] = range(len(labels))
        write_split(folder / "data/subset", split, **arrays)
    shape = list(splits["train"][0].shape[1:])
    description = {
        "name": "benchmark",
        "classes": list(classes),
        "image_shape": shape,
        "fit": "squash",
        "fitted": False,
        "reading": READING,
        "corrections": dict.fromkeys(splits, ""),
    }
    write_json(folder / "data/subset/dataset.json", description)


def run_stages(folder, *stages):
    """CPU seconds of each stage. What they print goes to a file beside their outputs."""
    seconds = {}
    with (
        contextlib.chdir(folder),
        Path("log.txt").open("a") as log,
        contextlib.redirect_stdout(log),
    ):
        for stage in stages:
            start = time.process_time()
            importlib.import_module(f"stages.{stage}").main(Stage(stage, read_params()))
            seconds[stage] = time.process_time() - start
    return seconds
