"""The stage `download` says what it leaves out, in a line each, and lists all of it in
data/raw/dataset.json."""

import pytest
from PIL import Image
from stages import download

from tests.project import ROOT
from vit_finetune.core.files import read_json, write_json
from vit_finetune.params import read_params, read_yaml
from vit_finetune.stage import Stage

BROKEN = "cannot be read as images"
IGNORED = "are no images of a class"
MORE = " and others, see data/raw/dataset.json"


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Images of one's own, of two classes, with a params.yaml that leaves broken ones out."""
    monkeypatch.chdir(tmp_path)
    params = read_yaml(ROOT / "params.yaml")
    params["data"] |= {"name": "folder", "broken": "skip", "image_size": 8}
    write_json("params.yaml", params)  # JSON is YAML
    for name in ("cat", "dog"):
        (tmp_path / "data/images" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (8, 8)).save(tmp_path / "data/images" / name / f"{number}.png")
    return tmp_path / "data/images"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_is_left_out_is_said_with_its_number_and_the_first_of_it_and_listed_whole(
    images, capsys, count
):
    names = ["b", "a"][:count]
    for name in names:
        (images / "dog" / f"{name}.png").write_bytes(b"")
        (images / f"{name}.png").write_bytes(b"")
    download.main(Stage("download", read_params()))
    description = read_json("data/raw/dataset.json")
    assert description["ignored"] == [f"{name}.png" for name in sorted(names)]
    assert sorted(description["broken"]) == [f"dog/{name}.png" for name in sorted(names)]
    broken = [f"{file} ({reason})" for file, reason in description["broken"].items()]
    more = MORE if count > 1 else ""
    assert capsys.readouterr().out.splitlines() == [
        f"download: left out {count} that {why}: {listed[0]}{more}"
        for why, listed in ((BROKEN, broken), (IGNORED, description["ignored"]))
        if listed
    ]
