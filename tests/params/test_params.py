"""params.yaml: what is good is taken as written, what is bad is one line that a person can act on."""

import copy
import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml, modify_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_finetune.datasets import load_dataset
from vit_finetune.params import SECTIONS, SEED, Params, check_params, read_params, read_yaml, section_schema
from vit_finetune.params.rules import DATASET_SIZES

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
VALUES = read_yaml(ROOT / "params.yaml")
KEYS = ["seed", *(f"{section}.{key}" for section in SECTIONS for key in VALUES[section])]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def odd_file(tmp_path_factory):
    """Where the property tests write their documents: one file for all examples."""
    return tmp_path_factory.mktemp("odd") / "params.yaml"


def changed(*edits, text=TEXT):
    """The project's file with `name: text` in place of a key or a whole section; None takes it out."""
    lines = text.splitlines()
    for key, value in edits:
        section, _, name = key.rpartition(".")
        start = lines.index(f"{section}:") + 1 if section else 0
        indent = "  " if section else ""
        at = next(i for i in range(start, len(lines)) if lines[i].startswith(f"{indent}{name}:"))
        end = at + 1
        while end < len(lines) and lines[end].startswith(f"{indent}  "):
            end += 1
        lines[at:end] = [] if value is None else [f"{indent}{name}: {value}".rstrip()]
    return "\n".join(lines) + "\n"


