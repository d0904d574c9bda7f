"""params.yaml: what each key means, its range and its shipped value; and the check of a whole file.

The schema refuses values and computes nothing, so no stage depends on this module. DVC compares the
values themselves: dvc.yaml says which keys rerun which stage.

`vit-finetune params` checks params.yaml before DVC removes the outputs of a stage that would fail.
"""

import argparse
import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from vit_finetune.core.device import resolve_shards
from vit_finetune.core.errors import UserError, readable_errors

MAX_SEED = 2**32 - 1  # the largest that numpy and scikit-learn take
MAX_SHOWN = 200  # characters of a value or reason in a message
LOCAL_WEIGHTS = "local-dir:"  # what `model.name` begins with where it names a folder
DATASET_SIZES = {  # images to train on, test images, classes; those of a folder `download` counts
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "digits": (901, 896, 10),
}

Fraction = Annotated[float, Field(ge=0, lt=1)]
Size = (
    Annotated[int, Field(ge=1, le=1_000_000_000)]
    | Annotated[float, Field(gt=0, lt=1)]
    | Literal["all", "auto"]
)
Text = Annotated[str, Field(min_length=1)]
Line = Annotated[str, Field(min_length=1, max_length=200)]
Parameters = Literal["all", "norms", "biases"] | Annotated[list[Text], Field(min_length=1)]


