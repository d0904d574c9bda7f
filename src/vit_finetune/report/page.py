"""One page that says what was run and what came of it: text and pictures in, HTML out, nothing to
load."""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from vit_finetune.core.errors import UserError
from vit_finetune.intervals import wilson
from vit_finetune.report.headline import headline, maps_judged, warnings_of
from vit_finetune.verdict import verdict

TEMPLATE = Path(__file__).with_suffix(".html")
NAMES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "handwritten digits",
    "folder": "images of a folder",
}
MISTAKES = {
    "mistakes": "Wrong, and most sure of it.",
    "confused_pairs": "The classes that are mixed up most often.",
}
TEST = {
    "confusion": "Rows are the true class; the shade is the fraction of that class.",
    "per_class": "Precision: the fraction of right ones among the images called so. Recall: the fraction of the class found.",
    "reliability": "Above the diagonal the model is better than it says, below it is worse.",
}
ATTENTION = {
    "attention_montage": "Right and wrong predictions, with every map of the predicted class.",
    "attention_curves": "The probability of the predicted class as patches go and come in each map's order.",
    "attention_classes": "The mean map of the images predicted as each class.",
    "attention_blocks": "One image: where every head of every block looks.",
    "attention_shape": "How wide, how far and where the attention of each block goes, mean of the heads.",
}
TRAINING = {
    "adaptation": "The whole backbone, before it was frozen. Epoch 0 is a probe of the pretrained one.",
    "training": "What follows the frozen part. Epoch 0 is a probe; the dotted line is the epoch that was kept.",
    "samples": "Some of the training images.",
    "class_balance": "How many images of each class each split has.",
}
HOW_TO_READ = (
    "Attention shows where a block reads from; whether a map explains a prediction has to be measured. Patches are "
    "left out in the order of a map. The score is the area under the insertion curve (the probability of the "
    "predicted class as the map's best patches come first) minus the area under the deletion curve (as they go "
    "first). The table subtracts the score of a random order, and of a Gaussian in the centre. Mosaic: the share of "
    "the map in the quadrant that shows the class, 0.25 by chance. Head shuffled: with the weights of the "
    "classification head shuffled, a map that explains the prediction must change; a correlation of 1 says that it "
    "did not."
)

Rows = Sequence[Sequence[str]]
Params = Mapping[str, Mapping[str, Any]]


def compose(
    params: Params,
    shipped: Params,
    metrics: dict[str, dict[str, Any]],
    maps: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, bytes],
    versions: Mapping[str, str],
) -> str:
    """The page as text; equal arguments give equal bytes.

    Args:
        params: the sections of params.yaml as plain values, and the seed as {"seed": {"seed": 0}}.
        shipped: the same before anyone edited the file; a setting that differs from it is marked.
        metrics: {"train": metrics/train.json, ...}.
        maps: rows of plots/attention_maps.csv.
        pictures: PNG or SVG for each name in MISTAKES, TEST, ATTENTION and TRAINING; "adaptation"
            only where the backbone was adapted.
        versions: package -> version.
    """
    counts = ", ".join(f"{count:,} {split}" for split, count in metrics["subset"]["images"].items())
    author = f"{params['report']['author']}. " if params["report"]["author"] else ""
    versions_table = [["package", "version"], *([*pair] for pair in versions.items())]
    sections = sections_of(
        metrics, maps, pictures, [settings_rows(params, shipped), versions_table]
    )
    rows = [(html.escape(name), html.escape(value)) for name, value in headline(metrics)]
    signs = [
        f'<p class="warning">Warning: {html.escape(sign)}</p>' for sign in warnings_of(metrics)
    ]
    title = (
        params["report"]["title"]
        or f"A Vision Transformer fine-tuned on {NAMES[params['data']['name']]}"
    )
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        subtitle=html.escape(f"{author}Model: {params['model']['name']}. Images: {counts}."),
        warnings="\n".join(signs),
        headline="\n".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows),
        contents="\n".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in sections),
        sections="\n".join(_section(name, *parts, pictures) for name, parts in sections.items()),
    )


