"""params.yaml: what is good is taken as written, what is bad is one line that a person can act
on."""

import sys
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml

from tests.params.edited import TEXT, VALUES, changed, complaint, read, value_of
from tests.project import ROOT
from vit_finetune.core.errors import UserError
from vit_finetune.params import KEYS, SECTIONS, read_params
from vit_finetune.profiles import flatten

sys.path.insert(0, str(ROOT / "tools"))

import reference

INTEGER = "be a valid integer"
NUMBER = "be a valid number"
BLOCKS = "be a valid integer or be 'all'"
SIZES = "or be 'all' or 'auto'"
WORDS = "be 'all', 'norms' or 'biases' or be a valid list"
DEVICE = "be 'auto', 'cpu', 'cuda' or 'mps'"


def at_least(limit):
    return f"be greater than or equal to {limit}"


def at_most(limit):
    return f"be less than or equal to {limit}"


BAD_VALUES = [  # key, what stands after it in the file, how the value is shown, what it should do
    ("seed", "-1", "-1", at_least(0)),
    ("seed", "4294967296", "4294967296", at_most(4294967295)),
    ("seed", "true", "true", INTEGER),
    ("seed", "null", "null", INTEGER),
    ("seed", "'0'", "'0'", INTEGER),
    ("seed", "[0, 1]", "a list", INTEGER),
    ("data.name", "CIFAR10", "'CIFAR10'", "be 'cifar10', 'cifar100', 'digits' or 'folder'"),
    ("data.name", "", "null", "be 'cifar10', 'cifar100', 'digits' or 'folder'"),
    ("data.folder", "''", "''", "have at least 1 character"),
    ("data.image_size", "7", "7", at_least(8)),
    ("data.fit", "stretch", "'stretch'", "be 'crop', 'pad' or 'squash'"),
    ("data.test_share", "0", "0", "be greater than 0"),
    ("data.test_share", "1.0", "1.0", "be less than 1"),
    ("data.test_share", "20%", "'20%'", NUMBER),
    ("data.broken", "true", "true", "be 'error' or 'skip'"),
    ("subset.leaks", "remove", "'remove'", "be 'drop', 'error' or 'keep'"),
    ("subset.train_size", "0", "0", f"{at_least(1)} or be greater than 0 {SIZES}"),
    ("subset.train_size", "5e3", "5000.0", f"{INTEGER} or be less than 1 {SIZES}"),
    ("subset.train_size", "ALL", "'ALL'", f"{INTEGER} or {NUMBER} {SIZES}"),
    ("subset.val_size", "1.0", "1.0", f"{INTEGER} or be less than 1 {SIZES}"),
    ("subset.test_size", "10,000", "'10,000'", f"{INTEGER} or {NUMBER} {SIZES}"),
    ("data.labels", "3", "3", "be a valid string or be null"),
    ("data.group", "''", "''", "have at least 1 character or be null"),
    ("model.name", "16", "16", "be a valid string"),
    (
        "model.name",
        '"\\uD800"',
        r"'\ud800'",
        "be a valid string, unable to parse raw data as a unicode string",
    ),
    ("model.pretrained", "yes", "'yes'", "be a valid boolean"),
    ("model.pretrained", "1", "1", "be a valid boolean"),
    ("model.image_size", "1025", "1025", f"{at_most(1024)} or be null"),
    ("model.image_size", "none", "'none'", f"{INTEGER} or be null"),
    ("model.crop_pct", "1.01", "1.01", f"{at_most(1)} or be null"),
    ("model.precision", "32", "32", "be 'auto', 'float32' or 'bfloat16'"),
    ("adapt.flip", "on", "'on'", "be a valid boolean"),
    ("train.flip", "1", "1", "be a valid boolean"),
    ("embed.storage", "int8", "'int8'", "be 'auto', 'float16', 'bfloat16' or 'float32'"),
    ("embed.batch_size", "4097", "4097", f"{at_most(4096)} or be 'auto'"),
    ("freeze.trainable_blocks", "-1", "-1", f"{at_least(0)} or be 'all'"),
    ("freeze.trainable_blocks", "'2'", "'2'", BLOCKS),
    ("freeze.parameters", "norm", "'norm'", WORDS),
    ("freeze.parameters", "{norms: true}", "a block of keys", WORDS),
    (
        "freeze.parameters",
        "[]",
        "a list",
        "be 'all', 'norms' or 'biases' or have at least 1 item after validation, not 0",
    ),
    ("freeze.parameters[1]", "['*.bias', '', 2]", "''", "have at least 1 character"),
    ("freeze.parameters[0]", "[[norms]]", "a list", "be a valid string"),
    ("adapt.epochs", "-1", "-1", at_least(0)),
    ("adapt.parameters", "none", "'none'", WORDS),
    ("train.epochs", "0", "0", at_least(1)),
    ("train.epochs", "10.0", "10.0", INTEGER),
    ("train.epochs", "9" * 100, "a huge number", at_most(10000)),
    ("train.epochs", "2024-01-31", "2024-01-31", INTEGER),
    ("train.min_steps", "-1", "-1", at_least(0)),
    ("train.batch_size", "65537", "65537", at_most(65536)),
    ("train.shards", "0", "0", f"{at_least(1)} or be 'auto'"),
    ("train.optimizer", "adam", "'adam'", "be 'adamw' or 'sgd'"),
    ("train.optimizer", '"a\\nb\\e[31m"', r"'a\nb\x1b[31m'", "be 'adamw' or 'sgd'"),
    ("train.lr", "-1e-4", "-0.0001", "be greater than 0"),
    ("train.lr", "10.5", "10.5", at_most(10)),
    ("train.lr", "'1e-4'", "'1e-4'", NUMBER),
    ("train.lr", "1e-4x", "'1e-4x'", NUMBER),
    ("train.lr", "true", "true", NUMBER),
    ("train.lr", ".nan", "nan", "be a finite number"),
    ("train.lr", "1e999", "inf", "be a finite number"),
    ("train.lr", "1" + "0" * 400, "a huge number", NUMBER),
    ("train.layer_decay", "0", "0", "be greater than 0"),
    ("train.layer_decay", "1.01", "1.01", at_most(1)),
    ("train.weight_decay", "-.inf", "-inf", "be a finite number"),
    ("train.warmup", "-1", "-1", at_least(0)),
    ("train.label_smoothing", "1", "1", "be less than 1"),
    ("train.class_weights", "[1, 2]", "a list", "be 'none' or 'balanced'"),
    ("train.grad_clip", "0", "0", "be greater than 0 or be null"),
    ("train.token_dropout", "1.0", "1.0", "be less than 1"),
    ("train.brightness", "-0.1", "-0.1", at_least(0)),
    ("train.crop_scale", "0", "0", "be greater than 0"),
    ("train.randaugment", "31", "31", at_most(30)),
    ("train.mixup", "-1", "-1", at_least(0)),
    ("train.head_init", "random", "'random'", "be 'probe' or 'zeros'"),
    ("train.probe_c", "best", "'best'", "be a valid number or be 'auto'"),
    ("train.grad_clip", "0", "0", "be greater than 0 or be null"),
    ("review.wrong_labels", "0", "0", "be greater than 0"),
    ("review.copies", "1.5", "1.5", at_most(1)),
    ("evaluate.calibration_bins", "0", "0", at_least(1)),
    ("evaluate.mistakes", "101", "101", at_most(100)),
    ("attention.gallery", "1", "1", at_least(2)),
    ("attention.sample", "all", "'all'", INTEGER),
    ("attention.fusion", "min", "'min'", "be 'mean' or 'max'"),
    ("attention.discard_ratio", "1", "1", "be less than 1"),
    ("attention.batch_size", "0", "0", at_least(1)),
    ("report.title", "''", "''", "have at least 1 character or be null"),
    ("report.author", "3", "3", "be a valid string or be null"),
    ("runtime.device", "cuda:0", "'cuda:0'", DEVICE),
    ("runtime.threads", "auto", "'auto'", f"{INTEGER} or be null"),
    ("runtime.processes", "0", "0", at_least(1)),
    ("seed", "null", "null", INTEGER),
]
for key, *rest in list(BAD_VALUES):
    if key.startswith("train.") and key != "train.epochs":
        BAD_VALUES.append((key.replace("train", "adapt"), *rest))  # the same settings


