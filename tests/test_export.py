"""The exported model: the same answers in another runtime, from the file and its metadata alone."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps

from tests.project import ROOT
from tests.small_vits import build, pictures
from vit_finetune import export
from vit_finetune.core.errors import UserError
from vit_finetune.data.image_files import READING
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import load_model, save_model, trained_config
from vit_finetune.prediction.predictor import Predictor

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def save(tiny_model_folder, tmp_path_factory):
    """A function that saves a model of three classes, as the train stage does, and gives its
    folder."""

    def save_trained(fit="crop", size=8):
        folder = tmp_path_factory.mktemp("finetuned")
        network = load_model(tiny_model_folder, num_classes=len(CLASSES))
        generator = torch.Generator().manual_seed(0)
        torch.nn.init.normal_(network.head.weight, generator=generator)
        shape = [size, size, 3]
        seen = {"classes": CLASSES, "image_shape": shape, "fit": fit, "reading": READING}
        save_model(network, folder, preprocessing(network, None), seen)
        return folder

    return save_trained


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def metadata_of(session):
    metadata = session.get_modelmeta().custom_metadata_map
    return {key: json.loads(value) for key, value in metadata.items()}


@pytest.mark.slow
def test_the_exported_model_gives_the_same_logits_for_any_number_of_images(save, tmp_path):
    folder = save()
    export.export(folder, tmp_path / "m.onnx", with_preprocessing=False)
    session = session_of(tmp_path / "m.onnx")
    network = load_model(folder)
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = network(pixels).numpy()
        (logits,) = session.run(None, {"pixels": pixels.numpy()})
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-4)
    expected = export.metadata(trained_config(folder), preprocessing(network, None))
    assert metadata_of(session) == json.loads(json.dumps(expected))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "opset"), [(8, 17), (100, 18), (100, export.OPSETS[-1])])
def test_with_its_preprocessing_it_gives_the_probabilities_of_predict_in_every_opset(
    save, tmp_path, size, opset
):
    folder = save(size=size)
    said = export.export(folder, tmp_path / "m.onnx", with_preprocessing=True, opset=opset)
    assert f"uint8 (B, H, W, 3), {size} x {size} pixels -> probabilities (B, 3)" in said
    session = session_of(tmp_path / "m.onnx")
    images = np.random.default_rng(0).integers(256, size=(3, size, size, 3), dtype=np.uint8)
    for batch in (images, images[:1]):
        (probabilities,) = session.run(None, {"images": batch})
        expected = Predictor(folder, "cpu").probabilities(list(batch)).numpy()
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    graph = onnx.load(tmp_path / "m.onnx")
    assert [operators.version for operators in graph.opset_import] == [opset]
    assert f"opset {opset}, IR version {graph.ir_version}." in said
    # what runtimes of browsers and phones do not have
    assert onnx.TensorProto.DOUBLE not in types_of(graph)


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 50])
def test_the_preprocessing_in_the_graph_gives_the_same_levels(save, tmp_path, size):
    preprocess = Predictor(save(), "cpu").preprocess
    images = np.random.default_rng(0).integers(256, size=(2, size, size, 3), dtype=np.uint8)
    graph = export.to_onnx(
        preprocess.eval(), torch.from_numpy(images), "images", "pixels", export.OPSET
    )
    (pixels,) = session_of(graph.SerializeToString()).run(None, {"images": images})
    expected = preprocess(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-6)  # a level is 0.008


def types_of(model):
    """The types of all tensors of a graph."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.type.tensor_type.elem_type for value in values}
    return types | {tensor.data_type for tensor in graph.initializer}


@pytest.mark.slow
def test_the_default_is_read_by_older_runtimes_and_holds_no_paths_of_this_machine(save, tmp_path):
    export.export(save(), tmp_path / "m.onnx", with_preprocessing=True)
    graph = onnx.load(tmp_path / "m.onnx")
    assert graph.ir_version == 8
    assert [operators.version for operators in graph.opset_import] == [18]
    written = (tmp_path / "m.onnx").read_bytes()
    assert str(ROOT).encode() not in written
    assert sys.prefix.encode() not in written