class Schema(BaseModel):
    """`1` is a float where one is meant; `"1"`, `yes` for `true`, and `.nan` are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Data(Schema):
    """Where the images come from, and how those of a folder are read."""

    name: Literal["cifar10", "cifar100", "digits", "folder"] = Field(
        default="cifar10",
        description="data set: `cifar10` or `cifar100` (60,000 photographs each, downloaded), "
        "`digits` (1,797 handwritten digits that scikit-learn carries), or `folder`: your own, "
        "a folder for each class",
    )
    folder: Text = Field(
        default="data/images",
        description="where the images of `folder` are: data/images, or any folder; "
        "DVC follows its files by hash",
    )
    image_size: int = Field(
        default=224,
        ge=8,
        le=1024,
        description="side in pixels at which images of `folder` are stored; "
        "smaller than the model's input loses detail",
    )
    fit: Literal["crop", "pad", "squash"] = Field(
        default="crop",
        description="how an image of `folder` becomes square: `crop` to its middle, "
        "`pad` with grey, or `squash`",
    )
    test_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="fraction of each class of `folder` that is for testing, if it has no test/",
    )
    broken: Literal["error", "skip"] = Field(
        default="error",
        description="a file of `folder` that cannot be read as an image is an `error`, "
        "or is named and left out (`skip`)",
    )
    labels: Text | None = Field(
        default=None,
        description="a CSV file in `data.folder` with the columns `file` and `class`, for images "
        "that are in no folders of classes; `null`: the folders are the classes",
    )
    group: Text | None = Field(
        default=None,
        description="which images of `folder` show one subject and stay in one part: `folder`, "
        "those in one folder below the class; or a regular expression on the file's path, whose "
        "parentheses match the subject's name; `null`: each image is its own",
    )


class Subset(Schema):
    """Sizes of the stratified splits; training and validation images come from the data set's
    training images."""

    train_size: Size = Field(
        default=5000,
        description="training images: a number, a share such as `0.5`, or `all` that validation "
        "leaves (also `auto`)",
    )
    val_size: Size = Field(
        default=1000,
        description="validation images, which decide between start and end of a training: a "
        "number, a share, `all` of a given part, or `auto`: all of a given part, else 15 % of the "
        "training images and at most 1,000",
    )
    test_size: Size = Field(
        default="all", description="test images: a number, a share, or `all` (also `auto`)"
    )
    leaks: Literal["drop", "error", "keep"] = Field(
        default="drop",
        description="images to train or validate on with the pixels of a test or validation "
        "image: `drop` them and draw others of their class, stop with an `error`, or `keep` them",
    )


class Model(Schema):
    """The pretrained network, and how images reach it."""

    name: Text = Field(
        default="vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        description="timm model name with its weights tag, or `local-dir:pretrained/<folder>`",
    )
    pretrained: bool = Field(
        default=True, description="`true`: pretrained weights; `false`: random ones, from `seed`"
    )
    image_size: int | None = Field(
        default=None,
        ge=8,
        le=1024,
        description="side in pixels the images are resized to; `null`: the model's own",
    )
    crop_pct: float | None = Field(
        default=1.0,
        gt=0,
        le=1,
        description="fraction of the resized image that the centre crop keeps; "
        "`null`: the model's own",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="arithmetic; `auto`: bfloat16 where the hardware has units for it, "
        "else float32",
    )


class Training(Schema):
    """Optimiser, schedule and regularisation, of `adapt` and of `train`.

    The freeze boundary of `adapt` is the image: all blocks are trained.
    """

    epochs: int = Field(default=4, ge=1, le=10_000, description="passes over the training images")
    min_steps: int = Field(
        default=200,
        ge=0,
        le=1_000_000,
        description="optimiser steps at least: where `epochs` are fewer, more epochs follow",
    )
    batch_size: int = Field(default=64, ge=1, le=65_536, description="images in one optimiser step")
    shards: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        default="auto",
        description="parts that each batch is computed in: as many processes as divide it give "
        "the same weights; more of them need less memory; `auto`: 4 on a CPU, 1 on a GPU",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw", description="`adamw`, or `sgd` with momentum 0.9"
    )
    lr: float = Field(default=0.0004, gt=0, le=10, description="peak learning rate")
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor on the learning rate from each block to the one before it, "
        "down from the head; `1`: the same for all",
    )
    weight_decay: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="decoupled for adamw; matrices only, not biases and norms",
    )
    warmup: Fraction = Field(
        default=0.125,
        description="fraction of the steps in which the learning rate rises; a cosine to 0 follows",
    )
    label_smoothing: Fraction = Field(
        default=0.1, description="fraction of the target spread over all classes"
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none",
        description="`balanced`: an image counts in the loss by how rare its class is; "
        "`none`: all count the same",
    )
    grad_clip: float | None = Field(
        default=1.0, gt=0, description="largest norm of the gradient; `null`: no clipping"
    )
    token_dropout: Fraction = Field(
        default=0.5,
        description="fraction of the patch tokens left out of each training image at the freeze "
        "boundary; saves about that fraction of the time",
    )
    brightness: Fraction = Field(
        default=0.0,
        description="largest shift of a channel at the freeze boundary, as a fraction of its "
        "range in the image; 0: off",
    )
    flip: bool = Field(
        default=False,
        description="mirror each training image with a probability of one half; `false` where "
        "a mirrored image belongs to another class: arrows, digits, letters, hands",
    )
    crop_scale: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="smallest fraction of an image's area that a random crop keeps; 1: off. "
        "Below 1, and with `flip` or `randaugment`, `train` runs the frozen blocks in every epoch",
    )
    randaugment: int = Field(
        default=0,
        ge=0,
        le=30,
        description="magnitude of the two operations of RandAugment on each image; 0: off",
    )
    mixup: float = Field(
        default=0.2,
        ge=0,
        le=10,
        description="α of Beta(α, α) by which two images are mixed at the freeze boundary; 0: off",
    )
    head_init: Literal["probe", "zeros"] = Field(
        default="probe",
        description="`probe`: start the head from a logistic regression on the frozen features "
        "(LP-FT), or from the head that a kept model has for the same classes; or `zeros`",
    )
    probe_c: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="inverse L2 strength of that regression (scikit-learn's C) on features of "
        "unit variance; `auto`: cross-validated for the probe that training is compared with, and "
        "0.001 for the head that it starts from",
    )


class Adapt(Training):
    """The short training of the whole backbone, before it is frozen."""

    epochs: int = Field(
        default=2,
        ge=0,
        le=10_000,
        description="passes over the training images through the whole network; "
        "`0`: the backbone stays as pretrained",
    )
    flip: bool = Field(
        default=True,
        description="mirror each training image with a probability of one half; `false` where "
        "a mirrored image belongs to another class: arrows, digits, letters, hands",
    )
    parameters: Parameters = Field(
        default="all", description="which parameters are trained, as in `freeze.parameters`"
    )


class Embed(Schema):
    """What the frozen blocks compute once, and how it is stored."""

    storage: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        default="auto",
        description="format of stored activations; `auto`: float16, "
        "or bfloat16 if values are too large for it",
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        default="auto",
        description="images in one forward pass; bounds the memory; "
        "`auto`: 16 on a CPU, 256 on a GPU",
    )


class Freeze(Schema):
    """Which part of the network is trained. The freeze boundary is the input of the first trainable
    block."""

    trainable_blocks: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        default=1,
        description="`0`: the head alone, a linear probe; `k`: the last k blocks and all that "
        "follows them; `all`: everything",
    )
    parameters: Parameters = Field(
        default="all",
        description="which parameters after the freeze boundary are trained: `all`, `norms`, "
        "`biases` (BitFit), or a list of patterns of names in order, `!pattern` taking away again; "
        "the head always is",
    )


class Review(Schema):
    """Which images are listed as suspects."""

    wrong_labels: float = Field(
        default=0.35,
        gt=0,
        lt=1,
        description="the smallest probability that a label is wrong at which it is listed",
    )
    copies: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="the smallest score at which two images are listed as near-copies: 0 for "
        "images that are as alike as others of the data set, 1 for copies",
    )


class Evaluate(Schema):
    """The test of the trained model."""

    calibration_bins: int = Field(
        default=15,
        ge=1,
        le=1000,
        description="confidence bins of the reliability diagram and of the calibration error",
    )
    mistakes: int = Field(default=24, ge=1, le=100, description="most confident mistakes to draw")


class Attention(Schema):
    """Extraction, drawing and judging of self-attention."""

    gallery: int = Field(
        default=8,
        ge=2,
        le=64,
        description="test images to draw and to explore, half of them right, half wrong, "
        "as far as there are so many",
    )
    sample: int = Field(
        default=200,
        ge=8,
        le=10_000,
        description="test images, drawn by the seed, on which the maps are judged, "
        "as far as there are so many; also the number of mosaics, up to 64 of four images and up "
        "to 32 of nine",
    )
    fusion: Literal["mean", "max"] = Field(
        default="mean", description="how last block and rollout combine the heads of a block"
    )
    discard_ratio: Fraction = Field(
        default=0.0,
        description="fraction of the weakest attention that the rollouts leave out in each block",
    )
    batch_size: int = Field(
        default=8,
        ge=1,
        le=256,
        description="images that go together at most; fewer where they would take more than 256 MB",
    )


class Report(Schema):
    """What stands at the top of the report."""

    title: Line | None = Field(
        default=None, description="its title; `null`: made of the model and the data set"
    )
    author: Line | None = Field(default=None, description="who made it; `null`: not said")


class Runtime(Schema):
    """The machine: how fast, not what. Changing it reruns no stage."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="`auto`: the first of cuda, mps, cpu"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads that compute, in all processes of a stage together; `null`: one "
        "for each processor that may be used (a CPU set or a container can limit them)",
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="that adapt, embed and train run side by side; with `cuda`, one for each GPU",
    )


