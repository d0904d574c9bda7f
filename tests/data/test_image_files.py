"""Image files: opened upright in RGB, fitted to a square, found in a folder; what is no image is an
error."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from PIL.ImageFile import StubImageFile

from tests.data.broken import BOMB, BROKEN_FILES
from tests.project import ROOT
from vit_finetune.data.image_files import (
    LARGEST,
    UNREADABLE,
    around_crop,
    content_boxes,
    fit_image,
    image_files,
    named_as_image,
    open_image,
)

# Opening

RANDOM = np.random.default_rng(0).integers(256, size=(12, 10, 4), dtype=np.uint8)
GREY = RANDOM[..., 0]


def opened(path):
    """The image as an array; what a stream gives is the same."""
    image = open_image(path)
    assert image.mode == "RGB"
    assert open_image(io.BytesIO(path.read_bytes())).tobytes() == image.tobytes()
    return np.asarray(image)


def over_white(colour, alpha):
    """(H, W, 3) and (H, W) -> (H, W, 3) as floats."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif"])
def test_plain_colours_come_back_exactly_from_every_lossless_format(tmp_path, suffix):
    colours = RANDOM[..., :3] // 64 * 64  # few enough for a palette
    image = Image.fromarray(colours)
    if suffix == "gif":
        image = image.quantize(256)
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(opened(tmp_path / f"a.{suffix}"), colours)


DEEP = np.random.default_rng(1).integers(65536, size=(12, 10)).astype(np.uint16)
DEEP[0, :2] = 0, 65535


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY, GREY),
        (GREY > 99, (GREY > 99) * 255),
        (GREY.astype(np.uint16) * 257, GREY),
        (DEEP, np.rint(DEEP / 257)),
        (DEEP // 16, np.rint(DEEP // 16 / 257)),
        (DEEP // 256, np.rint(DEEP // 256 / 257)),
    ],
    ids=["8 bits", "1 bit", "8 bits saved as 16", "16 bits", "12 bits", "8 bits of 16"],
)
@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_grey_becomes_three_equal_channels_and_16_bits_are_divided_by_257(
    tmp_path, suffix, values, expected
):
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(opened(tmp_path / f"a.{suffix}"), np.stack([expected] * 3, axis=-1))


def test_the_order_of_the_two_bytes_does_not_matter(tmp_path):
    Image.frombytes("I;16B", (10, 12), DEEP.astype(">u2").tobytes()).save(tmp_path / "a.tiff")
    assert np.array_equal(opened(tmp_path / "a.tiff")[..., 0], np.rint(DEEP / 257))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.array([[0, 0.5, 1]], dtype=np.float32), "32-bit floating point"),
        (np.array([[-1, 0, 256, 2**31 - 1]], dtype=np.int32), "a signed or 32-bit integer"),
    ],
)
def test_numbers_of_no_known_range_are_refused_with_what_to_do(tmp_path, values, what):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(
        UNREADABLE, match=f"^{what} has no known range of brightness; convert it to 8 bits$"
    ):
        open_image(tmp_path / "a.tiff")


def deep_colours(path, values):
    """A TIFF of 16-bit RGB (H, W, 3), which Pillow reads and cannot write."""
    pixels = values.astype("<u2").tobytes()
    height, width, _ = values.shape
    numbers = {256: width, 257: height, 259: 1, 262: 2, 273: 8, 277: 3, 278: height}  # by tag
    entries = {tag: struct.pack("<HHII", tag, 4, 1, number) for tag, number in numbers.items()}
    # bits of each channel: they lie after the pixels
    entries[258] = struct.pack("<HHII", 258, 3, 3, 8 + len(pixels))
    head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels) + 6)
    bits = struct.pack("<3H", 16, 16, 16)
    directory = b"".join(entry for _, entry in sorted(entries.items()))
    path.write_bytes(head + pixels + bits + struct.pack("<H", len(entries)) + directory + bytes(4))


