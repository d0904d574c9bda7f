"""Rules between the sections of params.yaml. What only the built model can tell, `adapt` checks."""

from vit_finetune.params.adapt import Adapt
from vit_finetune.params.attention import Attention
from vit_finetune.params.base import Section
from vit_finetune.params.data import Data
from vit_finetune.params.freeze import Freeze
from vit_finetune.params.model import Model
from vit_finetune.params.runtime import Runtime
from vit_finetune.params.subset import Subset
from vit_finetune.params.train import Train

DATASET_SIZES = {  # training part, test part, classes; those of a folder only `download` can tell
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "digits": (901, 896, 10),
}


def broken(sections: dict[str, Section]) -> list[str]:
    """One sentence for each rule that does not hold."""
    names = ("data", "subset", "model", "adapt", "freeze", "train", "attention", "runtime")
    data, subset, model, adapt, freeze, train, attention, runtime = (
        sections[name] for name in names
    )
    assert isinstance(data, Data)
    assert isinstance(subset, Subset)
    assert isinstance(model, Model)
    assert isinstance(adapt, Adapt)
    assert isinstance(freeze, Freeze)
    assert isinstance(train, Train)
    assert isinstance(attention, Attention)
    assert isinstance(runtime, Runtime)
    rules = (
        (
            model.name.startswith("local-dir:")
            and not model.name.startswith("local-dir:pretrained/"),
            f"model.name is {model.name!r}: only below pretrained/ does a changed file rerun what it should; copy the "
            "folder there and use local-dir:pretrained/<folder>",
        ),
        *(
            rule
            for name, section in (("adapt", adapt), ("train", train))
            for rule in (
                (
                    section.shards > section.batch_size,
                    f"{name}.shards is {section.shards}: a batch has {section.batch_size} images, use at most that",
                ),
                (
                    section.shards % runtime.processes > 0,
                    f"runtime.processes is {runtime.processes}: it must divide {name}.shards ({section.shards}), whose "
                    "parts of a batch the processes share",
                ),
            )
        ),
        (
            freeze.trainable_blocks == 0 and freeze.parameters != "all",
            "freeze.parameters must be all where freeze.trainable_blocks is 0, which leaves the head alone",
        ),
    )
    sizes = _sizes(data, subset, attention) if data.name in DATASET_SIZES else []
    return sizes + [sentence for is_broken, sentence in rules if is_broken]


def _sizes(data: Data, subset: Subset, attention: Attention) -> list[str]:
    problems = []
    pool, test_pool, classes = DATASET_SIZES[data.name]
    if subset.val_size == "all":
        return [
            f"subset.val_size is all: {data.name} has no validation images of its own, use a number"
        ]
    for key, size in (
        ("train_size", subset.train_size),
        ("val_size", subset.val_size),
        ("test_size", subset.test_size),
    ):
        if size != "all" and size < classes:
            problems.append(
                f"subset.{key} is {size}: {data.name} has {classes} classes, so use at least {classes}"
            )
    wanted = subset.val_size + (classes if subset.train_size == "all" else subset.train_size)
    if wanted > pool:
        problems.append(
            f"subset.train_size is {subset.train_size} and subset.val_size is {subset.val_size}: "
            f"together they may be at most the {pool} training images of {data.name}"
        )
    if subset.test_size != "all" and subset.test_size > test_pool:
        problems.append(
            f"subset.test_size is {subset.test_size}: {data.name} has {test_pool} test images; use `all`"
        )
    tests = test_pool if subset.test_size == "all" else subset.test_size
    for key, count in (("gallery", attention.gallery), ("sample", attention.sample)):
        if count > tests:
            problems.append(
                f"attention.{key} is {count}: there are {tests} test images (subset.test_size)"
            )
    return problems
