"""The summary says when its numbers are of an earlier run, and shows none that it cannot place."""

import shutil

import pytest

from vit_finetune.summary import notes_on, outdated

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


def test_notes_name_what_changed_and_what_is_missing():
    assert notes_on({}) == []
    assert notes_on({"train": PARAMS}) == [
        "These numbers are of an earlier run: train changed since. Run dvc repro."
    ]
    assert notes_on({"subset": [*MISSING, *PARAMS], "report": ["always changed"]}) == [
        "These numbers are of an earlier run: subset changed since. Run dvc repro.",
        "The outputs of subset are not here, as in a clone or after a failed run. Run dvc repro.",
    ]


def summary(project):
    script = "import runpy, sys; sys.path.insert(0, 'src'); " \
             "runpy.run_module('vit_finetune.summary', run_name='__main__')"  # fmt: skip
    return project.run("python", "-c", script)


@pytest.fixture
def project(finished, tmp_path):
    return finished.copy(tmp_path / "p")


@pytest.mark.slow
def test_what_does_not_hold_for_the_numbers_stands_before_them(project):
    project.set(**{"train.lr": 0.002})
    shutil.rmtree(project.folder / "models/finetuned")
    done = summary(project)
    assert done.returncode == 0, done.stderr
    first, second, _, number, *_ = done.stdout.splitlines()
    assert first.startswith("These numbers are of an earlier run: train")
    assert second.startswith("The outputs of train are not here")
    assert number.startswith("test accuracy")


def conflict(project):
    lock = project.folder / "dvc.lock"
    lock.write_text(lock.read_text().replace("  train:", "<<<<<<< HEAD\n  train:"))


def unknown_key(project):
    with (project.folder / "params.yaml").open("a") as file:
        file.write("trian:\n  lr: 0.001\n")  # as `dvc exp run -S +trian.lr=0.001` does


def no_project(project):
    shutil.rmtree(project.folder / ".dvc")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            conflict,
            "DVC cannot tell which run they are of: './dvc.lock' is invalid (possible merge",
        ),
        (unknown_key, "params.yaml: trian is not a known key; did you mean train?"),
        (no_project, "DVC cannot tell which run they are of: you are not inside of a DVC reposit"),
    ],
)
def test_numbers_of_which_nobody_can_say_what_they_are_of_are_not_shown(project, spoil, message):
    spoil(project)
    done = summary(project)
    assert done.returncode == 1
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