@pytest.mark.parametrize("largest", [100, 4095, 65535])
def test_the_largest_of_16_bits_is_told_in_grey_and_to_8_bits_in_colour(tmp_path, largest):
    values = np.minimum(DEEP, largest)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").info[LARGEST] == largest
    deep_colours(tmp_path / "a.tiff", np.stack([values] * 3, axis=-1))
    assert open_image(tmp_path / "a.tiff").info[LARGEST] == largest | 255
    assert np.array_equal(opened(tmp_path / "a.tiff"), np.stack([values // 256] * 3, axis=-1))
    Image.fromarray(GREY).save(tmp_path / "b.png")
    assert LARGEST not in open_image(tmp_path / "b.png").info


def test_the_one_value_of_16_bits_that_is_declared_transparent_becomes_white(tmp_path):
    values = np.array([[7000, 7001, 0]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=7000)
    assert opened(tmp_path / "a.png")[0, :, 0].tolist() == [255, 27, 0]


@pytest.mark.parametrize("channels", [4, 2], ids=["colour", "grey"])
def test_transparent_pixels_are_laid_over_white(tmp_path, channels):
    pixels = RANDOM[..., -channels:].copy()
    pixels[0, :, -1] = 0
    pixels[1, :, -1] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = opened(tmp_path / "a.png")
    assert np.allclose(seen, over_white(pixels[..., :-1], pixels[..., -1]), atol=1)
    assert (seen[0] == 255).all()
    assert (seen[1] == pixels[1, :, :-1]).all()


@pytest.mark.parametrize("kind", ["one colour", "shares"])
def test_a_transparent_palette_is_laid_over_white(tmp_path, kind):
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=np.uint8)
    numbers = RANDOM[..., 0] % 3
    image = Image.fromarray(numbers)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", transparency=1 if kind == "one colour" else bytes([0, 100, 255]))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    alpha = np.array([255, 0, 255] if kind == "one colour" else [0, 100, 255])
    assert np.allclose(
        opened(tmp_path / "a.png"), over_white(palette[numbers], alpha[numbers]), atol=1
    )


def test_the_one_colour_that_is_declared_transparent_becomes_white(tmp_path):
    colours = RANDOM[..., :3].copy()
    colours[2:4] = (10, 20, 30)
    Image.fromarray(colours).save(tmp_path / "a.png", transparency=(10, 20, 30))
    expected = colours.copy()
    expected[2:4] = 255
    assert np.array_equal(opened(tmp_path / "a.png"), expected)


def test_a_cmyk_jpeg_becomes_the_rgb_colours_of_its_inks(tmp_path):
    inks = [(255, 0, 0, 0), (0, 0, 0, 255), (100, 0, 50, 128)]
    image = Image.new("CMYK", (16 * len(inks), 16))
    for number, ink in enumerate(inks):
        image.paste(ink, (16 * number, 0, 16 * (number + 1), 16))
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    seen = opened(tmp_path / "a.jpg")
    for number, (*cmy, key) in enumerate(inks):
        expected = [(255 - ink) * (255 - key) / 255 for ink in cmy]
        assert seen[8, 16 * number + 8] == pytest.approx(expected, abs=3)


# no mirror image of itself; squares of 16 survive a JPEG
UPRIGHT = np.zeros((32, 48, 3), dtype=np.uint8)
UPRIGHT[:16, :16] = 250, 20, 20
UPRIGHT[:16, 16:32] = 20, 250, 20
UPRIGHT[16:, 32:] = 90, 90, 250

# what EXIF 2.3 says of each orientation: where row 0 and column 0 of the file belong in the upright
# image
STORED = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}


# how each suffix is saved, so that the pixels come back
EXACT = {"jpg": {"quality": 100, "subsampling": 0}, "png": {}, "webp": {"lossless": True}}


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("suffix", EXACT)
@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_turned_upright_as_its_exif_says(tmp_path, suffix, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    stored.save(tmp_path / f"a.{suffix}", exif=exif_of(orientation), **EXACT[suffix])
    seen = opened(tmp_path / f"a.{suffix}")
    assert seen.shape == UPRIGHT.shape
    assert np.allclose(seen, UPRIGHT, atol=8 if suffix == "jpg" else 0)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0nonsense",
        b"II*\0\xff\xff\xff\xff",
        b"MM",
        exif_of(0),
        exif_of(9),
        exif_of(65535),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_an_exif_that_is_damaged_or_of_an_unknown_orientation_is_ignored(tmp_path, suffix, exif):
    Image.fromarray(UPRIGHT).save(tmp_path / f"a.{suffix}", exif=exif, **EXACT[suffix])
    assert np.array_equal(opened(tmp_path / f"a.{suffix}"), UPRIGHT)


def test_an_image_is_turned_upright_though_another_entry_of_its_exif_cannot_be_written_again(
    tmp_path, monkeypatch
):
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](UPRIGHT)))
    stored.save(tmp_path / "a.png", exif=exif_of(6))
    monkeypatch.setattr(Image.Exif, "tobytes", lambda self: struct.pack("H", -1))
    assert np.array_equal(opened(tmp_path / "a.png"), UPRIGHT)