def read(text):
    """What the stages read when params.yaml holds this text (str or bytes)."""
    Path("params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_params()


def complaint(text):
    with pytest.raises(ValueError, match=r"^params\.yaml") as caught:
        read(text)
    assert type(caught.value) is ValueError
    return str(caught.value)


def value_of(params, key):
    section, _, name = key.rpartition(".")
    return getattr(params.section(section_schema(section)), name) if section else params.seed


WHOLE = "use a whole number"
SIZE = f"{WHOLE} from 1 to 1000000000, or `all`"
RATE = "use a number above 0, at most 10"
SHARE = "use a number from 0, below 1"
BOOL = "use `true` or `false`"
DEVICE = "use `auto`, `cpu`, `cuda` or `mps`"
NAME = "use `cifar10`, `cifar100`, `digits` or `folder`"
PATTERNS = "use `all`, `norms` or `biases`, or a list of texts"
FACTOR = "use a number above 0, at most 1"

BAD_VALUES = [  # key, what stands after it in the file, how the value is called, what is allowed
    ("seed", "-1", "-1", f"{WHOLE} from 0 to 4294967295"),
    ("seed", "4294967296", "4294967296", f"{WHOLE} from 0 to 4294967295"),
    ("seed", "0.0", "0.0", f"{WHOLE} from 0 to 4294967295"),
    ("seed", "true", "true", f"{WHOLE} from 0 to 4294967295"),
    ("seed", "null", "null", f"{WHOLE} from 0 to 4294967295"),
    ("seed", "'0'", "'0', which is text", f"{WHOLE} from 0 to 4294967295"),
    ("seed", "[0, 1]", "a list", f"{WHOLE} from 0 to 4294967295"),
    ("data.name", "imagenet", "'imagenet'", NAME),
    ("data.name", "CIFAR10", "'CIFAR10'", NAME),
    ("data.name", "10", "10", NAME),
    ("data.name", "", "null", NAME),
    ("data.image_size", "7", "7", f"{WHOLE} from 8 to 1024"),
    ("data.image_size", "1025", "1025", f"{WHOLE} from 8 to 1024"),
    ("data.image_size", "null", "null", f"{WHOLE} from 8 to 1024"),
    ("data.image_size", "[224, 224]", "a list", f"{WHOLE} from 8 to 1024"),
    ("data.fit", "stretch", "'stretch'", "use `crop`, `pad` or `squash`"),
    ("data.fit", "null", "null", "use `crop`, `pad` or `squash`"),
    ("data.test_share", "0", "0", "use a number above 0, below 1"),
    ("data.test_share", "1.0", "1.0", "use a number above 0, below 1"),
    ("data.test_share", "20%", "'20%', which is text", "use a number above 0, below 1"),
    ("data.broken", "ignore", "'ignore'", "use `error` or `skip`"),
    ("data.broken", "true", "true", "use `error` or `skip`"),
    ("subset.train_size", "0", "0", SIZE),
    ("subset.train_size", "-5", "-5", SIZE),
    ("subset.train_size", "1.5", "1.5", SIZE),
    ("subset.train_size", "5000.0", "5000.0", SIZE),
    ("subset.train_size", "5e3", "5000.0", SIZE),
    ("subset.train_size", "ALL", "'ALL', which is text", SIZE),
    ("subset.train_size", "50%", "'50%', which is text", SIZE),
    ("subset.val_size", "0", "0", SIZE),
    ("subset.val_size", "null", "null", SIZE),
    ("subset.val_size", "0.2", "0.2", SIZE),
    ("subset.test_size", "null", "null", SIZE),
    ("subset.test_size", "10,000", "'10,000', which is text", SIZE),
    ("model.name", "''", "''", "use text that is not empty"),
    ("model.name", "null", "null", "use text that is not empty"),
    ("model.name", "16", "16", "use text that is not empty"),
    ("model.name", "[vit_tiny]", "a list", "use text that is not empty"),
    ("model.pretrained", "yes", "'yes', which is text", BOOL),
    ("model.pretrained", "'true'", "'true', which is text", BOOL),
    ("model.pretrained", "1", "1", BOOL),
    ("model.pretrained", "null", "null", BOOL),
    ("model.image_size", "7", "7", f"{WHOLE} from 8 to 1024, or `null`"),
    ("model.image_size", "1025", "1025", f"{WHOLE} from 8 to 1024, or `null`"),
    ("model.image_size", "224.0", "224.0", f"{WHOLE} from 8 to 1024, or `null`"),
    ("model.image_size", "none", "'none', which is text", f"{WHOLE} from 8 to 1024, or `null`"),
    ("model.image_size", "[224, 224]", "a list", f"{WHOLE} from 8 to 1024, or `null`"),
    ("model.crop_pct", "0", "0", "use a number above 0, at most 1, or `null`"),
    ("model.crop_pct", "1.01", "1.01", "use a number above 0, at most 1, or `null`"),
    ("model.crop_pct", "true", "true", "use a number above 0, at most 1, or `null`"),
    ("model.precision", "float16", "'float16'", "use `auto`, `float32` or `bfloat16`"),
    ("model.precision", "32", "32", "use `auto`, `float32` or `bfloat16`"),
    ("embed.flip", "on", "'on', which is text", BOOL),
    ("embed.flip", "0", "0", BOOL),
    ("embed.storage", "int8", "'int8'", "use `auto`, `float16`, `bfloat16` or `float32`"),
    ("embed.batch_size", "4097", "4097", f"{WHOLE} from 1 to 4096"),
    ("embed.batch_size", "true", "true", f"{WHOLE} from 1 to 4096"),
    ("freeze.trainable_blocks", "-1", "-1", f"{WHOLE} from 0, or `all`"),
    ("freeze.trainable_blocks", "'2'", "'2', which is text", f"{WHOLE} from 0, or `all`"),
    ("freeze.trainable_blocks", "none", "'none', which is text", f"{WHOLE} from 0, or `all`"),
    ("freeze.trainable_blocks", "false", "false", f"{WHOLE} from 0, or `all`"),
    ("freeze.parameters", "norm", "'norm', which is text", PATTERNS),
    ("freeze.parameters", "''", "'', which is text", PATTERNS),
    ("freeze.parameters", "null", "null", PATTERNS),
    ("freeze.parameters", "2", "2", PATTERNS),
    ("freeze.parameters", "{norms: true}", "a block of keys", PATTERNS),
    ("freeze.parameters", "[]", "a list", PATTERNS),
    ("freeze.parameters", "['*.bias', '']", "a list", PATTERNS),
    ("freeze.parameters", "['*.bias', 2]", "a list", PATTERNS),
    ("freeze.parameters", "[[norms]]", "a list", PATTERNS),
    ("freeze.layer_decay", "0", "0", FACTOR),
    ("freeze.layer_decay", "1.01", "1.01", FACTOR),
    ("freeze.layer_decay", "null", "null", FACTOR),
    ("train.epochs", "0", "0", f"{WHOLE} from 1 to 10000"),
    ("train.epochs", "10001", "10001", f"{WHOLE} from 1 to 10000"),
    ("train.epochs", "10.0", "10.0", f"{WHOLE} from 1 to 10000"),
    ("train.epochs", "{max: 10}", "a block of keys", f"{WHOLE} from 1 to 10000"),
    ("train.epochs", "9" * 100, "a huge number", f"{WHOLE} from 1 to 10000"),
    ("train.epochs", "2024-01-31", "2024-01-31", f"{WHOLE} from 1 to 10000"),
    ("train.shards", "0", "0", f"{WHOLE} from 1 to 1024"),
    ("train.batch_size", "65537", "65537", f"{WHOLE} from 1 to 65536"),
    ("train.optimizer", "adam", "'adam'", "use `adamw` or `sgd`"),
    ("train.optimizer", "null", "null", "use `adamw` or `sgd`"),
    ("train.lr", "0", "0", RATE),
    ("train.lr", "-1e-4", "-0.0001", RATE),
    ("train.lr", "10.5", "10.5", RATE),
    ("train.lr", "'1e-4'", "'1e-4', which is text", RATE),
    ("train.lr", "1e-4x", "'1e-4x', which is text", RATE),
    ("train.lr", "1,5", "'1,5', which is text", RATE),
    ("train.lr", "1e", "'1e', which is text", RATE),
    ("train.lr", "true", "true", RATE),
    ("train.lr", "null", "null", RATE),
    ("train.lr", ".nan", ".nan", RATE),
    ("train.lr", ".inf", ".inf", RATE),
    ("train.lr", "1e999", ".inf", RATE),
    ("train.lr", "[1e-3, 1e-4]", "a list", RATE),
    ("train.lr", "1" + "0" * 400, "a huge number", RATE),
    ("train.weight_decay", "-0.1", "-0.1", "use a number from 0 to 10"),
    ("train.weight_decay", "-.inf", "-.inf", "use a number from 0 to 10"),
    ("train.warmup_epochs", "-1", "-1", "use a number from 0"),
    ("train.label_smoothing", "1", "1", SHARE),
    ("train.label_smoothing", "-0.1", "-0.1", SHARE),
    ("train.class_weights", "equal", "'equal'", "use `none` or `balanced`"),
    ("train.class_weights", "null", "null", "use `none` or `balanced`"),
    ("train.class_weights", "[1, 2]", "a list", "use `none` or `balanced`"),
    ("train.grad_clip", "0", "0", "use a number above 0, or `null`"),
    ("train.grad_clip", ".inf", ".inf", "use a number above 0, or `null`"),
    ("train.grad_clip", "false", "false", "use a number above 0, or `null`"),
    ("train.grad_clip", "off", "'off', which is text", "use a number above 0, or `null`"),
    ("train.token_dropout", "1.0", "1.0", SHARE),
    ("train.brightness", "-0.1", "-0.1", SHARE),
    ("train.crop_scale", "0", "0", "use a number above 0, at most 1"),
    ("train.crop_scale", "1.5", "1.5", "use a number above 0, at most 1"),
    ("train.randaugment", "31", "31", "use a whole number from 0 to 30"),
    ("train.mixup", "-1", "-1", "use a number from 0 to 10"),
    ("train.head_init", "random", "'random'", "use `probe` or `zeros`"),
    ("train.probe_c", "0.0", "0.0", "use a number above 0"),
    ("train.probe_c", "1e999", ".inf", "use a number above 0"),
    ("train.patience", "0", "0", f"{WHOLE} from 1, or `null`"),
    ("train.patience", "never", "'never', which is text", f"{WHOLE} from 1, or `null`"),
    ("evaluate.calibration_bins", "0", "0", f"{WHOLE} from 1 to 1000"),
    ("evaluate.mistakes", "101", "101", f"{WHOLE} from 1 to 100"),
    ("attention.gallery", "1", "1", f"{WHOLE} from 2 to 64"),
    ("attention.sample", "all", "'all', which is text", f"{WHOLE} from 8 to 10000"),
    ("attention.fusion", "min", "'min'", "use `mean` or `max`"),
    ("attention.discard_ratio", "1", "1", SHARE),
    ("attention.batch_size", "0", "0", f"{WHOLE} from 1 to 256"),
    ("report.title", "''", "''", "use text that is not empty, or `null`"),
    ("report.author", "3", "3", "use text that is not empty, or `null`"),
    ("runtime.device", "gpu", "'gpu'", DEVICE),
    ("runtime.device", "cuda:0", "'cuda:0'", DEVICE),
    ("runtime.threads", "0", "0", f"{WHOLE} from 1 to 1024, or `null`"),
    ("runtime.threads", "auto", "'auto', which is text", f"{WHOLE} from 1 to 1024, or `null`"),
    ("runtime.processes", "0", "0", f"{WHOLE} from 1 to 1024"),
    ("runtime.workers", "-1", "-1", f"{WHOLE} from 0 to 256"),
    ("runtime.workers", "null", "null", f"{WHOLE} from 0 to 256"),
]


@pytest.mark.parametrize(("key", "text", "found", "allowed"), BAD_VALUES)
def test_a_bad_value_is_one_line_with_the_key_the_value_and_what_is_allowed(key, text, found, allowed):
    assert complaint(changed((key, text))) == f"params.yaml: {key} is {found}: {allowed}"


def test_every_key_has_a_bad_value_in_the_table():
    assert {key for key, *_ in BAD_VALUES} == set(KEYS)


DATA, FREEZE = "name, image_size, fit, test_share, broken", "trainable_blocks, parameters, layer_decay"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("seed", "0\nsede: 1"), "sede is not a known key; did you mean seed?"),
        (("seed", "0\nevaluation: {}"), "evaluation is not a known key; did you mean evaluate?"),
        (("seed", "0\nTRAIN: {}"), "TRAIN is not a known key; did you mean train?"),
        (("seed", "0\nxyz: 1"), f"xyz is not a known key; known: seed, {', '.join(SECTIONS)}"),
        (("seed", "0\n? [1]\n: 1"), f"a list is not a known key; known: seed, {', '.join(SECTIONS)}"),
        (("train.lr", "1\n  Lr: 1"), "train.Lr is not a known key; did you mean train.lr?"),
        (("train.epochs", "10\n  epoch: 1"), "train.epoch is not a known key; did you mean train.epochs?"),
        (("train.epochs", "10\n  batchsize: 1"), "train.batchsize is not a known key; did you mean train.batch_size?"),
        (("data.name", "digits\n  1: 2"), f"data.1 is not a known key; known: {DATA}"),
        (("data.name", "digits\n  null: 2"), f"data.null is not a known key; known: {DATA}"),
        (("data.name", 'digits\n  "a\\nb\\uD800": 2'), rf"data.'a\nb\ud800' is not a known key; known: {DATA}"),
        (("data.name", f"digits\n  {'long' * 30}: 2"), f"data.'{'long' * 30}' is not a known key; known: {DATA}"),
        (("seed", None), f"seed is missing; it is: {SEED['description']}"),
        (("train.lr", None), "train.lr is missing; it is: peak learning rate"),
        (("freeze", None), f"freeze is missing: it must hold {FREEZE}"),
        (("freeze", ""), f"freeze is null: it must hold {FREEZE}"),
        (("freeze", "2"), f"freeze is 2: it must hold {FREEZE}"),
        (("freeze", "[trainable_blocks]"), f"freeze is a list: it must hold {FREEZE}"),
        (("embed", "yes"), "embed is 'yes': it must hold flip, storage, batch_size"),
        (("model.name", '"\\uD800"'), r"model.name is '\ud800': use text that is not empty"),
        (("train.optimizer", '"a\\nb\\e[31m"'), r"train.optimizer is 'a\nb\x1b[31m': use `adamw` or `sgd`"),
    ],
)
def test_an_unknown_missing_or_misspelt_key_is_one_line_that_helps(edit, message):
    assert complaint(changed(("subset.test_size", "all"), edit)) == f"params.yaml: {message}"


