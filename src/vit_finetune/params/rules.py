"""Rules between the sections of params.yaml. What only the built model can tell, `embed` checks."""

from vit_finetune.params.attention import Attention
from vit_finetune.params.base import Section
from vit_finetune.params.data import Data
from vit_finetune.params.subset import Subset
from vit_finetune.params.train import Train

DATASET_SIZES = {"cifar10": (50_000, 10_000, 10), "digits": (901, 896, 10)}  # training part, test part, classes


def broken(sections: dict[str, Section]) -> list[str]:
    """One sentence for each rule that does not hold."""
    data, subset, train, attention = (sections[name] for name in ("data", "subset", "train", "attention"))
    assert isinstance(data, Data)
    assert isinstance(subset, Subset)
    assert isinstance(train, Train)
    assert isinstance(attention, Attention)
    problems = []
    pool, test_pool, classes = DATASET_SIZES[data.name]
    for key, size in (
        ("train_size", subset.train_size),
        ("val_size", subset.val_size),
        ("test_size", subset.test_size),
    ):
        if size != "all" and size < classes:
            problems.append(f"subset.{key} is {size}: {data.name} has {classes} classes, so use at least {classes}")
    wanted = subset.val_size + (classes if subset.train_size == "all" else subset.train_size)
    if wanted > pool:
        problems.append(
            f"subset.train_size is {subset.train_size} and subset.val_size is {subset.val_size}: "
            f"together they may be at most the {pool} training images of {data.name}"
        )
    if subset.test_size != "all" and subset.test_size > test_pool:
        problems.append(f"subset.test_size is {subset.test_size}: {data.name} has {test_pool} test images; use `all`")
    tests = test_pool if subset.test_size == "all" else subset.test_size
    for key, count in (("gallery", attention.gallery), ("sample", attention.sample)):
        if count > tests:
            problems.append(f"attention.{key} is {count}: there are {tests} test images (subset.test_size)")
    if train.warmup_epochs > train.epochs:
        problems.append(
            f"train.warmup_epochs is {train.warmup_epochs}: train.epochs is {train.epochs}, use at most that"
        )
    return problems
