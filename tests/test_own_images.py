"""`make repro DATA=folder`: what it sets, what it refuses before anything runs, and a whole run."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.project import ROOT
from vit_finetune import own_images
from vit_finetune.core.errors import UserError
from vit_finetune.params import Params, read_params, read_yaml


def write_images(folder, classes=("cat", "dog"), count=12):
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(80, size=(24, 24, 3), dtype=np.uint8)
            pixels[..., k % 3] += 150
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A project of which nothing runs: the commands that would."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.setattr(own_images, "require_history", lambda: None)
    run = []

    def record(command, **_):
        run.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(own_images.subprocess, "run", record)
    return run


@pytest.mark.parametrize("place", ["data/images", "../it's a photo set"])
def test_folder_and_sizes_are_set_for_an_experiment_and_said(commands, tmp_path, capsys, place):
    folder = (tmp_path / place).resolve()
    write_images(folder)
    own_images.run(place)
    said = capsys.readouterr().out.splitlines()
    named = place if place == "data/images" else str(folder)
    assert said == [
        f"{named}: 2 classes, images: 20 train, 4 test",
        "set in params.yaml: data.name: folder",
        f"set in params.yaml: data.folder: {named}",
        "set in params.yaml: subset.train_size: auto",
        "set in params.yaml: subset.val_size: auto",
        "set in params.yaml: subset.test_size: auto",
    ]
    (command,) = commands
    assert command[:3] == ["dvc", "exp", "run"]
    assert command[3::2] == ["-S"] * 5


def test_sizes_of_the_user_and_of_a_profile_hold(commands):
    write_images(Path("data/images"))
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(re.sub(r"  val_size: \d+", "  val_size: 0.3", text))
    Path("profiles").mkdir()
    Path("profiles/quick.yaml").write_text("data: {name: digits}\nsubset: {train_size: 12}\n")
    own_images.run("data/images", "quick")
    (command,) = commands
    assert [argument for argument in command if argument.startswith(("subset.", "data.name"))] == [
        "data.name='folder'",
        "subset.train_size=12",
        "subset.test_size='auto'",
    ]


def test_a_profile_is_set_beside_the_folder(commands, capsys):
    write_images(Path("data/images"))
    Path("profiles").mkdir()
    Path("profiles/large.yaml").write_text("data:\n  image_size: 288\ntrain:\n  lr: 0.001\n")
    own_images.run("data/images", "large")
    assert "set in params.yaml: data.image_size: 288" in capsys.readouterr().out
    (command,) = commands
    assert {"data.image_size=288", "train.lr=0.001"} <= set(command)
    with pytest.raises(UserError, match=r"no profiles/none\.yaml; known profiles: large"):
        own_images.run("data/images", "none")


def test_what_params_yaml_says_of_the_folder_holds(commands, tmp_path, capsys):
    for number in range(12):
        (tmp_path / "flat").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / f"flat/{number}.png")
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(12)]
    (tmp_path / "flat/labels.csv").write_text("\n".join(["file,class", *rows]))
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(re.sub(r"  labels:.*", "  labels: labels.csv", text))
    own_images.run("flat")
    assert capsys.readouterr().out.splitlines()[0] == "flat: 2 classes, images: 10 train, 2 test"


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "DATA is 'nowhere', which is not a folder; name the folder of your images"),
        ("params.yaml", "DATA is 'params.yaml', which is not a folder"),
        ("one", "one holds one class, at least two are needed"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused_before_anything_runs(commands, folder, message):
    write_images(Path("one"), classes=("cat",))
    with pytest.raises(UserError, match=re.escape(message)):
        own_images.run(folder)
    assert commands == []


def test_a_run_that_fails_is_one(commands, monkeypatch):
    write_images(Path("data/images"))
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(own_images.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match="the run failed"):
        own_images.run("data/images")


def test_make_repro_with_data_starts_it():
    def commands_of(*arguments):
        command = ["make", "-n", "-o", ".venv/.complete", "repro", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    assert 'python -m vit_finetune.own_images "a folder"' in commands_of("DATA=a folder")
    assert "dvc repro" not in commands_of("DATA=a folder")
    assert '"a folder" --profile photos' in commands_of("DATA=a folder", "PROFILE=photos")
    assert "own_images" not in commands_of()


@pytest.mark.slow
def test_a_folder_becomes_a_run_whose_values_stay_in_params_yaml(finished, tmp_path):
    project = finished.copy(tmp_path / "p")
    shipped = Params().subset
    for key in own_images.SIZES:
        project.set(**{f"subset.{key}": getattr(shipped, key)})
    project.git("add", "-A")
    project.git("commit", "-qm", "run")
    write_images(tmp_path / "photos", classes=("cat", "dog", "emu"), count=20)
    script = "import runpy, sys; sys.path.insert(0, 'src'); runpy.run_module("
    script += "'vit_finetune.own_images', run_name='__main__')"
    done = project.run("python", "-c", script, str(tmp_path / "photos"))
    assert done.returncode == 0, done.stdout + done.stderr
    params = read_params(project.folder / "params.yaml")
    assert (params.data.name, params.data.folder) == ("folder", str(tmp_path / "photos"))
    assert read_yaml(project.folder / "metrics/subset.json")["images"] == {
        "train": 41,
        "val": 7,
        "test": 12,
    }
    assert "Ran experiment(s): " in done.stdout