@pytest.mark.parametrize(("key", "text", "shown", "wish"), BAD_VALUES)
def test_a_bad_value_is_one_line_with_the_key_the_value_and_what_it_should_be(
    key, text, shown, wish
):
    line = complaint(changed((key.partition("[")[0], text)))
    assert line == f"params.yaml: {key} is {shown}: it should {wish}"


def test_every_key_has_a_bad_value_in_the_table():
    assert {key.partition("[")[0] for key, *_ in BAD_VALUES} == set(KEYS)


DATA = "name, folder, image_size, fit, test_share, broken, labels, group"
FREEZE = "trainable_blocks, parameters"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("seed", "0\nsede: 1"), "sede is not a known key; did you mean seed?"),
        (("seed", "0\nevaluation: {}"), "evaluation is not a known key; did you mean evaluate?"),
        (("seed", "0\nTRAIN: {}"), "TRAIN is not a known key; did you mean train?"),
        (
            ("seed", "0\n? [1]\n: 1"),
            f"a list is not a known key; known: seed, {', '.join(SECTIONS)}",
        ),
        (
            ("train.epochs", "10\n  Batchsize: 1"),
            "train.Batchsize is not a known key; did you mean train.batch_size?",
        ),
        (("data.name", "digits\n  1: 2"), f"data.1 is not a known key; known: {DATA}"),
        (
            ("data.name", 'digits\n  "a\\nb\\uD800": 2'),
            rf"data.'a\nb\ud800' is not a known key; known: {DATA}",
        ),
        (
            ("data.name", f"digits\n  {'long' * 30}: 2"),
            f"data.'{'long' * 30}' is not a known key; known: {DATA}",
        ),
        (("seed", None), "seed is missing; it is: where all random numbers start from"),
        (("train.lr", None), "train.lr is missing; it is: peak learning rate"),
        (("freeze", None), f"freeze is missing: it must hold {FREEZE}"),
        (("freeze", ""), f"freeze is null: it must hold {FREEZE}"),
        (("freeze", "[trainable_blocks]"), f"freeze is a list: it must hold {FREEZE}"),
        (("embed", "yes"), "embed is 'yes': it must hold storage, batch_size"),
    ],
)
def test_an_unknown_or_missing_key_is_one_line_that_says_what_is_meant(edit, message):
    assert complaint(changed(("subset.test_size", "all"), edit)) == f"params.yaml: {message}"