def test_a_very_long_value_is_cut():
    line = complaint(changed(("train.optimizer", "x" * 10_000)))
    assert line.startswith("params.yaml: train.optimizer is 'xxx")
    assert line.endswith("...: use `adamw` or `sgd`")
    assert len(line) < 300


CIFAR, CIFAR_100, DIGITS, FOLDER = (("data.name", name) for name in ("cifar10", "cifar100", "digits", "folder"))


def sizes(train, val, test, gallery=2, sample=8):
    subset = [("subset.train_size", train), ("subset.val_size", val), ("subset.test_size", test)]
    return [*subset, ("attention.gallery", gallery), ("attention.sample", sample)]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([CIFAR, *sizes(9, 10, 10)], "subset.train_size is 9: cifar10 has 10 classes, so use at least 10"),
        ([CIFAR, *sizes("all", 9, 10)], "subset.val_size is 9: cifar10 has 10 classes, so use at least 10"),
        ([CIFAR_100, *sizes(99, 100, 100)], "subset.train_size is 99: cifar100 has 100 classes, so use at least 100"),
        ([DIGITS, *sizes(10, 10, 9)], "subset.test_size is 9: digits has 10 classes, so use at least 10"),
        (
            [CIFAR, *sizes(49_001, 1000, "all")],
            "subset.train_size is 49001 and subset.val_size is 1000: "
            "together they may be at most the 50000 training images of cifar10",
        ),
        (
            [CIFAR_100, *sizes("all", 49_901, "all")],
            "subset.train_size is all and subset.val_size is 49901: "
            "together they may be at most the 50000 training images of cifar100",
        ),
        (
            [DIGITS, *sizes("all", 892, "all")],
            "subset.train_size is all and subset.val_size is 892: "
            "together they may be at most the 901 training images of digits",
        ),
        ([CIFAR, *sizes(10, 10, 10_001)], "subset.test_size is 10001: cifar10 has 10000 test images; use `all`"),
        ([DIGITS, *sizes(10, 10, 897)], "subset.test_size is 897: digits has 896 test images; use `all`"),
        *(
            (
                [edit, *sizes(10, "all", 10)],
                f"subset.val_size is all: {edit[1]} has no validation images of its own, use a number",
            )
            for edit in (CIFAR, CIFAR_100, DIGITS)
        ),
        (
            [CIFAR, *sizes(10, 10, 10, gallery=11)],
            "attention.gallery is 11: there are 10 test images (subset.test_size)",
        ),
        (
            [DIGITS, *sizes(10, 10, "all", sample=897)],
            "attention.sample is 897: there are 896 test images (subset.test_size)",
        ),
        (
            [("train.epochs", 3), ("train.warmup_epochs", 3.5)],
            "train.warmup_epochs is 3.5: train.epochs is 3, use at most that",
        ),
        (
            [FOLDER, ("train.epochs", 3), ("train.warmup_epochs", 3.5)],
            "train.warmup_epochs is 3.5: train.epochs is 3, use at most that",
        ),
        *(
            (
                [("freeze.trainable_blocks", 0), ("freeze.parameters", parameters)],
                "freeze.parameters must be all where freeze.trainable_blocks is 0, which leaves the head alone",
            )
            for parameters in ("norms", "biases", ["*.bias"])
        ),
    ],
)
def test_a_rule_between_sections_names_the_keys_on_both_sides(edits, message):
    assert complaint(changed(*edits)) == f"params.yaml: {message}"