class Params(Schema):
    """A whole params.yaml. `Params()` has the shipped values; in a file no key may be missing."""

    seed: int = Field(
        default=0, ge=0, le=MAX_SEED, description="where all random numbers start from"
    )
    data: Data = Data()
    subset: Subset = Subset()
    model: Model = Model()
    adapt: Adapt = Adapt(min_steps=100, layer_decay=0.75, warmup=0.1)
    embed: Embed = Embed()
    freeze: Freeze = Freeze()
    review: Review = Review()
    train: Training = Training()
    evaluate: Evaluate = Evaluate()
    attention: Attention = Attention()
    report: Report = Report()
    runtime: Runtime = Runtime()


SECTIONS: dict[str, type[Schema]] = {
    name: type(value) for name, value in Params() if isinstance(value, Schema)
}
KEYS: dict[str, FieldInfo] = {  # "train.lr" -> its range and description
    "seed": Params.model_fields["seed"],
    **{
        f"{section}.{key}": field
        for section, schema in SECTIONS.items()
        for key, field in schema.model_fields.items()
    },
}


def read_params(path: str | Path = "params.yaml") -> Params:
    """Read and check the whole file.

    Raises:
        UserError: a line for each problem: the key, its value, what is allowed.
    """
    return check_params(read_yaml(path), str(path))


