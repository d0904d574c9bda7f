"""The summary says when its numbers are of an earlier run."""

import pytest

from vit_finetune.summary import outdated

PARAMS = [{"changed deps": {"params.yaml": {"train.lr": "modified"}}}]
CODE = [{"changed deps": {"src/vit_finetune/training": "modified"}}]
MISSING = [
    {"changed deps": {"data/raw": "deleted"}},
    {"changed outs": {"data/subset": "deleted", "plots/a.png": "not in cache"}},
]


@pytest.mark.parametrize(
    ("status", "stages"),
    [
        ({}, []),
        ({"train": PARAMS, "evaluate": CODE}, ["train", "evaluate"]),
        ({"download": [{"changed deps": {"data/images": "new"}}]}, ["download"]),
        ({"subset": MISSING}, []),  # a clone without the data
        ({"subset": [*MISSING, *PARAMS]}, ["subset"]),
        ({"report": ["always changed"]}, []),
    ],
)
def test_stages_with_something_changed_since_their_run_are_named_and_missing_files_do_not_count(
    status, stages
):
    assert outdated(status) == stages