def test_a_very_long_value_is_cut():
    line = complaint(changed(("train.optimizer", "x" * 10_000)))
    assert line.startswith("params.yaml: train.optimizer is 'xxx")
    assert line.endswith("...: it should be 'adamw' or 'sgd'")
    assert len(line) < 300


def test_all_problems_are_told_at_once_one_line_each():
    text = changed(
        ("seed", "-1"),
        ("data.name", "mnist"),
        ("train.lr", None),
        ("train.epochs", "no\n  xyz: 1"),
    )
    assert complaint(text).splitlines() == [
        f"params.yaml: train.xyz is not a known key; known: {', '.join(VALUES['train'])}",
        "params.yaml: train.lr is missing; it is: peak learning rate",
        "params.yaml: seed is -1: it should be greater than or equal to 0",
        "params.yaml: data.name is 'mnist': it should be 'cifar10', 'cifar100', 'digits' or "
        "'folder'",
        "params.yaml: train.epochs is 'no': it should be a valid integer",
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
            ' is not valid YAML: line 4, column 3: found duplicate key "lr" with value "2" '
            '(original value: "1")',
        ),
        (
            "seed: 0\ntrain:\n\tlr: 2\n",
            r" is not valid YAML: line 3, column 1: found character '\t' that cannot start any "
            "token; indent with spaces, not tabs",
        ),
        (
            "seed: 0\n---\nseed: 1\n",
            " is not valid YAML: line 2, column 1: but found another document",
        ),
        (
            "train: {lr: 1\nseed: 0\n",
            " is not valid YAML: line 2, column 5: expected ',' or '}', but got ':'",
        ),
        ("seed: *other\n", " is not valid YAML: line 1, column 7: found undefined alias 'other'"),
        (
            changed(("train.lr", "2024-13-45")),
            " is not valid YAML: ValueError: month must be in 1..12",
        ),
        (changed(("train.lr", "!!bool maybe")), " is not valid YAML: KeyError: 'maybe'"),
        (
            changed(("train.lr", "!!float ''")),
            " is not valid YAML: IndexError: string index out of range",
        ),
        ("[" * 1000, " is not valid YAML: RecursionError: maximum recursion depth exceeded"),
        (
            "seed: 0\nname: caf\xe9\n".encode("latin-1"),
            " is not UTF-8 text from byte 17 on; save it as UTF-8",
        ),
        (TEXT.encode("utf-16"), " is not UTF-8 text from byte 0 on; save it as UTF-8"),
    ],
)
def test_a_file_that_is_not_yaml_is_one_line_that_says_where(text, message):
    assert complaint(text) == f"params.yaml{message}"