@pytest.mark.parametrize(
    "edits",
    [
        [CIFAR, *sizes(10, 10, 10)],
        [CIFAR, *sizes(49_000, 1000, 10_000)],
        [CIFAR, *sizes("all", 49_990, "all")],
        [CIFAR_100, *sizes(100, 49_900, 100)],
        [DIGITS, *sizes(801, 100, 896, gallery=64, sample=896)],
        [DIGITS, *sizes("all", 891, "all")],
        [("train.epochs", 3), ("train.warmup_epochs", 3)],
        [("freeze.trainable_blocks", 0), ("freeze.parameters", "all")],
        [("freeze.trainable_blocks", 1), ("freeze.parameters", "norms")],
        [("freeze.trainable_blocks", "all"), ("freeze.parameters", ["*.bias"])],
        [("freeze.layer_decay", 1.0), ("data.image_size", 8), ("data.test_share", 0.999)],
    ],
)
def test_the_limits_themselves_are_allowed(edits):
    params = read(changed(*edits))
    for key, value in edits:
        assert value_of(params, key) == value


@pytest.mark.parametrize(
    "subset", [sizes(1, 1, 1, gallery=64, sample=10_000), sizes(10**9, 10**9, 10**9), sizes("all", "all", "all")]
)
def test_the_sizes_of_a_folder_are_left_to_the_stage_that_counts_its_images(subset):
    params = read(changed(FOLDER, *subset))
    for key, value in [FOLDER, *subset]:
        assert value_of(params, key) == value


