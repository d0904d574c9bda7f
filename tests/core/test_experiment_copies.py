"""A run in DVC's copy of the project must not go on with fewer files than the project has."""

from pathlib import Path

import pytest

from vit_finetune.core.errors import UserError
from vit_finetune.core.experiment_copies import origin, require_whole


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The work folder is DVC's copy of a project with four classes of images."""
    folder = tmp_path / "p" / ".dvc/tmp/exps/tmpa1"
    for project in (tmp_path / "p", folder):
        for name in ("bird", "cat", "dog", "emu"):
            (project / "data/images" / name).mkdir(parents=True)
            (project / "data/images" / name / "1.png").touch()
    monkeypatch.chdir(folder)
    return folder


def test_the_origin_of_a_copy_is_the_project_around_it(tmp_path):
    assert origin(tmp_path / "p/.dvc/tmp/exps/standalone/tmpb") == tmp_path / "p"
    assert origin(tmp_path / "p") is None
    assert origin(Path("/x/.dvc/tmp/exps/t/.dvc/tmp/exps/u")) == Path("/x/.dvc/tmp/exps/t")


def test_a_whole_copy_is_accepted_whatever_hidden_files_differ(copy, tmp_path):
    (tmp_path / "p/data/images/cat/.DS_Store").touch()
    (tmp_path / "p/data/images/.cache").mkdir()
    (tmp_path / "p/data/images/.cache/x").touch()
    (tmp_path / "p/data/images/cat.dvc").touch()
    require_whole("data/images")


def test_a_copy_that_lacks_a_class_is_refused_in_one_line_that_says_what_to_do(copy):
    (copy / "data/images/dog/1.png").unlink()
    with pytest.raises(
        UserError,
        match=r"^1 files of data/images are not in the copy .*dog/1\.png: .*dvc add.*git add",
    ):
        require_whole("data/images")


def test_outside_of_a_copy_nothing_is_compared(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "p")
    (tmp_path / "p/data/images/dog/1.png").unlink()
    require_whole("data/images")
