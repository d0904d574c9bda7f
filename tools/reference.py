"""`python tools/reference.py`: write params.yaml from the schemas' defaults, and the tables of the
documents from the schemas, dvc.yaml and metrics/."""

import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from dvc.utils.serialize import dumps_yaml

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/reference.md", "docs/models.md", "docs/benchmarks.md")
FIRST_LINE = (
    "# The one place of truth. docs/reference.md says what each key means; "
    "`dvc repro` reruns what an edit affects."
)
MODELS = (  # one of each family that tests split at a block
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "deit_tiny_patch16_224.fb_in1k",
    "deit_tiny_distilled_patch16_224.fb_in1k",
    "deit3_small_patch16_224.fb_in22k_ft_in1k",
    "vit_wee_patch16_reg1_gap_256.sbb_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch14_reg4_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
    "eva02_tiny_patch14_224.mim_in22k",
    "beit_base_patch16_224.in22k_ft_in22k_in1k",
    "beitv2_base_patch16_224.in1k_ft_in22k_in1k",
    "vit_base_patch16_siglip_224.webli",
    "vit_base_patch32_clip_224.openai",
    "torchvision/vit_b_16.IMAGENET1K_V1",
)
sys.path.insert(0, str(ROOT / "src"))

from vit_finetune.core.files import read_csv  # noqa: E402
from vit_finetune.intervals import mean  # noqa: E402
from vit_finetune.params import KEYS, Params, read_yaml  # noqa: E402
from vit_finetune.runs import flatten  # noqa: E402
from vit_finetune.report.headline import map_rows  # noqa: E402
from vit_finetune.verdict import in_words, verdict  # noqa: E402


def stage_outputs(stage: dict[str, Any]) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def rerun_by(key: str, stages: dict[str, Any]) -> list[str]:
    """Stages that a change of a key reruns, if every output changes with it: those keyed on it, and
    what follows."""
    found: list[str] = []
    for name, stage in stages.items():  # dvc.yaml is in data-flow order
        keyed = any(key == param or key.startswith(f"{param}.") for param in stage["params"])
        upstream = [output for earlier in found for output in stage_outputs(stages[earlier])]
        if keyed or set(upstream) & set(stage["deps"]):
            found.append(name)
    return found


def reruns_in_words(reruns: list[str], stages: list[str]) -> str:
    """Most keys rerun a stage and all that follow it."""
    if len(reruns) > 2 and reruns == stages[-len(reruns) :]:
        return "all" if reruns == stages else f"{reruns[0]} and all after"
    return ", ".join(reruns) or "nothing"


def shipped_params() -> str:
    """Text of params.yaml before anyone edited it, in the form that DVC writes."""
    return f"{FIRST_LINE}\n{dumps_yaml(Params().model_dump())}"


def parameter_table() -> str:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    lines = ["| key | default | meaning | a change reruns |", "|---|---|---|---|"]
    for key, value in flatten(Params().model_dump()).items():
        shown = json.dumps(value).strip('"')
        reruns = reruns_in_words(rerun_by(key, stages), list(stages))
        lines.append(f"| `{key}` | `{shown}` | {KEYS[key].description} | {reruns} |")
    return "\n".join(lines)


def output_table() -> str:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    lines = ["| stage | what it does | outputs |", "|---|---|---|"]
    for name, stage in stages.items():
        lines.append(
            f"| {name} | {stage['desc']} | {', '.join(f'`{path}`' for path in stage_outputs(stage))} |"
        )
    return "\n".join(lines)