@pytest.mark.slow
def test_an_opset_that_the_exporter_does_not_reach_is_an_error_and_writes_nothing(
    save, tmp_path, capfd
):
    with pytest.raises(UserError, match="cannot be written with opset 16; take a higher --opset"):
        export.export(save(), tmp_path / "m.onnx", with_preprocessing=False, opset=16)
    assert not (tmp_path / "m.onnx").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_an_opset_out_of_range_and_a_folder_without_a_model_are_told(tmp_path, monkeypatch, capfd):
    for options, error in (
        (["--opset", "16"], "argument --opset: invalid choice: 16 (choose from 17, 18, "),
        (["--model", tmp_path], f"export: {tmp_path} does not hold a trained model; run dvc repro"),
        (["--runtime", "x.tgz"], "export: --runtime is for FILE.html"),
    ):
        target = str(tmp_path / "x.onnx")
        monkeypatch.setattr(sys, "argv", ["export", *map(str, options), target])
        with pytest.raises(SystemExit) as end:
            export.main()
        assert error in f"{end.value.code}\n{capfd.readouterr().err}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_with_a_bias_in_its_attention_and_one_in_two_files_are_exported(
    tmp_path, monkeypatch
):
    network = build("beit_base_patch16_224", num_classes=3)
    seen = {"classes": CLASSES, "image_shape": [8, 8, 3], "fit": "pad", "reading": READING}
    (tmp_path / "beit").mkdir()
    save_model(network, tmp_path / "beit", preprocessing(network, None), seen)
    monkeypatch.setattr(export, "LARGEST", 1000)  # a model of 2 GB takes too long
    export.export(tmp_path / "beit", tmp_path / "m.onnx", with_preprocessing=False)
    assert {path.name for path in tmp_path.iterdir()} == {"beit", "m.onnx", "m.onnx.data"}
    assert (tmp_path / "m.onnx").stat().st_size < (tmp_path / "m.onnx.data").stat().st_size
    session = session_of(tmp_path / "m.onnx")
    pixels = pictures(network, 3)
    with torch.no_grad():
        expected = network(pixels).numpy()
    (logits,) = session.run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def pixels_by_metadata(metadata, path):
    """What the model gets of an image file, by Pillow, numpy and the metadata alone: (3, h, w)."""
    image = Image.open(path)
    if metadata["exif_orientation"] == "applied":
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image) / metadata["grey_of_16_bits_divided_by"]
        image = Image.fromarray(np.round(grey).astype(np.uint8))
    if image.has_transparency_data:
        under = Image.new("RGBA", image.size, tuple(metadata["transparency_over"]))
        image = Image.alpha_composite(under, image.convert("RGBA"))
    image = image.convert(metadata["colours"])

    height, width = metadata["image_size"]
    resampling = Image.Resampling[metadata["fit_interpolation"].upper()]
    if metadata["fit"] == "crop":
        image = ImageOps.fit(image, (width, height), resampling)
    elif metadata["fit"] == "pad":
        colour = tuple(metadata["pad_colour"])
        image = ImageOps.pad(image, (width, height), resampling, colour)
    else:
        image = image.resize((width, height), resampling)

    steps = metadata["preprocessing"]
    height, width = steps["resize"]
    image = image.resize((width, height), Image.Resampling[steps["interpolation"].upper()])
    top, left, height, width = steps["crop"]
    image = image.crop((left, top, left + width, top + height))
    pixels = (np.asarray(image) / steps["divide_by"] - steps["mean"]) / steps["std"]
    return pixels.transpose(2, 0, 1)


def write_image(mode, path):
    """A noisy image of 96 x 32 pixels in a mode of Pillow, with what can go wrong in it."""
    noise = np.random.default_rng(0).integers(256, size=(32, 96, 4), dtype=np.uint8)
    colours = Image.fromarray(noise)
    if mode == "I;16":
        grey = noise[..., 0].astype(np.uint16) * 256 + noise[..., 1]
        Image.fromarray(grey).save(path)
    elif mode == "P, transparent":
        colours.convert("RGB").quantize(16).save(path, transparency=3)
    elif mode == "RGB, on its side":
        exif = Image.Exif()
        exif[0x0112] = 6
        colours.convert("RGB").save(path, exif=exif)
    else:
        colours.convert("RGB").convert(mode).save(path) if mode != "RGBA" else colours.save(path)


MODES = {
    "1": "png",
    "L": "png",
    "LA": "png",
    "P": "png",
    "P, transparent": "png",
    "RGB": "png",
    "RGB, on its side": "jpg",
    "RGBA": "png",
    "CMYK": "tif",
    "YCbCr": "jpg",
    "I;16": "png",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_the_metadata_alone_say_what_the_model_gets_of_an_image_file(save, tmp_path, fit, mode):
    path = tmp_path / f"image.{MODES[mode]}"
    write_image(mode, path)
    folder = save(fit, size=48)
    predictor = Predictor(folder, "cpu")
    written = json.dumps(export.metadata(trained_config(folder), predictor.preprocess))
    pixels = pixels_by_metadata(json.loads(written), path)
    expected = predictor.pixels([predictor.read("image", path, draw=False).pixels])[0].numpy()
    np.testing.assert_allclose(pixels, expected, atol=1e-5)