def test_all_problems_are_told_at_once_one_line_each():
    text = changed(("seed", "-1"), ("data.name", "mnist"), ("train.lr", None), ("train.epochs", "no\n  decay: 1"))
    assert complaint(text).splitlines() == [
        "params.yaml: seed is -1: use a whole number from 0 to 4294967295",
        f"params.yaml: data.name is 'mnist': {NAME}",
        f"params.yaml: train.decay is not a known key; known: {', '.join(VALUES['train'])}",
        "params.yaml: train.epochs is 'no', which is text: use a whole number from 1 to 10000",
        "params.yaml: train.lr is missing; it is: peak learning rate",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f" is empty: it must hold seed, {', '.join(SECTIONS)}"),
        ("# only a comment\n", f" is empty: it must hold seed, {', '.join(SECTIONS)}"),
        ("- seed\n", f" is a list: it must hold seed, {', '.join(SECTIONS)}"),
        ("seed 0\n", f" is 'seed 0': it must hold seed, {', '.join(SECTIONS)}"),
        (
            "seed: 0\ntrain:\n  lr: 1\n  lr: 2\n",
            ' is not valid YAML: line 4, column 3: found duplicate key "lr" with value "2" (original value: "1")',
        ),
        (
            "seed: 0\ntrain:\n\tlr: 2\n",
            r" is not valid YAML: line 3, column 1: found character '\t' that cannot start any token; "
            "indent with spaces, not tabs",
        ),
        ("seed: 0\n---\nseed: 1\n", " is not valid YAML: line 2, column 1: but found another document"),
        ("train: {lr: 1\nseed: 0\n", " is not valid YAML: line 2, column 5: expected ',' or '}', but got ':'"),
        ("seed: *other\n", " is not valid YAML: line 1, column 7: found undefined alias 'other'"),
        (changed(("train.lr", "2024-13-45")), " is not valid YAML: ValueError: month must be in 1..12"),
        (changed(("train.lr", "!!bool maybe")), " is not valid YAML: KeyError: 'maybe'"),
        (changed(("train.lr", "!!float ''")), " is not valid YAML: IndexError: string index out of range"),
        ("[" * 1000, " is not valid YAML: RecursionError: maximum recursion depth exceeded"),
        ("seed: 0\nname: caf\xe9\n".encode("latin-1"), " is not UTF-8 text from byte 17 on; save it as UTF-8"),
        (TEXT.encode("utf-16"), " is not UTF-8 text from byte 0 on; save it as UTF-8"),
    ],
)
def test_a_file_that_is_not_yaml_is_one_line_with_the_place(text, message):
    assert complaint(text) == f"params.yaml{message}"