def read_yaml(path: str | Path) -> Any:
    """Plain values of a YAML 1.2 file, read as DVC reads it: `1e-4` is a number, `yes` is a word
    (UserError)."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is not here; run from the root of the project") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text from byte {error.start} on; save it as UTF-8"
        ) from None
    return parse_yaml(text, path)


def parse_yaml(text: str, source: str | Path) -> Any:
    """As `read_yaml`, from text; `source` is what an error names."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = place + (error.problem or error.context or "unreadable")
        if "'\\t'" in reason:
            reason += "; indent with spaces, not tabs"
    # an odd tag, date or depth makes the parser raise KeyError, RecursionError, ... too
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    raise UserError(f"{source} is not valid YAML: {_one_line(reason)}")


def check_params(values: Any, source: str = "params.yaml") -> Params:
    """Check plain values: no key is unknown or missing, every value is in range, every rule holds.

    Raises:
        UserError: a line for each problem, which begins with `source`.
    """
    if not isinstance(values, dict):
        content = "empty" if values is None else _show(values)
        raise UserError(f"{source} is {content}: it must hold {', '.join(Params.model_fields)}")
    known, errors = _known_keys(values)
    try:
        params = Params.model_validate(known)
    except ValidationError as error:
        errors += _wrong_values(error)
    else:
        if not errors:
            errors = broken_rules(params)
    if errors:
        raise UserError("\n".join(f"{source}: {problem}" for problem in errors))
    return params


def broken_rules(params: Params) -> list[str]:
    """A sentence for each rule between keys that does not hold. Rules on blocks and names of the
    model, which only the built one tells, are checked in `adapt`."""
    errors = []
    name = params.model.name
    if name.startswith(LOCAL_WEIGHTS) and not name.startswith(f"{LOCAL_WEIGHTS}pretrained/"):
        errors.append(
            f"model.name is {name!r}: only below pretrained/ does a changed file rerun what it "
            "should; copy the folder there and use local-dir:pretrained/<folder>"
        )
    processes = params.runtime.processes
    for section, training in (("adapt", params.adapt), ("train", params.train)):
        shards = resolve_shards(training.shards, params.runtime.device)
        if training.shards != "auto" and shards > training.batch_size:
            errors.append(
                f"{section}.shards is {shards}: a batch has {training.batch_size} images, "
                "use at most that"
            )
        if shards % processes > 0:
            errors.append(
                f"runtime.processes is {processes}: it must divide {section}.shards "
                f"({shards}), whose parts of a batch the processes share"
            )
    if params.freeze.trainable_blocks == 0 and params.freeze.parameters != "all":
        errors.append(
            "freeze.parameters must be all where freeze.trainable_blocks is 0, which leaves the "
            "head alone"
        )
    if params.freeze.trainable_blocks == 0 and params.train.head_init != "probe":
        errors.append(
            f"train.head_init is {params.train.head_init}: it must be probe where "
            "freeze.trainable_blocks is 0, where no epochs are run"
        )
    errors += _bad_names(params.data)
    if params.data.name in DATASET_SIZES:
        errors += _sizes_out_of_reach(params)
    return errors


def _sizes_out_of_reach(params: Params) -> list[str]:
    """Rules on sizes that are numbers; what a share or `auto` is, the stage `subset` computes."""
    data = params.data.name
    subset = params.subset
    train_images, test_images, classes = DATASET_SIZES[data]
    if subset.val_size == "all":
        return [f"subset.val_size is all: {data} has no validation images of its own, use a number"]
    errors = []
    for key in ("train_size", "val_size", "test_size"):
        size = getattr(subset, key)
        if isinstance(size, int) and size < classes:
            errors.append(
                f"subset.{key} is {size}: {data} has {classes} classes, so use at least {classes}"
            )
    smallest_train = subset.train_size if isinstance(subset.train_size, int) else classes
    smallest_val = subset.val_size if isinstance(subset.val_size, int) else classes
    if smallest_train + smallest_val > train_images:
        errors.append(
            f"subset.train_size is {subset.train_size} and subset.val_size is {subset.val_size}: "
            f"together they may be at most the {train_images} training images of {data}"
        )
    test_size = subset.test_size if isinstance(subset.test_size, int) else test_images
    if test_size > test_images:
        errors.append(
            f"subset.test_size is {test_size}: {data} has {test_images} test images; use `all`"
        )
    for key in ("gallery", "sample"):
        count = getattr(params.attention, key)
        if count > test_size:
            errors.append(
                f"attention.{key} is {count}: there are {test_size} test images (subset.test_size)"
            )
    return errors


