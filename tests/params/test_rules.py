"""Rules between the sections of params.yaml: each broken one is a line that names the keys."""

import os
from pathlib import Path
from typing import get_args

import pytest

from tests.params.edited import changed, complaint, read, value_of
from tests.project import ROOT
from vit_finetune.data.sources import open_source
from vit_finetune.params import DATASET_SIZES, Data, read_params

CIFAR, CIFAR_100, DIGITS, FOLDER = (
    ("data.name", name) for name in ("cifar10", "cifar100", "digits", "folder")
)


def sizes(train, val, test, gallery=2, sample=8):
    subset = [("subset.train_size", train), ("subset.val_size", val), ("subset.test_size", test)]
    return [*subset, ("attention.gallery", gallery), ("attention.sample", sample)]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            [("adapt.shards", 3), ("train.shards", 4), ("runtime.processes", 3)],
            "runtime.processes is 3: it must divide train.shards (4), whose parts of a batch the "
            "processes share",
        ),
        (
            [("train.shards", 3), ("runtime.processes", 3)],
            "runtime.processes is 3: it must divide adapt.shards (4), whose parts of a batch the "
            "processes share",
        ),
        (
            [("runtime.device", "cuda"), ("train.shards", 2), ("runtime.processes", 2)],
            "runtime.processes is 2: it must divide adapt.shards (1), whose parts of a batch the "
            "processes share",
        ),
        (
            [("model.name", "local-dir:/elsewhere/vit")],
            "model.name is 'local-dir:/elsewhere/vit': only below pretrained/ does a changed file "
            "rerun what it should; copy the folder there and use local-dir:pretrained/<folder>",
        ),
        (
            [CIFAR, *sizes(9, 10, 10)],
            "subset.train_size is 9: cifar10 has 10 classes, so use at least 10",
        ),
        (
            [CIFAR, *sizes("all", 9, 10)],
            "subset.val_size is 9: cifar10 has 10 classes, so use at least 10",
        ),
        (
            [CIFAR_100, *sizes(99, 100, 100)],
            "subset.train_size is 99: cifar100 has 100 classes, so use at least 100",
        ),
        (
            [DIGITS, *sizes(10, 10, 9)],
            "subset.test_size is 9: digits has 10 classes, so use at least 10",
        ),
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
        (
            [CIFAR, *sizes(10, 10, 10_001)],
            "subset.test_size is 10001: cifar10 has 10000 test images; use `all`",
        ),
        (
            [DIGITS, *sizes(10, 10, 897)],
            "subset.test_size is 897: digits has 896 test images; use `all`",
        ),
        *(
            (
                [("data.labels", name)],
                f"data.labels is '{name}': it must be a file in data.folder, whose changes DVC "
                "follows",
            )
            for name in ("/tmp/labels.csv", "../labels.csv")
        ),
        (
            [("data.group", "subject(")],
            "data.group is 'subject(', which is no regular expression: missing ), unterminated "
            "subpattern at position 7",
        ),
        *(
            (
                [edit, *sizes(10, "all", 10)],
                f"subset.val_size is all: {edit[1]} has no validation images of its own, "
                "use a number",
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
        *(
            (
                [*edit, (f"{section}.batch_size", 3), (f"{section}.shards", 4)],
                f"{section}.shards is 4: a batch has 3 images, use at most that",
            )
            for section in ("adapt", "train")
            for edit in ([], [FOLDER])
        ),
        (
            [("runtime.processes", 2), ("adapt.shards", 3)],
            "runtime.processes is 2: it must divide adapt.shards (3), whose parts of a batch the "
            "processes share",
        ),
        *(
            (
                [("freeze.trainable_blocks", 0), ("freeze.parameters", parameters)],
                "freeze.parameters must be all where freeze.trainable_blocks is 0, which leaves "
                "the head alone",
            )
            for parameters in ("norms", "biases", ["*.bias"])
        ),
        (
            [("freeze.trainable_blocks", 0), ("train.head_init", "zeros")],
            "train.head_init is zeros: it must be probe where freeze.trainable_blocks is 0, where "
            "no epochs are run",
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
        [("adapt.batch_size", 4), ("adapt.shards", 4), ("runtime.processes", 4)],
        [("adapt.batch_size", 3), ("runtime.processes", 4)],
        [("freeze.trainable_blocks", 0), ("freeze.parameters", "all")],
        [("freeze.trainable_blocks", 1), ("freeze.parameters", "norms")],
        [("freeze.trainable_blocks", "all"), ("freeze.parameters", ["*.bias"])],
        [CIFAR, *sizes(0.5, 0.01, 0.001)],
        [CIFAR, *sizes("auto", "auto", "auto")],
        [DIGITS, *sizes(801, "auto", 0.5)],
        [("data.group", "folder")],
        [("data.group", r"subject(\d+)")],
        [("train.layer_decay", 1.0), ("data.image_size", 8), ("data.test_share", 0.999)],
    ],
)
def test_values_at_the_limit_of_a_rule_are_allowed(edits):
    params = read(changed(*edits))
    for key, value in edits:
        assert value_of(params, key) == value


@pytest.mark.parametrize(
    "subset",
    [
        sizes(1, 1, 1, gallery=64, sample=10_000),
        sizes(10**9, 10**9, 10**9),
        sizes("all", "all", "all"),
    ],
)
def test_the_sizes_of_a_folder_are_left_to_the_stage_that_counts_its_images(subset):
    params = read(changed(FOLDER, *subset))
    for key, value in [FOLDER, *subset]:
        assert value_of(params, key) == value


def original(name, folder):
    """A data set that is only there where VIT_DATA_DIR names its files."""
    there = any(Path(os.environ.get("VIT_DATA_DIR") or os.devnull).glob(f"{folder}*"))
    reason = f"needs the original files of {name}: set VIT_DATA_DIR"
    return pytest.param(
        name, marks=[pytest.mark.slow, pytest.mark.skipif(not there, reason=reason)]
    )


@pytest.mark.parametrize(
    "name", ["digits", original("cifar10", "cifar-10-"), original("cifar100", "cifar-100-")]
)
def test_the_rules_know_the_true_size_of_each_data_set(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    source = open_source(read_params().data.model_copy(update={"name": name}), 1)
    assert DATASET_SIZES[name] == (
        len(source.files["train"]),
        len(source.files["test"]),
        len(source.classes),
    )


def test_the_rules_know_the_sizes_of_every_data_set_but_the_users_own():
    assert get_args(Data.model_fields["name"].annotation) == (*DATASET_SIZES, "folder")
