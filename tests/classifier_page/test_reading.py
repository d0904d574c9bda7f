"""The page's script makes of an image what `predict` makes of it, in a real browser."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.browser import chromium
from vit_finetune.classifier_page.page import classifier_page
from vit_finetune.classifier_page.runtime import Runtime
from vit_finetune.data.image_files import READING, fit_image, open_image
from vit_finetune.model.preprocessing import Preprocessing

CONFIG = {
    "input_size": (3, 28, 20),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": (0.4, 0.5, 0.6),
    "std": (0.1, 0.2, 0.3),
}
SIZES = [(9, 9), (8, 6), (1, 1), (40, 41), (37, 8), (8, 61), (5, 90), (90, 5), (1, 70), (100, 1)]
# the pixels of an image as RGBA in base64; what `make` makes of it comes back as a list
IN_PAGE = """
const [rgba, height, width, changes, make] = arguments;
Object.assign(facts, changes);
const pixels = Uint8ClampedArray.from(atob(rgba), (character) => character.charCodeAt(0));
const image = imageOf(pixels, height, width);
return [...(make === "fit" ? fitImage(image).pixels : modelInput(image))];
"""
OF_FILE = """
const [bytes, done] = arguments;
const file = new Blob([Uint8Array.from(atob(bytes), (character) => character.charCodeAt(0))]);
decode(file).then(imageOfBitmap).then((image) => done(%s));
"""
READ_FILE = OF_FILE % "[image.height, image.width, ...image.read(0, image.height)]"
FIT_FILE = OF_FILE % "[...fitImage(image).pixels]"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The page without a model, in a browser."""
    onnx = pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("page") / "page.html"
    facts = {"classes": ["cat"], "fit": "crop", **READING}
    path.write_text(classifier_page(onnx.ModelProto(), facts, Runtime("", b"")), "utf-8")
    with chromium(900, 800) as driver:
        driver.get(path.as_uri())
        yield driver


def encode(data):
    return base64.b64encode(data).decode("ascii")


def in_page(opened, image, changes, make):
    rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    return opened.execute_script(IN_PAGE, encode(rgba.tobytes()), *image.shape[:2], changes, make)


def noise(height, width):
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_an_image_is_fitted_to_the_bit_as_pillow_does(opened, fit):
    for size in [(8, 6), (16, 16), (7, 13)]:
        for height, width in SIZES:
            image = noise(height, width)
            found = in_page(opened, image, {"fit": fit, "image_size": size}, "fit")
            pixels = np.array(found).reshape(*size, 4)[..., :3]
            expected = fit_image(Image.fromarray(image), size, fit)
            np.testing.assert_array_equal(pixels, expected, f"{height} x {width} to {size}")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interpolation": "bilinear"},
        {"crop_mode": "squash"},
        {"crop_pct": 1.0, "input_size": (3, 16, 16)},
        {"input_size": (3, 64, 64)},
    ],
)
@pytest.mark.parametrize("size", [(16, 16), (40, 40)])
def test_the_models_input_is_that_of_its_preprocessing(opened, changes, size):
    preprocess = Preprocessing({**CONFIG, **changes})
    image = noise(*size)
    expected = preprocess(torch.from_numpy(image)[None])[0].numpy()
    found = in_page(opened, image, {"preprocessing": preprocess.steps(*size)}, "input")
    np.testing.assert_allclose(np.array(found).reshape(expected.shape), expected, atol=1e-6)


def file_of(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def gradient(height, width):
    rows, columns = np.indices((height, width))
    return np.dstack([rows, columns, rows + columns]).astype(np.uint8)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


RGB = Image.fromarray(gradient(20, 31))
RGBA = Image.merge("RGBA", [*RGB.split(), Image.fromarray(gradient(20, 31)[..., 1] * 8)])
GAMMA = PngInfo()
GAMMA.add(b"gAMA", (100_000).to_bytes(4))  # 1.0: an image viewer would change the colours
FILES = {  # a file, and how many levels it may differ
    "PNG": (file_of(RGB, "PNG"), 0),
    "gamma": (file_of(RGB, "PNG", pnginfo=GAMMA), 0),
    "grey": (file_of(RGB.convert("L"), "PNG"), 0),
    "palette": (file_of(RGB.quantize(16), "PNG"), 0),
    "transparent": (file_of(RGBA, "PNG"), 1),
    "16 bits": (file_of(Image.fromarray(noise(9, 8)[..., 0].astype(np.uint16) * 250), "PNG"), 1),
    "GIF": (file_of(RGB, "GIF"), 0),
    "JPEG": (file_of(RGB, "JPEG", quality=95), 1),
    "WebP": (file_of(RGB, "WEBP", lossless=True), 0),
    **{
        f"turned {number}": (file_of(RGB, "JPEG", quality=95, exif=turned(number)), 1)
        for number in range(1, 9)
    },
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_pixels_that_predict_reads(opened, name):
    file, tolerance = FILES[name]
    expected = np.asarray(open_image(io.BytesIO(file)))
    height, width, *levels = opened.execute_async_script(READ_FILE, encode(file))
    assert (height, width) == expected.shape[:2]
    found = np.array(levels).reshape(height, width, 4)[..., :3]
    assert np.abs(found - expected.astype(int)).max() <= tolerance


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(2100, 2000), (3000, 1400)])
def test_an_image_larger_than_a_canvas_may_be_is_fitted_to_the_bit(opened, height, width):
    assert height * width > opened.execute_script("return STRIP")
    opened.execute_script("Object.assign(facts, {fit: 'squash', image_size: [8, 8]})")
    image = Image.fromarray(gradient(height, width))
    file = file_of(image, "PNG", compress_level=1)
    found = np.array(opened.execute_async_script(FIT_FILE, encode(file)))
    expected = fit_image(image, (8, 8), "squash")
    np.testing.assert_array_equal(found.reshape(8, 8, 4)[..., :3], expected)