def test_the_first_frame_of_an_animation_is_the_image(tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    ImageDraw.Draw(frames[0]).point((2, 1), "yellow")
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3
    assert np.array_equal(opened(tmp_path / "a.gif"), np.asarray(frames[0]))


# Fitting to a square


def fitted_by_hand(width, height, size, fit):
    """What `fit_image` should make of a picture that is red by column and green by row, 5 levels
    each."""
    rows, columns = size
    # pixels of the picture to one of the result
    across = width / columns
    down = height / rows
    if fit != "squash":
        across = down = min(across, down) if fit == "crop" else max(across, down)
    x = (width - 1) / 2 + (np.arange(columns) - (columns - 1) / 2) * across  # about the middle
    y = (height - 1) / 2 + (np.arange(rows) - (rows - 1) / 2) * down
    outside = ((y < 0) | (y > height - 1))[:, None] | ((x < 0) | (x > width - 1))[None]
    picture = np.stack([*np.meshgrid(5 * x, 5 * y), np.full(size, 60.0)], axis=-1)
    picture[outside] = 127
    return picture


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(8, 8), (8, 16)])
@pytest.mark.parametrize(("width", "height"), [(16, 32), (32, 16), (20, 20), (48, 12)])
def test_a_gradient_is_fitted_as_calculated_by_hand(width, height, size, fit):
    red, green = np.meshgrid(5 * np.arange(width), 5 * np.arange(height))
    picture = np.stack([red, green, np.full_like(red, 60)], axis=-1).astype(np.uint8)
    result = fit_image(Image.fromarray(picture), size, fit)
    assert result.dtype == np.uint8
    expected = fitted_by_hand(width, height, size, fit)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 2
    padding = (expected == 127).all(axis=-1)
    assert (result[padding] == 127).all()


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize(
    ("fit", "picture", "expected"),
    [
        ("crop", RANDOM[:8, :, :3], RANDOM[:8, 1:9, :3]),
        (
            "pad",
            RANDOM[:6, :8, :3],
            np.pad(RANDOM[:6, :8, :3], ((1, 1), (0, 0), (0, 0)), constant_values=127),
        ),
        ("squash", RANDOM[:8, :8, :3], RANDOM[:8, :8, :3]),
    ],
)
def test_pixels_stay_exactly_as_they_are_where_no_scaling_is_needed(fit, picture, expected, turn):
    if turn:
        picture = picture.swapaxes(0, 1)
        expected = expected.swapaxes(0, 1)
    result = fit_image(Image.fromarray(np.ascontiguousarray(picture)), (8, 8), fit)
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1)])
def test_images_one_pixel_wide_or_high_can_be_fitted(size, fit):
    result = fit_image(Image.new("RGB", size, "red"), (8, 8), fit)
    assert result.shape == (8, 8, 3)
    if fit != "pad":
        assert (result == (255, 0, 0)).all()


# Files that are no images


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_that_is_no_whole_image_raises_an_expected_error(few_pixels, name):
    with pytest.raises(UNREADABLE):
        open_image(io.BytesIO(BROKEN_FILES[name]))


@pytest.mark.parametrize(("place", "value"), [(23, float("inf")), (26, 3.0), (26, float("nan"))])
def test_whatever_pillow_raises_for_a_damaged_file_is_one_line(tmp_path, place, value):
    Image.new("F", (8, 6)).save(tmp_path / "a.spi", "SPIDER")
    content = bytearray((tmp_path / "a.spi").read_bytes())
    content[4 * place : 4 * place + 4] = struct.pack("f", value)
    with pytest.raises(UNREADABLE, match=r"^.{10,}$"):
        open_image(io.BytesIO(content))


def test_a_reason_without_a_sentence_begins_with_the_kind_of_the_error(monkeypatch):
    for error, reason in [(KeyError(5), "KeyError 5"), (AssertionError(), "AssertionError")]:
        monkeypatch.setattr(Image, "open", Mock(side_effect=error))
        with pytest.raises(UNREADABLE, match=f"^{reason}$"):
            open_image("a.png")


