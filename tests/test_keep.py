"""A trained model is kept whole, under a name of its own, or not at all."""

import filecmp
import stat
from pathlib import Path

import pytest

from tests.project import ROOT
from vit_finetune.core.errors import UserError
from vit_finetune.keep import keep, make_parser
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import save_model

FILES = ["README.md", "config.json", "model.safetensors", "validation.csv"]


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def trained(tiny_vit, tmp_path, monkeypatch):
    """The folder of a trained model in a project, read-only as DVC leaves it."""
    monkeypatch.chdir(tmp_path)
    Path("pretrained").mkdir()
    folder = Path("models/finetuned")
    seen = {
        "classes": ["cat", "dog", "owl"],
        "image_shape": [8, 8, 3],
        "fit": "crop",
        "reading": {},
    }
    save_model(tiny_vit, folder, preprocessing(tiny_vit, None), seen)
    for name in ("README.md", "validation.csv"):
        (folder / name).write_text("text")
    for file in folder.iterdir():
        file.chmod(0o444)
    return folder


def test_every_file_is_copied_and_may_be_written(trained):
    says = keep(trained, "birds-2")
    target = Path("pretrained/birds-2")
    assert names_in(target) == FILES
    assert filecmp.cmpfiles(trained, target, FILES, shallow=False)[0] == FILES
    assert all(file.stat().st_mode & stat.S_IWUSR for file in target.iterdir())
    assert "3 classes" in says
    assert "model.name: local-dir:pretrained/birds-2" in says
    assert "dvc add pretrained/birds-2 && git add pretrained/birds-2.dvc" in says


def test_a_name_that_is_taken_stays_as_it_is(trained):
    keep(trained, "birds")
    (trained / "README.md").unlink()
    with pytest.raises(UserError, match="pretrained/birds exists; choose another name, or delete"):
        keep(trained, "birds")
    assert names_in("pretrained/birds") == FILES


def test_without_a_trained_model_or_outside_of_a_project_nothing_is_written(trained):
    with pytest.raises(UserError, match="pretrained does not hold a trained model; run dvc repro"):
        keep(Path("pretrained"), "birds")
    assert names_in("pretrained") == []
    Path("pretrained").rmdir()
    with pytest.raises(UserError, match="no folder pretrained here; type it in the root of the "):
        keep(trained, "birds")
    assert names_in(".") == ["models"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/tmp/x", ".hidden", "a b", "-x", "é", "a."]
)
def test_a_name_that_is_no_plain_name_is_refused(name, capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--", name])
    assert "is not a name of letters, digits, - and _" in capsys.readouterr().err


def test_git_ignores_what_is_kept_until_dvc_tracks_it():
    assert "/*/" in (ROOT / "pretrained/.gitignore").read_text().splitlines()