def test_a_python_object_in_the_file_is_refused_and_not_built():
    line = complaint(changed(("train.lr", "!!python/object/apply:os.mkdir [built]")))
    assert "could not determine a constructor for the tag" in line
    assert not Path("built").exists()


def test_a_missing_file_says_where_to_run():
    with pytest.raises(ValueError, match=r"^params\.yaml is not here; run from the root of the project$"):
        read_params()


def test_a_folder_in_place_of_the_file_is_one_line():
    Path("params.yaml").mkdir()
    with pytest.raises(ValueError, match=r"^params\.yaml cannot be read: Is a directory$"):
        read_params()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.lr", "1e-4", 0.0001),
        ("train.lr", "1e-04", 0.0001),
        ("train.lr", "3e-05", 0.00003),
        ("train.lr", "1E-4", 0.0001),
        ("train.lr", "+1.0e-4", 0.0001),
        ("train.lr", ".5", 0.5),
        ("train.lr", "1", 1.0),
        ("train.grad_clip", "2", 2.0),
        ("train.grad_clip", "~", None),
        ("train.warmup_epochs", "0", 0.0),
        ("train.probe_c", "1e8", 1e8),
        ("model.crop_pct", "1", 1.0),
        ("model.image_size", "null", None),
        ("model.name", "yes", "yes"),
        ("model.name", '"local-dir:pretrained/mine"', "local-dir:pretrained/mine"),
        ("model.pretrained", "False", False),
        ("freeze.trainable_blocks", "all", "all"),
        ("freeze.trainable_blocks", "0", 0),
        ("freeze.parameters", "['*.norm*', '!*.bias']", ["*.norm*", "!*.bias"]),
        ("freeze.parameters", "\n  - all", ["all"]),
        ("freeze.parameters", "[yes]", ["yes"]),
        ("freeze.layer_decay", "1", 1.0),
        ("train.class_weights", "none", "none"),
        ("data.test_share", ".2", 0.2),
        ("subset.train_size", "all", "all"),
        ("seed", "0x10", 16),
        ("seed", "4294967295", 4294967295),
    ],
)
def test_a_value_means_what_a_person_means_and_the_same_to_dvc(key, text, value):
    found = value_of(read(changed((key, text))), key)
    assert (found, type(found)) == (value, type(value))
    section, _, name = key.rpartition(".")
    by_dvc = load_yaml("params.yaml")
    assert (by_dvc[section] if section else by_dvc)[name] == value


@pytest.mark.parametrize("text", ["\ufeff" + TEXT, TEXT.replace("\n", "\r\n"), "---\n" + TEXT, TEXT + "...\n"])
def test_what_an_editor_adds_does_not_matter(text):
    assert value_of(read(text), "train.lr") == VALUES["train"]["lr"]


def test_every_key_is_described():
    assert SEED["description"]
    for section in SECTIONS:
        schema = section_schema(section)
        assert list(schema.model_fields) == list(VALUES[section])
        assert schema.__doc__
        for key, field in schema.model_fields.items():
            assert field.description, f"{section}.{key}"


def test_parameters_cannot_be_changed_after_reading():
    params = read(TEXT)
    with pytest.raises(ValueError, match="frozen"):
        params.runtime.workers = 4


