"""The key of a checkpoint: the same for the same inputs, code and libraries, and another one
otherwise."""

import importlib.util
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.project import ROOT
from vit_finetune.core import versions
from vit_finetune.core.checkpoints import (
    CHECKPOINTS,
    checkpoint_folder,
    forget_checkpoints,
)
from vit_finetune.core.versions import LIBRARIES

INPUTS = (0, {"lr": 0.1, "epochs": 2}, "digest")


def import_module(monkeypatch, name, file):
    """Make a file an imported module, without running it."""
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, file))
    monkeypatch.setitem(sys.modules, name, module)


def test_the_folder_is_that_of_the_stage_and_of_16_characters():
    folder = checkpoint_folder("train", *INPUTS)
    assert folder.parent == CHECKPOINTS / "train"
    assert len(folder.name) == 16
    assert checkpoint_folder("train", *INPUTS) == folder


@pytest.mark.parametrize(
    "others",
    [
        (1, *INPUTS[1:]),
        (0, {"lr": 0.2, "epochs": 2}, "digest"),
        (0, {"lr": 0.1}, "digest"),
        (*INPUTS[:2], "other"),
        INPUTS[:2],
    ],
)
def test_another_input_gives_another_key(others):
    assert checkpoint_folder("train", *others) != checkpoint_folder("train", *INPUTS)


@pytest.mark.parametrize("name", ["vit_finetune.training.extra", "stages.extra"])
def test_a_change_in_an_imported_module_of_the_project_gives_another_key(
    tmp_path, monkeypatch, name
):
    source = tmp_path / "extra.py"
    keys = {checkpoint_folder("train", *INPUTS)}
    for text in ("x = 1\n", "x = 2\n"):
        source.write_text(text)
        import_module(monkeypatch, name, source)
        keys.add(checkpoint_folder("train", *INPUTS))
    assert len(keys) == 3


def test_a_change_in_a_module_of_others_keeps_the_key(tmp_path, monkeypatch):
    before = checkpoint_folder("train", *INPUTS)
    (tmp_path / "extra.py").write_text("x = 1\n")
    import_module(monkeypatch, "elsewhere.extra", tmp_path / "extra.py")
    assert checkpoint_folder("train", *INPUTS) == before


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_version_of_a_library_gives_another_key(monkeypatch, library):
    before = checkpoint_folder("train", *INPUTS)
    monkeypatch.setattr(versions, "version", lambda name: version(name) + ".1" * (name == library))
    assert checkpoint_folder("train", *INPUTS) != before


def test_the_key_is_the_same_in_two_processes_and_another_one_when_the_stage_itself_changes(
    tmp_path,
):
    stage = tmp_path / "stages" / "trial.py"
    stage.parent.mkdir()
    (stage.parent / "__init__.py").touch()
    text = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
    text += "from vit_finetune.core.checkpoints import checkpoint_folder\n"
    text += f"print(checkpoint_folder('trial', *{INPUTS!r}))"

    def key():
        command = [sys.executable, "-B", "-c", "import stages.trial"]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    stage.write_text(text)
    first = key()
    assert first.startswith(".checkpoints/trial/")
    assert key() == first
    stage.write_text(text + "  # changed")
    assert key() != first


def test_all_checkpoints_of_a_stage_are_removed_and_those_of_other_stages_kept(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    forget_checkpoints("train")  # there are none
    for folder in (
        checkpoint_folder("train", 1),
        checkpoint_folder("train", 2),
        checkpoint_folder("embed", 1),
    ):
        folder.mkdir(parents=True)
        (folder / "last.pt").touch()
    forget_checkpoints("train")
    assert [path.name for path in CHECKPOINTS.iterdir()] == ["embed"]
