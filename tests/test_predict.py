"""The trained model in use: predictions of files, folders and streams, overlays, ONNX."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.project import ROOT
from vit_finetune.backbone import load_model, preprocessing
from vit_finetune.predict import Predictor


@pytest.fixture(scope="module")
def model(finished):
    return finished.folder / "models/finetuned"


@pytest.fixture(scope="module")
def test_images(finished, tmp_path_factory):
    """The pipeline's test images as files, in their order."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(np.load(finished.folder / "data/subset/test_images.npy")):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


def call(*arguments, module="predict", data=None):
    command = [sys.executable, "-m", f"vit_finetune.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT / "src", capture_output=True, input=data, check=False)


def test_the_predictions_of_image_files_are_those_of_the_pipeline(finished, model, test_images):
    done = call("--model", model, "--json", "--top", 10, test_images)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    with (finished.folder / "plots/predictions.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(map(str, test_images.iterdir()))
    for row, known in zip(rows, expected, strict=True):
        assert row["probability"] == pytest.approx(float(known["confidence"]), abs=2e-3)  # from float16 activations
        gap = row["top"][0]["probability"] - row["top"][1]["probability"]
        assert row["label"] == known["predicted"] or gap < 0.004
        assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1, abs=1e-4)
        assert row["top"] == sorted(row["top"], key=lambda entry: -entry["probability"])


def test_a_file_a_folder_and_standard_input_give_the_same_line(model, test_images, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/one.PNG").write_bytes((test_images / "000.png").read_bytes())
    (tmp_path / "deep/notes.txt").write_text("no image")
    data = (test_images / "000.png").read_bytes()
    done = call("--model", model, test_images / "000.png", tmp_path, "-", data=data)
    lines = [line.split(": ", 1) for line in done.stdout.decode().splitlines()]
    assert [name for name, _ in lines] == [str(test_images / "000.png"), str(tmp_path / "deep/one.PNG"), "-"]
    assert len({said for _, said in lines}) == 1
    assert len(lines[0][1].split(", ")) == 3


def test_a_reader_that_leaves_early_ends_it_without_a_word(model, test_images):
    script = '"$@" | head -n 1'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "vit_finetune.predict", "--model", model]
    many = [test_images] * 20  # more lines than are ready when the reader leaves
    done = subprocess.run([*command, *many], cwd=ROOT / "src", capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_what_cannot_be_read_is_named_and_the_others_are_predicted(model, test_images, tmp_path):
    (tmp_path / "torn.png").write_bytes((test_images / "000.png").read_bytes()[:60])
    names = [tmp_path / "torn.png", test_images / "001.png", tmp_path / "absent.png"]
    done = call("--model", model, *names)
    assert done.returncode == 1
    assert done.stdout.decode().startswith(f"{test_images / '001.png'}: ")
    first, second = done.stderr.decode().splitlines()
    assert first.startswith(f"predict: {tmp_path / 'torn.png'} cannot be read as an image: ")
    assert second.startswith(f"predict: {tmp_path / 'absent.png'} cannot be read as an image: ")


def test_a_folder_without_a_trained_model_is_one_line(tmp_path, test_images):
    for module, arguments in (("predict", [test_images]), ("export", [tmp_path / "m.onnx"])):
        done = call("--model", tmp_path, *arguments, module=module)
        assert done.returncode == 1
        assert done.stderr.decode().splitlines() == [
            f"{module}: {tmp_path} does not hold a trained model; run dvc repro, or name its folder with --model"
        ]


def test_an_image_of_another_size_is_seen_as_the_training_images_were(model):
    predictor = Predictor(model, "cpu")
    large = Image.fromarray(np.random.default_rng(0).integers(256, size=(50, 90, 3), dtype=np.uint8))
    small = large.crop((20, 0, 70, 50)).resize((8, 8), Image.Resampling.BICUBIC)
    inner = ..., slice(8, -8), slice(8, -8)  # a crop by hand ends at its edge, Pillow's reads a little beyond
    torch.testing.assert_close(predictor.pixels([large])[inner], predictor.pixels([small])[inner], rtol=0, atol=0.02)
    squashing = Predictor(model, "cpu")
    squashing.source = {**predictor.source, "fit": "squash"}
    squashed = large.resize((8, 8), Image.Resampling.BICUBIC)
    assert torch.equal(squashing.pixels([large]), predictor.pixels([squashed]))


def test_the_overlay_shows_the_map_of_the_predicted_class(model, test_images, tmp_path):
    done = call("--model", model, "--json", "--attention", tmp_path / "maps", test_images / "000.png")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    predictor = Predictor(model, "cpu")
    image = Image.open(test_images / "000.png").convert("RGB")
    own, *others = (predictor.overlay(image, k) for k in range(10))
    label = predictor.classes.index(row["label"])
    with open(row["attention"], "rb") as file:  # noqa: PTH123
        written = file.read()
    assert written == [own, *others][label]
    assert len({own, *others}) == 10
    picture = Image.open(io.BytesIO(written))
    assert min(picture.size) > 200


@pytest.mark.parametrize("batch", [1, 3])
def test_the_exported_model_gives_the_same_logits(model, tmp_path, batch):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = call("--model", model, tmp_path / "m.onnx", module="export")
    assert done.returncode == 0, done.stderr
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    network = load_model(model)
    pixels = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(pixels).numpy()
    (logits,) = session.run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-4)
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["classes"] == [str(digit) for digit in range(10)]
    assert facts["preprocessing"] == json.loads(json.dumps(vars(preprocessing(network, None))))