def metrics(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def results_table() -> str:
    """The committed run beside the textbook recipe on the same images."""
    train, textbook = (
        metrics("train"),
        json.loads((ROOT / "benchmarks/textbook.json").read_text(encoding="utf-8")),
    )
    runs = metrics("evaluation") | train, textbook

    def row(name: str, form: Callable[[dict[str, Any]], str]) -> str:
        return f"| {name} | {' | '.join(form(run) for run in runs)} |"

    def accuracy(run: dict[str, Any]) -> str:
        low, high = run["accuracy_ci95"]
        return f"**{run['accuracy']:.4f}**, 95 % interval [{low:.4f}, {high:.4f}]"

    n, val = f"{runs[0]['n']:,}", f"{metrics('subset')['images']['val']:,}"
    return "\n".join(
        [
            "| | default | textbook recipe |",
            "|---|---|---|",
            row(f"test accuracy, n = {n}", accuracy),
            row("negative log-likelihood, lower is better", lambda run: f"{run['nll']:.4f}"),
            row("calibration error, lower is better", lambda run: f"{run['ece']:.4f}"),
            row("adapted (step 1)", lambda run: f"{run['parameters_adapted']:,} parameters"),
            row("then trained (step 3)", lambda run: f"{run['parameters_trained']:,} parameters"),
            row(f"validation accuracy, n = {val}", lambda run: f"{run['val_accuracy']:.4f}"),
        ]
    )


def headline_text() -> str:
    """Accuracy and verdict of the committed run, in two sentences."""
    run, images = metrics("evaluation"), metrics("subset")["images"]
    (low, high), n = run["accuracy_ci95"], run["n"]
    return (
        f"**Test accuracy {run['accuracy']:.4f}**, 95 % interval [{low:.4f}, {high:.4f}], n = {n:,}, from "
        f"{images['train']:,} training images. "
        f"{in_words(read_csv(ROOT / 'plots/attention_maps.csv'))}"
    )


def attention_table() -> str:
    maps = read_csv(ROOT / "plots/attention_maps.csv")
    header, *rows = map_rows(maps)
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    lines[1] = lines[1].replace(" ", "")
    return "\n".join([*lines, "", verdict(maps)])


def models_table() -> str:
    """What timm and torchvision say of each; the weights are not read."""
    import torch
    from timm import create_model

    from vit_finetune.model.build import TORCHVISION, preprocessing
    from vit_finetune.model.families import token_layout
    from vit_finetune.model.torchvision import torchvision_model

    rows = [
        "| `model.name` | blocks | tokens | width | preprocessing | licence of the weights |",
        "|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        with torch.device("meta"):
            if name.startswith(TORCHVISION):
                model = torchvision_model(name.removeprefix(TORCHVISION), pretrained=False)
                licence = "see torchvision"
            else:
                model = create_model(name)
                licence = model.pretrained_cfg["license"] or "not stated"
        layout, wants = token_layout(model), preprocessing(model, None)
        prefix = " + ".join([*layout.prefix, f"{layout.grid[0]} × {layout.grid[1]}"])
        mean = (
            "ImageNet"
            if round(wants.mean[0], 3) == 0.485
            else "CLIP"
            if round(wants.mean[0], 3) == 0.481
            else "0.5"
        )
        shown = f"{wants.input_size[0]} pixels, {wants.interpolation}, crop {wants.crop_pct:.3g}, mean {mean}"
        rows.append(
            f"| `{name}` | {len(model.blocks)} | {prefix} | {model.embed_dim} | {shown} | {licence} |"
        )
    return "\n".join(rows)


def small_data_table() -> str:
    """benchmarks/small_data.csv: means over the seeds; the interval is of the paired difference
    over test images."""
    lines = [
        "| data | seeds | test images | regression | pipeline | difference | CPU s |",
        "|" + "---|" * 7,
    ]
    margins = []
    for name, group in itertools.groupby(
        read_csv(ROOT / "benchmarks/small_data.csv"), key=lambda row: row["data"]
    ):
        runs = list(group)
        ours, theirs = (
            np.array([[int(bit) for bit in run[key]] for run in runs])
            for key in ("ours", "regression")
        )
        margin = mean((ours - theirs).mean(axis=0))
        seconds = np.mean([float(run["cpu_s"]) for run in runs])
        margins += [margin.mean] if theirs.mean() < 0.98 else []
        lines.append(
            f"| {name} | {len(runs)} | {ours.shape[1]:,} | {theirs.mean():.3f} | {ours.mean():.3f} | "
            f"{margin.mean:+.3f} [{margin.low:+.3f}, {margin.high:+.3f}] | {seconds:.0f} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"Mean of the differences where the regression is below 0.98: {np.mean(margins):+.3f}.",
        ]
    )


def cost_table() -> str:
    """benchmarks/cost.csv."""
    lines = [
        "| images | epochs | trained blocks | image size | embed, s | MiB | train, s | MiB | stored, MiB |"
    ]
    lines.append("|" + "---|" * 9)
    names = (
        "images",
        "epochs",
        "blocks",
        "image_size",
        "embed_s",
        "embed_mib",
        "train_s",
        "train_mib",
        "stored_mib",
    )
    rows = read_csv(ROOT / "benchmarks/cost.csv")
    return "\n".join(
        [*lines, *("| " + " | ".join(row[name] for name in names) + " |" for row in rows)]
    )


def frontier_table() -> str:
    """benchmarks/accuracy.csv: a row for each line, smaller training sets first."""
    lines = [
        "| training images | epochs of `adapt` | trained | accuracy, n = 3,000 | test accuracy, n = 2,000 |"
    ]
    lines[0] += " `adapt`, s | pass, s | training, s | all, s |"
    lines.append("|" + "---|" * 9)
    trained = {"0": "head alone", "1": "one block", "4": "four blocks"}
    for row in sorted(
        read_csv(ROOT / "benchmarks/accuracy.csv"), key=lambda row: int(row["images"])
    ):
        seconds = [float(row[f"{part}_s"]) for part in ("adapt", "pass", "train")]
        plural = "s" * (row["epochs"] != "1")
        cells = [
            f"{int(row['images']):,}",
            row["adapt"] if row["blocks"] in trained else "-",
            trained.get(row["blocks"], f"everything, {row['epochs']} epoch{plural}"),
            *(
                "{} [{}, {}]".format(
                    *(f"{float(row[part + end]):.3f}" for end in ("", "_low", "_high"))
                )
                for part in ("val", "test")
            ),
            *(f"{one:.0f}" for one in (*seconds, sum(seconds))),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def replaced(text: str, name: str, table: str) -> str:
    """The text with what stands between the markers of `name` replaced."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL)


def generated(text: str) -> str:
    tables = {
        "parameters": parameter_table,
        "outputs": output_table,
        "headline": headline_text,
        "results": results_table,
        "attention": attention_table,
        "models": models_table,
        "small data": small_data_table,
        "cost": cost_table,
        "frontier": frontier_table,
    }
    for name, table in tables.items():
        if f"<!-- {name} -->" in text:
            text = replaced(text, name, table())
    return text


if __name__ == "__main__":
    (ROOT / "params.yaml").write_text(shipped_params(), encoding="utf-8")
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")