def test_the_file_is_in_the_form_that_dvc_writes():
    Path("params.yaml").write_text(TEXT, encoding="utf-8")
    with modify_yaml("params.yaml") as values:
        values["seed"] = VALUES["seed"]
    assert Path("params.yaml").read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=7", 7),
        ("train.lr=0.0123", 0.0123),
        ("train.lr=3e-5", 0.00003),
        ("train.lr=1", 1.0),
        ("train.patience=5", 5),
        ("train.grad_clip=null", None),
        ("train.optimizer=sgd", "sgd"),
        ("subset.train_size=all", "all"),
        ("freeze.trainable_blocks=all", "all"),
        ("freeze.parameters=norms", "norms"),
        ("freeze.layer_decay=0.75", 0.75),
        ("train.class_weights=balanced", "balanced"),
        ("data.name=folder", "folder"),
        ("data.test_share=0.1", 0.1),
        ("embed.flip=false", False),
        ("model.name=local-dir:pretrained/mine", "local-dir:pretrained/mine"),
        ("runtime.threads=2", 2),
    ],
)
def test_an_override_of_dvc_exp_run_changes_its_own_line_only(override, value):
    Path("params.yaml").write_text(TEXT, encoding="utf-8")
    apply_overrides("params.yaml", [override])  # what `dvc exp run -S` calls
    after = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    key = override.split("=")[0]
    differing = [new for old, new in zip(TEXT.splitlines(), after, strict=True) if old != new]
    assert [line.split(":")[0].strip() for line in differing] == [key.split(".")[-1]]
    assert value_of(read_params(), key) == value


def test_an_override_with_yes_is_refused_because_yaml_keeps_it_a_word():
    Path("params.yaml").write_text(TEXT, encoding="utf-8")
    apply_overrides("params.yaml", ["embed.flip=yes"])
    with pytest.raises(ValueError, match=r"^params\.yaml: embed\.flip is 'yes', which is text: use `true` or `false`$"):
        read_params()


def original(name, folder):
    """A data set that is only there where VIT_DATA_DIR names its files."""
    there = any(Path(os.environ.get("VIT_DATA_DIR") or os.devnull).glob(f"{folder}*"))
    reason = f"needs the original files of {name}: set VIT_DATA_DIR"
    return pytest.param(name, marks=pytest.mark.skipif(not there, reason=reason))


@pytest.mark.parametrize("name", ["digits", original("cifar10", "cifar-10-"), original("cifar100", "cifar-100-")])
def test_the_rules_know_the_true_size_of_each_data_set(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    data = load_dataset(name)
    assert DATASET_SIZES[name] == (len(data.labels["train"]), len(data.labels["test"]), len(data.classes))


def test_the_rules_know_every_data_set_but_the_users_own():
    assert [*DATASET_SIZES, "folder"] == section_schema("data").model_json_schema()["properties"]["name"]["enum"]


# Property tests: whatever the document, the outcome is Params or lines that a terminal can print.

ODD = settings(max_examples=100, deadline=None)
CHARACTERS = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates and controls too
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**200, 2**4000), st.floats(), CHARACTERS,
    st.sampled_from(["all", "auto", "cifar10", "digits", "folder", "norms", "adamw", "mean", "yes", "1e-4", ""]),
    st.binary(max_size=4), st.dates(), st.datetimes(timezones=st.just(datetime.UTC)),
)  # fmt: skip
NAMES = st.sampled_from(["seed", *SECTIONS, *(key.split(".")[-1] for key in KEYS)])
HASHABLE = st.one_of(NAMES, SCALARS, st.tuples(SCALARS))
STRUCTURES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(HASHABLE, inner, max_size=6), st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=12,
)
SNIPPETS = [
    "\t", "\n", " ", ":", "- ", "? ", "#", "'", '"', "{", "}", "[", "]", ",", "|", ">", "&a ", "*a", "<<: ", "---\n",
    "...\n", "%YAML 1.1\n---\n", "!!bool x", "!!float ''", "!!int x", "!!set ", "!!omap ", "!!binary x", "!!str ",
    "!!timestamp x", "2024-13-45", "1e-4", ".nan", "-.inf", "0x", "1_0", "~", "yes", "null", '"\\uD800"', "\x00",
    "\x85", "\u2028", "é", "😀", "all", "0", "-", "seed: 1\n", "  lr: 2\n",
]  # fmt: skip


def assert_params_or_lines(check, source):
    """`check()` gives Params, returned here, or a ValueError of short printable lines that begin with the file."""
    try:
        params = check()
    except ValueError as error:
        kind, lines = type(error), str(error).split("\n")
    else:
        assert isinstance(params, Params)
        return params
    assert kind is ValueError
    assert all(line.startswith(source) and line.isprintable() and len(line) < 800 for line in lines), lines
    return None


