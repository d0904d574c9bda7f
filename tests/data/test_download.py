"""The stage `download` says what it leaves out, in a line each, and lists all of it in
data/raw/dataset.json."""

import json
import shutil

import pytest
from PIL import Image
from stages import download

from tests.project import ROOT
from vit_finetune.params import read_params
from vit_finetune.stage import Stage

BROKEN = "cannot be read as images"
IGNORED = "are no images of a class"
MORE = " and others, see data/raw/dataset.json"


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder with params.yaml for images of one's own, broken ones to be left out, and two
    classes."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    text = (tmp_path / "params.yaml").read_text()
    for key, value in {"name": "folder", "broken": "skip", "image_size": "8"}.items():
        old = next(line for line in text.splitlines() if line.startswith(f"  {key}:"))
        text = text.replace(old, f"  {key}: {value}", 1)
    (tmp_path / "params.yaml").write_text(text)
    for name in ("cat", "dog"):
        (tmp_path / "data" / "images" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / "images" / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_is_left_out_is_said_with_its_number_and_the_first_of_it_and_listed_whole(
    images, capsys, count
):
    names = ["b", "a"][:count]
    for name in names:
        (images / "data" / "images" / "dog" / f"{name}.png").write_bytes(b"")
        (images / "data" / "images" / f"{name}.png").write_bytes(b"")
    download.main(Stage("download", read_params()))
    description = json.loads((images / "data" / "raw" / "dataset.json").read_text())
    assert description["ignored"] == [f"{name}.png" for name in sorted(names)]
    assert sorted(entry.partition(" (")[0] for entry in description["broken"]) == [
        f"dog/{name}.png" for name in sorted(names)
    ]
    more = MORE if count > 1 else ""
    assert capsys.readouterr().out.splitlines() == [
        f"download: left out {count} that {why}: {listed[0]}{more}"
        for why, listed in ((BROKEN, description["broken"]), (IGNORED, description["ignored"]))
        if listed
    ]
