"""One page that says what was run and what came of it: text and pictures in, HTML out, nothing to load."""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from vit_finetune.core.errors import UserError
from vit_finetune.report.headline import headline, maps_judged, warnings_of
from vit_finetune.verdict import verdict

TEMPLATE = Path(__file__).with_suffix(".html")
FIRST = {
    "mistakes": "Wrong, and most sure of it.",
    "attention_montage": "Right and wrong predictions, with every map of the predicted class.",
}
TEST = {
    "confusion": "Rows are the true class; the shade is the share of that class.",
    "per_class": "Precision: the share of right ones among the images called so. Recall: the share of the class found.",
    "reliability": "Above the diagonal the model is better than it says, below it is worse.",
    "confused_pairs": "The classes that are mixed up most often.",
}
ATTENTION = {
    "faithfulness": "The probability of the predicted class as patches go and come in each map's order.",
    "attention_classes": "The mean map of the images predicted as each class.",
    "attention_blocks": "One image: where every head of every block looks.",
    "attention_distance": "Heads that look near and heads that look far, before and after fine-tuning.",
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


def compose(
    params: Mapping[str, Mapping[str, Any]],
    metrics: dict[str, dict[str, Any]],
    maps: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, bytes],
    versions: Mapping[str, str],
) -> str:
    """The page as text; equal arguments give equal bytes.

    Args:
        params: the sections of params.yaml as plain values, and the seed as {"seed": {"seed": 0}}.
        metrics: {"train": metrics/train.json, ...}.
        maps: rows of plots/attention_maps.csv.
        pictures: a PNG for each name in FIRST, TEST, ATTENTION, TRAINING; "adaptation" only where there was one.
        versions: package -> version.
    """
    images = metrics["subset"]["images"]
    counts = ", ".join(f"{count:,} {split}" for split, count in images.items())
    author = params["report"]["author"]
    subtitle = f"Images: {counts}. Trainable blocks: {params['freeze']['trainable_blocks']}."
    settings = [
        [key if name == key else f"{name}.{key}", in_yaml(value)]
        for name, block in params.items()
        if name != "report"
        for key, value in block.items()
    ]
    signs = [f"Warning: {sign}" for sign in warnings_of(metrics)]
    training = {name: caption for name, caption in TRAINING.items() if name in pictures or name != "adaptation"}
    run = [[["parameter", "value"], *settings], [["package", "version"], *versions.items()]]
    parts: dict[str, tuple[Any, ...]] = {
        "Mistakes, and where the model looks": (signs, [], FIRST, pictures),
        "The test images": ([], [], TEST, pictures),
        "What each map is worth": ([verdict(maps), HOW_TO_READ], [maps_judged(maps)], ATTENTION, pictures),
        "Training and data": ([], [], training, pictures),
        "What was run": ([], run, {}, pictures),
    }
    contents = [f'<a href="#part-{i}">{html.escape(title)}</a>' for i, title in enumerate(parts)]
    rows = [(html.escape(name), html.escape(value)) for name, value in headline(metrics)]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(params["report"]["title"] or f"{params['model']['name']} on {params['data']['name']}"),
        subtitle=html.escape(f"{author}. {subtitle}" if author else subtitle),
        headline="\n".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows),
        contents="\n".join(contents),
        sections="\n".join(_section(f"part-{i}", title, *part) for i, (title, part) in enumerate(parts.items())),
    )


def locked_versions(lock: str, packages: Sequence[str]) -> dict[str, str]:
    """Version of each package that the text of a requirements.lock pins, in the order given (UserError)."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, flags=re.MULTILINE))
    missing = [name for name in packages if name not in pinned]
    if missing:
        raise UserError(f"requirements.lock does not pin {', '.join(missing)}; run make lock")
    return {name: pinned[name] for name in packages}


def in_yaml(value: Any) -> str:
    """A value of params.yaml as it stands there."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _section(
    anchor: str,
    title: str,
    text: Sequence[str],
    tables: Sequence[Rows],
    captions: Mapping[str, str],
    pictures: Mapping[str, bytes],
) -> str:
    body = [f"<p>{html.escape(paragraph)}</p>" for paragraph in text]
    body += [_table(rows) for rows in tables]
    body += [_figure(pictures[name], caption) for name, caption in captions.items()]
    return "\n".join([f'<section id="{anchor}">\n<h2>{html.escape(title)}</h2>', *body, "</section>"])


def _table(rows: Rows) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    header = "<tr>" + "".join(f'<th scope="col">{cell}</th>' for cell in head) + "</tr>"
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return "\n".join(['<div class="wide"><table>', f"<thead>{header}</thead>", *lines, "</table></div>"])


def _figure(png: bytes, caption: str) -> str:
    data, text = base64.b64encode(png).decode("ascii"), html.escape(caption)
    picture = f'<img src="data:image/png;base64,{data}" alt="{text}">'
    return f'<figure><div class="wide">{picture}</div><figcaption>{text}</figcaption></figure>'