def check_values(values):
    """Whatever is accepted is what was written."""
    params = assert_params_or_lines(lambda: check_params(values), "params.yaml")
    if params:
        assert params.seed == values["seed"]
        for name in SECTIONS:
            assert params.section(section_schema(name)).model_dump() == values[name]


def check_file(path, content):
    path.write_bytes(content)
    return assert_params_or_lines(lambda: read_params(path), str(path))


@ODD
@given(content=st.binary(max_size=60) | CHARACTERS.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_file_of_random_bytes_or_text_gives_a_traceback(odd_file, content):
    check_file(odd_file, content)


@ODD
@given(pieces=st.lists(st.sampled_from([*SNIPPETS, "a", "seed", "train"]), max_size=15))
def test_no_file_of_yaml_fragments_gives_a_traceback(odd_file, pieces):
    check_file(odd_file, "".join(pieces).encode())


@ODD
@given(data=st.data())
def test_no_damaged_copy_of_the_real_file_gives_a_traceback(odd_file, data):
    text = TEXT
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6) | st.integers(0, 200))
        text = text[:at] + data.draw(st.sampled_from(["", *SNIPPETS])) + text[at + cut :]
    check_file(odd_file, text.encode())


@ODD
@given(document=STRUCTURES)
def test_no_structure_as_the_document_gives_a_traceback(document):
    check_values(document)


@ODD
@given(section=st.sampled_from(SECTIONS), block=STRUCTURES | st.dictionaries(HASHABLE, STRUCTURES, max_size=6))
def test_no_structure_as_a_section_gives_a_traceback(section, block):
    check_values({**VALUES, section: block})


@settings(ODD, max_examples=250)
@given(key=st.sampled_from(KEYS), value=STRUCTURES)
def test_no_structure_as_a_value_gives_a_traceback_or_is_taken_for_another(key, value):
    values = copy.deepcopy(VALUES)
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value
    check_values(values)


@settings(ODD, max_examples=250)
@given(key=st.sampled_from(KEYS), value=st.integers(-5, 2000) | st.floats(-2, 12) | st.booleans() | st.none())
def test_a_number_is_accepted_exactly_where_the_schema_has_it(key, value):
    section, _, name = key.rpartition(".")
    rule = section_schema(section).model_json_schema()["properties"][name] if section else SEED
    allowed = any(admits(option, value) for option in rule.get("anyOf", [rule]))
    values = copy.deepcopy(VALUES)
    (values[section] if section else values)[name] = value
    try:
        check_params(values)
        refused = ""
    except ValueError as error:
        refused = str(error)
    assert refused.startswith(f"params.yaml: {key} is {str(value).replace('None', 'null').lower()}: use ") == (
        not allowed
    )


def admits(rule, value):
    """JSON Schema's own reading of a rule, with a bool never a number."""
    kinds = {bool: ["boolean"], int: ["integer", "number"], float: ["number"], type(None): ["null"]}
    limits = {
        "minimum": lambda limit: value >= limit, "exclusiveMinimum": lambda limit: value > limit,
        "maximum": lambda limit: value <= limit, "exclusiveMaximum": lambda limit: value < limit,
    }  # fmt: skip
    return rule["type"] in kinds[type(value)] and all(holds(rule[k]) for k, holds in limits.items() if k in rule)


def test_aliases_that_unfold_without_end_are_refused_at_once():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True):
        bomb += f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    lines = complaint(changed(("train.lr", "*k"), text=bomb + TEXT)).splitlines()
    assert "params.yaml: train.lr is a list: use a number above 0, at most 10" in lines
    assert complaint(changed(("train", "&a {lr: *a}"))).startswith("params.yaml: train.epochs is missing")


# The process: `python -m vit_finetune.params` before DVC starts, and the stages themselves.


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True)


def test_the_check_command_is_silent_on_a_good_file():
    Path("params.yaml").write_text(TEXT, encoding="utf-8")
    done = run("vit_finetune.params")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_check_command_prints_the_lines_and_fails_on_a_bad_file():
    Path("params.yaml").write_text(changed(("train.lr", '"\\uD800"'), ("seed", "-1")), encoding="utf-8")
    done = run("vit_finetune.params")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "params.yaml: seed is -1: use a whole number from 0 to 4294967295",
        r"params.yaml: train.lr is '\ud800', which is text: use a number above 0, at most 10",
    ]


def test_a_stage_starts_no_work_on_a_bad_file():
    Path("params.yaml").write_text(changed(("runtime.device", "gpu")), encoding="utf-8")
    done = run("stages.download")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"download: params.yaml: runtime.device is 'gpu': {DEVICE}\n"
    assert {path.name for path in Path().iterdir()} == {"params.yaml", ".run"}  # which holds the lock