def test_a_python_object_in_the_file_is_refused_and_not_built():
    line = complaint(changed(("train.lr", "!!python/object/apply:os.mkdir [built]")))
    assert "could not determine a constructor for the tag" in line
    assert not Path("built").exists()


def test_a_missing_file_says_where_to_run():
    with pytest.raises(
        UserError, match=r"^params\.yaml is not here; run from the root of the project$"
    ):
        read_params()


def test_a_folder_in_place_of_the_file_is_one_line():
    Path("params.yaml").mkdir()
    with pytest.raises(UserError, match=r"^params\.yaml cannot be read: Is a directory$"):
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
        ("train.warmup", "0", 0.0),
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
        ("train.layer_decay", "1", 1.0),
        ("train.class_weights", "none", "none"),
        ("data.test_share", ".2", 0.2),
        ("subset.train_size", "all", "all"),
        ("seed", "0x10", 16),
        ("seed", "4294967295", 4294967295),
    ],
)
def test_a_value_is_read_as_a_person_means_it_and_as_dvc_reads_it(key, text, value):
    found = value_of(read(changed((key, text))), key)
    assert (found, type(found)) == (value, type(value))
    section, _, name = key.rpartition(".")
    by_dvc = load_yaml("params.yaml")
    assert (by_dvc[section] if section else by_dvc)[name] == value


@pytest.mark.parametrize(
    "text", ["\ufeff" + TEXT, TEXT.replace("\n", "\r\n"), "---\n" + TEXT, TEXT + "...\n"]
)
def test_a_byte_order_mark_other_line_ends_and_document_marks_change_nothing(text):
    assert value_of(read(text), "train.lr") == VALUES["train"]["lr"]


def test_every_key_is_described_and_every_section_too():
    assert [key for key, field in KEYS.items() if not field.description] == []
    assert [name for name, schema in SECTIONS.items() if not schema.__doc__] == []


def test_params_yaml_is_the_schema_with_its_defaults_in_the_form_that_dvc_writes():
    assert reference.shipped_params() == TEXT, "run: python tools/reference.py"
    assert set(KEYS) == set(flatten(VALUES))


def test_parameters_cannot_be_changed_after_reading():
    params = read(TEXT)
    with pytest.raises(ValueError, match="frozen"):
        params.runtime.threads = 4


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=7", 7),
        ("train.lr=0.0123", 0.0123),
        ("train.lr=3e-5", 0.00003),
        ("train.lr=1", 1.0),
        ("train.min_steps=5", 5),
        ("train.grad_clip=null", None),
        ("train.optimizer=sgd", "sgd"),
        ("subset.train_size=all", "all"),
        ("freeze.trainable_blocks=all", "all"),
        ("freeze.parameters=norms", "norms"),
        ("train.layer_decay=0.75", 0.75),
        ("train.class_weights=balanced", "balanced"),
        ("data.name=folder", "folder"),
        ("data.test_share=0.1", 0.1),
        ("adapt.flip=false", False),
        ("model.name=local-dir:pretrained/mine", "local-dir:pretrained/mine"),
        ("runtime.threads=2", 2),
    ],
)
def test_dvc_exp_run_with_an_override_changes_the_line_of_its_key_only(override, value):
    Path("params.yaml").write_text(TEXT, encoding="utf-8")
    apply_overrides("params.yaml", [override])  # what `dvc exp run -S` calls
    after = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    key = override.split("=")[0]
    differing = [new for old, new in zip(TEXT.splitlines(), after, strict=True) if old != new]
    assert [line.split(":")[0].strip() for line in differing] == [key.split(".")[-1]]
    assert value_of(read_params(), key) == value
