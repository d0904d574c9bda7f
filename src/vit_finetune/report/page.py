"""The report: one page that says what was run and what came of it, to send."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from vit_finetune.intervals import wilson
from vit_finetune.pages.render import render
from vit_finetune.params import KEYS, Params
from vit_finetune.report.headline import (
    collect_warnings,
    headline,
    map_table,
    review_in_words,
    start,
)
from vit_finetune.report.tiles import Group
from vit_finetune.verdict import bars_in_words, verdict

NAMES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "handwritten digits",
    "folder": "images of a folder",
}
BROWSE = (
    "“See why” opens the attention page on the image. In the project, vit-finetune mistakes "
    "mistakes.html shows every wrong test image, with maps of the first ones; vit-finetune compare "
    "RUN shows what changed since another run, image by image."
)
# The pictures of each section, with their captions, in their order on the page.
TEST = {
    "confusion": "Rows are the true class; the shade is the fraction of that class.",
    "per_class": (
        "Precision: the fraction of right ones among the images called so. Recall: the fraction of "
        "the class found."
    ),
    "reliability": "Above the diagonal the model is better than it says, below it is worse.",
    "selective": "The accuracy if only the most confident images are answered.",
}
ATTENTION = {
    "attention_montage": "Right and wrong predictions, with every map of the predicted class.",
    "attention_curves": (
        "The probability of the predicted class as patches are removed or shown in the order of "
        "each map."
    ),
    "attention_classes": "The mean map of the images predicted as each class.",
    "attention_blocks": "One image: where every head of every block looks.",
    "attention_shape": (
        "How wide, how far and where the attention of each block goes, mean of the heads."
    ),
}
TRAINING = {
    "adaptation": (
        "The whole backbone, before it was frozen. Epoch 0 is a linear probe of it as it was."
    ),
    "training": (
        "What follows the frozen layers. Epoch 0 is a linear probe of clean images; the training "
        "accuracies after it are of augmented ones."
    ),
}
DATA = {"class_balance": "How many images of each class each split has."}
HOW_TO_READ = (
    "Attention shows where a block reads from. Whether a map explains a prediction has to be "
    "measured: patches are added to an empty image and removed from the whole one, best first. The "
    "score is the area between the two curves of the predicted class's probability. The table "
    "subtracts the score of a random order, and of a Gaussian in the centre. Then four or nine "
    "test images are joined to one, and the table has the fraction of the map that lies on the "
    "image of the class. Last, the weights of the classifier are shuffled: a map that explains the "
    "prediction must change, so its correlation with the first map should be far below 1."
)

Rows = Sequence[Sequence[str]]  # the first row is the header


class Setting(NamedTuple):
    """A key of params.yaml with its value and the shipped one, as they stand in YAML."""

    name: str
    value: str
    shipped: str

    @property
    def changed(self) -> bool:
        return self.value != self.shipped


class Version(NamedTuple):
    """A version of a library, and the stages that ran with it, in words.

    Attributes:
        pins: the versions in requirements.lock; several if they depend on Python's.
    """

    library: str
    number: str
    stages: str
    pins: Sequence[str]

    @property
    def in_lock(self) -> str:
        return " or ".join(self.pins) or "missing"


class Picture(NamedTuple):
    """PNG or SVG.

    Attributes:
        dark: for a dark page; None where `light` follows the reader's colour scheme itself.
    """

    light: bytes
    dark: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page; its parts are shown in the order of these fields.

    Attributes:
        figures: captions of pictures by their names.
    """

    title: str
    paragraphs: Sequence[str] = ()
    settings: Sequence[Setting] = ()
    tables: Sequence[Rows] = ()
    groups: Sequence[Group] = ()
    figures: Mapping[str, str] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


def compose(
    params: Params,
    metrics: Mapping[str, Mapping[str, Any]],
    maps: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Picture],
    groups: Mapping[str, Sequence[Group]],
    versions: Sequence[Version],
) -> str:
    """The page as text; equal arguments give equal bytes.

    Args:
        params: of the run; settings that differ from the shipped ones are shown first.
        metrics: {"train": metrics/train.json, ...}.
        maps: rows of plots/attention_maps.csv.
        pictures: for each name in TEST, TRAINING, ATTENTION and DATA; of TRAINING only those with
            an epoch to show.
        groups: small images, "mistakes", "review" and "data".
        versions: of the libraries that each stage ran with.
    """
    training_figures = {name: text for name, text in TRAINING.items() if name in pictures}
    validation = validation_rows(metrics["train"], metrics["subset"]["images"]["val"])
    sections = [
        Section(title="Test results", figures=TEST),
        mistakes_section(metrics["evaluation"], groups["mistakes"]),
        Section(title="Training", tables=[validation], figures=training_figures),
        Section(
            title="Where the model looks",
            paragraphs=map_paragraphs(maps, metrics["attention"]),
            tables=[map_table(maps)],
            figures=ATTENTION,
        ),
        Section(
            title="Images to look at",
            paragraphs=[review_in_words(metrics["review"])],
            groups=groups["review"],
        ),
        Section(
            title="Data",
            paragraphs=image_warnings(metrics["subset"]),
            groups=groups["data"],
            figures=DATA,
        ),
        Section(title="Settings", settings=settings_rows(params)),
        Section(
            title="Versions",
            paragraphs=[other_versions(versions)],
            tables=[version_rows(versions)],
        ),
    ]
    return render(
        "report/page.html",
        title=page_title(params, metrics["train"]),
        subtitle=subtitle(params, metrics["subset"]["images"]),
        headline=[(name, unbroken(value)) for name, value in headline(metrics)],
        warnings=collect_warnings(metrics),
        sections=sections,
        pictures=pictures,
    )


