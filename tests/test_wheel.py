"""The wheel holds the whole package and nothing else, and its tools work outside of the
repository."""

import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.project import ROOT

pytestmark = pytest.mark.slow

BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without a network, in a folder that has only what git has."""
    folder = tmp_path_factory.mktemp("build")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "src"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in ["pyproject.toml", "README.md", "LICENSE", *filter(None, listed.split("\0"))]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, capture_output=True, check=True)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder on the path with what is in the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def start(installed, tmp_path):
    """Start a tool of the wheel in an empty folder."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "vit_finetune", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )

    return run


def test_it_holds_every_file_of_the_package(installed):
    package = ROOT / "src/vit_finetune"
    written = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {
        path.relative_to(installed / "vit_finetune").as_posix()
        for path in (installed / "vit_finetune").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == written
    assert {"charts/history.json", "attention/page.js", "pages/base.css"} <= held


def test_it_brings_the_command_and_the_licence(installed):
    (facts,) = installed.glob("*.dist-info")
    assert "vit-finetune = vit_finetune.__main__:main" in (facts / "entry_points.txt").read_text()
    assert (facts / "licenses/LICENSE").is_file()


def test_predict_and_export_work_outside_of_the_repository(finished, start, tmp_path):
    pytest.importorskip("onnxscript")
    pixels = np.load(finished.folder / "data/subset/test_images.npy")[0]
    Image.fromarray(pixels).save(tmp_path / "0.png")
    model = finished.folder / "models/finetuned"
    done = start("predict", "--model", model, "--page", "page.html", "0.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.png: ")
    assert "data:image" in (tmp_path / "page.html").read_text()
    done = start("export", "--model", model, "digits.onnx")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "digits.onnx").stat().st_size > 10_000


def test_without_a_model_it_says_what_to_name(start, tmp_path):
    done = start("predict", "0.png")
    assert done.returncode == 1
    assert done.stderr == (
        "predict: models/finetuned does not hold a trained model; run dvc repro, or name its "
        "folder with --model\n"
    )
    assert list(tmp_path.iterdir()) == []