def _bad_names(data: Data) -> list[str]:
    errors = []
    if data.labels is not None and (Path(data.labels).is_absolute() or ".." in data.labels):
        errors.append(
            f"data.labels is {_show(data.labels)}: it must be a file in data.folder, whose changes "
            "DVC follows"
        )
    try:
        re.compile(data.group or "")
    except re.error as error:
        errors.append(f"data.group is {_show(data.group)}, which is no regular expression: {error}")
    return errors


def _known_keys(values: dict[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """What the schema has a key for, and a sentence for each key that is unknown or missing."""
    known: dict[str, Any] = {}
    errors = _unknown_keys(values, Params, "")
    if "seed" in values:
        known["seed"] = values["seed"]
    else:
        errors.append(f"seed is missing; it is: {KEYS['seed'].description}")
    for section, schema in SECTIONS.items():
        block = values.get(section)
        if not isinstance(block, dict):
            content = f"is {_show(block)}" if section in values else "is missing"
            errors.append(f"{section} {content}: it must hold {', '.join(schema.model_fields)}")
            continue
        errors += _unknown_keys(block, schema, f"{section}.")
        known[section] = {}
        for key, field in schema.model_fields.items():
            if key in block:
                known[section][key] = block[key]
            else:
                errors.append(f"{section}.{key} is missing; it is: {field.description}")
    return known, errors


def _unknown_keys(block: dict[Any, Any], schema: type[Schema], prefix: str) -> list[str]:
    known = list(schema.model_fields)
    errors = []
    for key in block:
        if key in known:
            continue
        plain = isinstance(key, str) and re.fullmatch(r"[\w.-]{1,40}", key)
        name = key if plain else _show(key)
        close = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
        errors.append(f"{prefix}{name} is not a known key; {hint}")
    return errors


def _wrong_values(error: ValidationError) -> list[str]:
    """A sentence for each key, in pydantic's words: its value, and what it should be."""
    by_key: dict[tuple[int | str, ...], list[Any]] = {}
    for detail in error.errors():
        by_key.setdefault(detail["loc"][:2], []).append(detail)
    errors = []
    for path, details in by_key.items():
        key = ".".join(map(str, path))
        may_be_null = type(None) in get_args(KEYS[key].annotation)
        # a union has an error for each of its types; that of a list's item lies deepest
        deepest = max(details, key=lambda detail: len(detail["loc"]))
        position = deepest["loc"][-1]
        if isinstance(position, int):
            key = f"{key}[{position}]"
            details = [deepest]
        wishes = [detail["msg"].partition(" should ")[2] for detail in details]
        if may_be_null:
            wishes.append("be null")
        errors.append(f"{key} is {_show(details[0]['input'])}: it should {' or '.join(wishes)}")
    return errors


def _show(value: Any) -> str:
    """A value of a YAML file, short and on one line."""
    if isinstance(value, dict):
        return "a block of keys"
    if isinstance(value, list | tuple | set):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 256:
        return "a huge number"
    if isinstance(value, str):
        return _one_line(repr(value))
    return _one_line(str(value))


def _one_line(text: str) -> str:
    """Printable and short, whatever stands in the file."""
    if not text.isprintable():
        text = ascii(" ".join(text.split()))[1:-1]
    if len(text) > MAX_SHOWN:
        return text[:MAX_SHOWN] + "..."
    return text


if __name__ == "__main__":
    argparse.ArgumentParser(prog="vit-finetune params", description=__doc__).parse_args()
    with readable_errors("params"):
        read_params()