def test_running_out_of_memory_is_no_fault_of_the_file(monkeypatch):
    monkeypatch.setattr(Image, "open", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        open_image("a.png")


def test_a_large_image_is_read_without_a_warning(tmp_path):
    (tmp_path / "large.png").write_bytes(BOMB)
    script = """
import sys
from PIL import Image
Image.MAX_IMAGE_PIXELS = 9000
from vit_finetune.data.image_files import open_image
print(open_image(sys.argv[1]).size)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "large.png"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert (done.stdout, done.stderr) == ("(100, 100)\n", "")


# Which files of a folder are images


def test_images_are_found_by_their_suffix_at_any_depth_in_order_and_hidden_ones_are_not(tmp_path):
    folder = tmp_path / ".hidden" / "images"  # the folder itself may lie in a hidden one
    images = ["a.PNG", "b/c/d.Jpeg", "b/e.jpg", "f g.h.WebP"]
    others = ["b/c/notes.txt", "i.png.xmp", "png"]
    hidden = [".j.png", "._k.png", ".l/m.png", "b/.thumbnails/n.png", ".DS_Store"]
    for name in [*images, *others, *hidden]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "folder.png").mkdir()
    assert image_files(folder) == (
        [folder / name for name in images],
        [folder / name for name in others],
    )


def test_what_pillow_cannot_open_as_an_image_is_none_and_all_the_rest_are():
    suffixes = Image.registered_extensions()
    for suffix, kind in suffixes.items():
        factory, _ = Image.OPEN.get("JPEG" if kind == "MPO" else kind, (None, None))
        stub = isinstance(factory, type) and issubclass(factory, StubImageFile)
        readable = factory is not None and not stub and kind != "MPEG"
        assert named_as_image(Path(f"a{suffix.upper()}")) == readable, suffix


def test_links_to_folders_are_followed_once_and_in_no_circle(tmp_path):
    folder = tmp_path / "images" / "cat"
    elsewhere = tmp_path / "elsewhere"
    for name in (folder / "a.png", folder.parent / "dog" / "b.png", elsewhere / "deep" / "c.png"):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.touch()
    (elsewhere / "back").symlink_to(elsewhere / "deep")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "self").symlink_to(folder)
    (folder / "twice").symlink_to(elsewhere)
    (folder / "up").symlink_to(folder.parent)
    assert image_files(folder) == ([folder / "a.png", folder / "linked" / "back" / "c.png"], [])
    linked = tmp_path / "images" / "link to dog"
    linked.symlink_to(tmp_path / "images" / "dog")
    assert image_files(linked) == ([linked / "b.png"], [])


def test_a_link_to_no_file_is_found_and_is_no_image_that_can_be_read(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b.png").symlink_to("b.png")
    assert image_files(tmp_path)[0] == [tmp_path / "a.png", tmp_path / "b.png"]
    for path in image_files(tmp_path)[0]:
        with pytest.raises(UNREADABLE):
            open_image(path)


def test_a_folder_that_may_not_be_read_is_an_error_and_not_an_empty_one(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(PermissionError, match="closed"):
        image_files(tmp_path)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 40), st.integers(4, 40))
@settings(max_examples=200, deadline=None)
def test_the_box_of_a_padded_image_is_where_fit_image_puts_it(width, height, wide, tall):
    fitted = fit_image(Image.new("RGB", (width, height), "white"), (tall, wide), "pad")
    top, left, bottom, right = content_boxes(np.array([[height, width]]), (tall, wide), "pad")[0]
    expected = np.full_like(fitted, 127)
    expected[top:bottom, left:right] = 255
    assert np.array_equal(fitted, expected)
    for fit in ("crop", "squash"):
        assert content_boxes(np.array([[height, width]]), (tall, wide), fit).tolist() == [
            [0, 0, tall, wide]
        ]


@pytest.mark.parametrize("size", [(1200, 300), (300, 1200), (64, 64), (61, 97)])
def test_around_a_crop_lies_what_it_cut_away(size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(256, size=(size[1], size[0], 3), dtype=np.uint8))
    whole, (top, left) = around_crop(image, (64, 64))
    assert np.array_equal(
        whole[top : top + 64, left : left + 64], fit_image(image, (64, 64), "crop")
    )
    assert min(whole.shape[:2]) == 64
    assert whole.shape[1] / whole.shape[0] == pytest.approx(size[0] / size[1], rel=0.02)
    expected = np.asarray(image.resize(whole.shape[1::-1], Image.Resampling.BICUBIC))
    outside = np.ones(whole.shape[:2], bool)
    outside[top : top + 64, left : left + 64] = False
    assert np.array_equal(whole[outside], expected[outside])