def sections_of(
    metrics: Mapping[str, Mapping[str, Any]],
    maps: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, bytes],
    run: Sequence[Rows],
) -> dict[str, tuple[Sequence[str], Sequence[Rows], Mapping[str, str]]]:
    """Texts, tables and pictures of each section; `run` are the tables of settings and versions."""
    subset, test = metrics["subset"], metrics["evaluation"]
    training = {
        name: caption
        for name, caption in TRAINING.items()
        if name in pictures or name != "adaptation"
    }
    none = (
        [f"All {test['n']:,} test images are classified correctly."]
        if test["accuracy"] == 1
        else []
    )
    return {
        "Mistakes": (none, [], {} if none else MISTAKES),
        "Where the model looks": ([verdict(maps), HOW_TO_READ], [maps_judged(maps)], ATTENTION),
        "Test results": ([], [], TEST),
        "Training and data": (
            problems_of(subset),
            [validation_rows(metrics["train"], subset["images"]["val"])],
            training,
        ),
        "Settings and versions": (
            ["Settings marked * differ from those that the project ships."],
            run,
            {},
        ),
    }


def problems_of(subset: Mapping[str, Any]) -> list[str]:
    """A sentence on what was found wrong with the images, if anything was."""
    count = subset["problems"]
    return (
        [f"Problems of {count:,} images, classes or files are listed in plots/image_problems.csv."]
        if count
        else []
    )


def validation_rows(train: Mapping[str, Any], images: int) -> Rows:
    """The probe and the fine-tuned model on the same validation images; the first row is the
    header."""
    table = [["model", f"validation accuracy (n = {images:,})", "95 % interval"]]
    for name, key in (
        ("linear probe, before training", "probe_accuracy"),
        ("fine-tuned", "val_accuracy"),
    ):
        low, high = wilson(round(train[key] * images), images)
        table.append([name, f"{train[key]:.4f}", f"[{low:.4f}, {high:.4f}]"])
    return table


def settings_rows(params: Params, shipped: Params) -> Rows:
    """A row for each key but those of `report`, a star where its value is not the shipped one; the
    first the header."""
    table = [["setting", "value", "shipped"]]
    for section, block in params.items():
        for key, value in block.items() if section != "report" else ():
            usual = in_yaml(shipped[section][key])
            name = key if section == key else f"{section}.{key}"
            changed = in_yaml(value) != usual
            table.append(
                [f"{name} *" if changed else name, in_yaml(value), usual if changed else ""]
            )
    return table


def locked_versions(lock: str, packages: Sequence[str]) -> dict[str, str]:
    """Version of each package that the text of a requirements.lock pins, in the order given
    (UserError)."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, flags=re.MULTILINE))
    missing = [name for name in packages if name not in pinned]
    if missing:
        raise UserError(f"requirements.lock does not pin {', '.join(missing)}; run make lock")
    return {name: pinned[name] for name in packages}


def in_yaml(value: Any) -> str:
    """A value of params.yaml as it stands there."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _section(
    title: str,
    text: Sequence[str],
    tables: Sequence[Rows],
    captions: Mapping[str, str],
    pictures: Mapping[str, bytes],
) -> str:
    body = [f"<p>{html.escape(paragraph)}</p>" for paragraph in text]
    body += [_table(rows) for rows in tables]
    body += [_figure(pictures[name], caption) for name, caption in captions.items()]
    return "\n".join(
        [f'<section id="{_anchor(title)}">\n<h2>{html.escape(title)}</h2>', *body, "</section>"]
    )


def _table(rows: Rows) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    header = "<tr>" + "".join(f'<th scope="col">{cell}</th>' for cell in head) + "</tr>"
    lines = []
    for row in body:
        start = '<tr class="changed">' if row[0].endswith(" *") else "<tr>"
        lines.append(start + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return "\n".join(
        ['<div class="wide"><table>', f"<thead>{header}</thead>", *lines, "</table></div>"]
    )


def _figure(picture: bytes, caption: str) -> str:
    data, text = base64.b64encode(picture).decode("ascii"), html.escape(caption)
    # A chart is SVG: it has a size of its own and follows the page into the dark.
    kind, chart = ("svg+xml", ' class="chart"') if picture.startswith(b"<svg") else ("png", "")
    image = f'<img{chart} src="data:image/{kind};base64,{data}" alt="{text}">'
    return f'<figure><div class="wide">{image}</div><figcaption>{text}</figcaption></figure>'