def unbroken(text: str) -> str:
    """The text with no-break spaces where a line must not end: in an interval, and around a
    number's `=`."""
    return re.sub(r"\[[^]]*\]|n = [\d,]+", lambda found: found[0].replace(" ", "\u00a0"), text)


def page_title(params: Params, train: Mapping[str, Any]) -> str:
    if params.report.title:
        return params.report.title
    data = NAMES[params.data.name]
    if train["kept_epoch"] or train["parameters_adapted"] or "head" in train:
        return f"A Vision Transformer fine-tuned on {data}"
    return f"A linear probe of a Vision Transformer on {data}"


def subtitle(params: Params, images: Mapping[str, int]) -> str:
    """The author if there is one, the model, and the number of images of each split."""
    author = params.report.author
    counts = ", ".join(f"{count:,} {split}" for split, count in images.items())
    text = f"Model: {params.model.name}. Images: {counts}."
    return f"{author}. {text}" if author else text


def mistakes_section(test: Mapping[str, Any], groups: Sequence[Group]) -> Section:
    title = "Mistakes"
    if test["accuracy"] < 1:
        return Section(title=title, paragraphs=[BROWSE], groups=groups)
    none = f"All {test['n']:,} test images are classified correctly."
    return Section(title=title, paragraphs=[none])


def map_paragraphs(maps: Sequence[Mapping[str, Any]], attention: Mapping[str, Any]) -> list[str]:
    """The verdict on the maps, what bars do where images have some, and how to read the table."""
    bars = bars_in_words(attention)
    return [verdict(maps), bars, HOW_TO_READ] if bars else [verdict(maps), HOW_TO_READ]


def image_warnings(subset: Mapping[str, Any]) -> list[str]:
    """A sentence on what is wrong with the images, if anything is."""
    count = subset["problems"]
    if count == 0:
        return []
    return [
        f"Problems of {count:,} images, classes or files are listed in plots/image_problems.csv."
    ]


def validation_rows(train: Mapping[str, Any], images: int) -> Rows:
    """What adaptation and training add to a linear probe, on the same validation images."""
    independent = train.get("val_independent", images)
    number = f"n = {images:,}"
    if independent != images:
        number += f", which count as {independent:.3g} independent ones"
    rows = [["model", f"validation accuracy ({number})", "95 % interval"]]
    head = start(train)
    models = [(f"{head} of the backbone as it was", "pretrained_probe_accuracy")]
    if train["parameters_adapted"]:
        models.append((f"{head} of the adapted backbone", "probe_accuracy"))
    if train["kept_epoch"]:
        models.append(("trained", "val_accuracy"))
    for name, key in models:
        low, high = wilson(train[key] * independent, independent)
        rows.append([name, f"{train[key]:.4f}", unbroken(f"[{low:.4f}, {high:.4f}]")])
    return rows


def settings_rows(params: Params) -> list[Setting]:
    """Every key that a result can depend on: all but those of `report` and `runtime`."""
    shipped = Params()
    rows = []
    for key in KEYS:
        if key.startswith(("report.", "runtime.")):
            continue
        value = attrgetter(key)
        rows.append(Setting(key, in_yaml(value(params)), in_yaml(value(shipped))))
    return rows


def in_yaml(value: Any) -> str:
    """A value of params.yaml as it stands there."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def used_versions(
    recorded: Mapping[str, Mapping[str, str]], pins: Mapping[str, Sequence[str]]
) -> list[Version]:
    """The versions of each library that the stages ran with.

    Args:
        recorded: {"train": versions/train.json, ...}.
        pins: what `pinned_versions` returns.
    """
    stages: dict[tuple[str, str], list[str]] = {}
    for stage, versions in recorded.items():
        for library, number in versions.items():
            stages.setdefault((library, number), []).append(stage)
    used = []
    for (library, number), names in sorted(stages.items()):
        where = "all stages" if len(names) == len(recorded) else ", ".join(names)
        used.append(Version(library, number, where, pins.get(library, [])))
    return used


def version_rows(versions: Sequence[Version]) -> Rows:
    rows = [["library", "version", "stages", "pinned version"]]
    for version in versions:
        rows.append([version.library, version.number, version.stages, version.in_lock])
    return rows


def other_versions(versions: Sequence[Version]) -> str:
    """A sentence on whether the versions are those of requirements.lock."""
    others = []
    for version in versions:
        if version.number not in version.pins:
            others.append(
                f"{version.library} {version.number} ({version.stages}) is {version.in_lock} there"
            )
    if not others:
        return "All stages ran with the versions of requirements.lock."
    return f"Not all versions are those of requirements.lock: {'; '.join(others)}."


def pinned_versions(lock: str) -> dict[str, list[str]]:
    """The versions of each package in the text of a requirements.lock: one, or one for each range
    of Python's versions."""
    pins: dict[str, list[str]] = {}
    for name, number in re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, flags=re.MULTILINE):
        pins.setdefault(name, []).append(number)
    return pins
