"""params.yaml: what is good is taken as written, what is bad is one line that a person can act
on."""

from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml, modify_yaml

from tests.params.edited import KEYS, TEXT, VALUES, changed, complaint, read, value_of
from vit_finetune.core.errors import UserError
from vit_finetune.params import SECTIONS, SEED, read_params, section_schema

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
    ("data.folder", "3", "3", "use text that is not empty"),
    ("data.folder", "''", "''", "use text that is not empty"),
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
    ("subset.leaks", "remove", "'remove'", "use `drop`, `error` or `keep`"),
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
    ("adapt.epochs", "-1", "-1", f"{WHOLE} from 0 to 10000"),
    ("adapt.min_steps", "1.5", "1.5", f"{WHOLE} from 0 to 1000000"),
    ("adapt.batch_size", "0", "0", f"{WHOLE} from 1 to 65536"),
    ("adapt.parameters", "none", "'none', which is text", PATTERNS),
    ("adapt.shards", "0", "0", f"{WHOLE} from 1 to 1024"),
    ("adapt.lr", "0", "0", RATE),
    ("adapt.layer_decay", "1.01", "1.01", FACTOR),
    ("adapt.token_dropout", "1", "1", SHARE),
    ("train.min_steps", "-1", "-1", f"{WHOLE} from 0 to 1000000"),
    ("train.warmup", "-1", "-1", SHARE),
    ("train.warmup", "1", "1", SHARE),
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
    ("train.probe_c", "0.0", "0.0", "use a number above 0, or `auto`"),
    ("train.probe_c", "1e999", ".inf", "use a number above 0, or `auto`"),
    ("train.probe_c", "best", "'best', which is text", "use a number above 0, or `auto`"),
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
def test_a_bad_value_is_one_line_with_the_key_the_value_and_what_is_allowed(
    key, text, found, allowed
):
    assert complaint(changed((key, text))) == f"params.yaml: {key} is {found}: {allowed}"


def test_every_key_has_a_bad_value_in_the_table():
    assert {key for key, *_ in BAD_VALUES} == set(KEYS)


DATA, FREEZE = (
    "name, folder, image_size, fit, test_share, broken",
    "trainable_blocks, parameters, layer_decay",
)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("seed", "0\nsede: 1"), "sede is not a known key; did you mean seed?"),
        (("seed", "0\nevaluation: {}"), "evaluation is not a known key; did you mean evaluate?"),
        (("seed", "0\nTRAIN: {}"), "TRAIN is not a known key; did you mean train?"),
        (("seed", "0\nxyz: 1"), f"xyz is not a known key; known: seed, {', '.join(SECTIONS)}"),
        (
            ("seed", "0\n? [1]\n: 1"),
            f"a list is not a known key; known: seed, {', '.join(SECTIONS)}",
        ),
        (("train.lr", "1\n  Lr: 1"), "train.Lr is not a known key; did you mean train.lr?"),
        (
            ("train.epochs", "10\n  epoch: 1"),
            "train.epoch is not a known key; did you mean train.epochs?",
        ),
        (
            ("train.epochs", "10\n  batchsize: 1"),
            "train.batchsize is not a known key; did you mean train.batch_size?",
        ),
        (("data.name", "digits\n  1: 2"), f"data.1 is not a known key; known: {DATA}"),
        (("data.name", "digits\n  null: 2"), f"data.null is not a known key; known: {DATA}"),
        (
            ("data.name", 'digits\n  "a\\nb\\uD800": 2'),
            rf"data.'a\nb\ud800' is not a known key; known: {DATA}",
        ),
        (
            ("data.name", f"digits\n  {'long' * 30}: 2"),
            f"data.'{'long' * 30}' is not a known key; known: {DATA}",
        ),
        (("seed", None), f"seed is missing; it is: {SEED['description']}"),
        (("train.lr", None), "train.lr is missing; it is: peak learning rate"),
        (("freeze", None), f"freeze is missing: it must hold {FREEZE}"),
        (("freeze", ""), f"freeze is null: it must hold {FREEZE}"),
        (("freeze", "2"), f"freeze is 2: it must hold {FREEZE}"),
        (("freeze", "[trainable_blocks]"), f"freeze is a list: it must hold {FREEZE}"),
        (("embed", "yes"), "embed is 'yes': it must hold flip, storage, batch_size"),
        (("model.name", '"\\uD800"'), r"model.name is '\ud800': use text that is not empty"),
        (
            ("train.optimizer", '"a\\nb\\e[31m"'),
            r"train.optimizer is 'a\nb\x1b[31m': use `adamw` or `sgd`",
        ),
    ],
)
def test_an_unknown_or_missing_key_is_one_line_that_says_what_is_meant(edit, message):
    assert complaint(changed(("subset.test_size", "all"), edit)) == f"params.yaml: {message}"


def test_a_very_long_value_is_cut():
    line = complaint(changed(("train.optimizer", "x" * 10_000)))
    assert line.startswith("params.yaml: train.optimizer is 'xxx")
    assert line.endswith("...: use `adamw` or `sgd`")
    assert len(line) < 300


def test_all_problems_are_told_at_once_one_line_each():
    text = changed(
        ("seed", "-1"),
        ("data.name", "mnist"),
        ("train.lr", None),
        ("train.epochs", "no\n  decay: 1"),
    )
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
        ("freeze.layer_decay", "1", 1.0),
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
def test_dvc_exp_run_with_an_override_changes_the_line_of_its_key_only(override, value):
    Path("params.yaml").write_text(TEXT, encoding="utf-8")
    apply_overrides("params.yaml", [override])  # what `dvc exp run -S` calls
    after = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    key = override.split("=")[0]
    differing = [new for old, new in zip(TEXT.splitlines(), after, strict=True) if old != new]
    assert [line.split(":")[0].strip() for line in differing] == [key.split(".")[-1]]
    assert value_of(read_params(), key) == value


def test_dvc_exp_run_with_yes_is_refused_because_yaml_reads_a_word():
    Path("params.yaml").write_text(TEXT, encoding="utf-8")
    apply_overrides("params.yaml", ["embed.flip=yes"])
    with pytest.raises(
        UserError,
        match=r"^params\.yaml: embed\.flip is 'yes', which is text: use `true` or `false`$",
    ):
        read_params()
