"""The style that all figures share: sharp pixels, texts that fit, and always the same bytes."""

import hashlib
import io
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image

from tests.project import ROOT
from vit_finetune import style
from vit_finetune.data.figures import sample_grid
from vit_finetune.style import canvas, fit_texts, font_warnings, place, png, shorten


def picture():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    return png(sample_grid(images, [0, 1], ["a", "b"]))


def placed(picture, tall=1.0):
    """The picture as drawn in a cell of a canvas."""
    _, axes, _ = canvas(2, 2, "title")
    place(axes, picture, 0, 0, tall)
    return axes.images[0]


def test_small_images_are_never_blurred():
    assert placed(np.zeros((8, 8, 3), dtype=np.uint8)).get_interpolation() == "nearest"
    assert placed(np.zeros((90, 160))).get_interpolation() == "nearest"  # a map, whatever its size
    assert placed(np.zeros((90, 160, 3), dtype=np.uint8)).get_interpolation() == "auto"


@pytest.mark.parametrize("shape", [(90, 160, 3), (160, 90, 3), (8, 8, 3)])
@pytest.mark.parametrize("tall", [1.0, 0.5])
def test_images_are_never_stretched_and_stay_in_their_cell(shape, tall):
    left, right, bottom, top = placed(np.zeros(shape, dtype=np.uint8), tall).get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(shape[1] / shape[0])
    assert min(left, top) > -1e-9
    assert right < 1
    assert bottom < tall


@pytest.mark.parametrize("longest", [4, 7, 16])
def test_a_long_name_is_shortened_in_its_middle(longest):
    short = shorten("a rather long name 17", longest)
    assert len(short) == longest
    start, end = short.split("…")
    assert "a rather long name 17".startswith(start)
    assert end == "" or "a rather long name 17".endswith(end)
    assert shorten("name", longest) == "name"


def test_texts_become_smaller_before_they_are_cut():
    assert fit_texts(["cat", "dog"], 1) == (["cat", "dog"], 9)
    texts, size = fit_texts(["a rather long", "cat"], 1)
    assert texts == ["a rather long", "cat"]
    assert 6 <= size < 9
    texts, size = fit_texts(["a name too long even for the smallest size", "cat"], 1)
    assert "…" in texts[0]
    assert texts[1] == "cat"
    assert size >= 6
    assert fit_texts([], 1) == ([], 9)


def test_a_user_s_matplotlibrc_changes_nothing():
    plain = picture()
    with matplotlib.rc_context(
        {"font.size": 20, "savefig.dpi": 40, "axes.facecolor": "red", "savefig.bbox": "tight"}
    ):
        before = dict(matplotlib.rcParams)
        assert picture() == plain
        assert dict(matplotlib.rcParams) == before


SCRIPT = """
import hashlib, sys
from tests.test_style import picture
for _ in range(2):
    print(hashlib.sha256(picture()).hexdigest())
"""


def test_the_bytes_of_a_figure_are_the_same_in_every_process_and_name_no_program():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
        text=True,
    )
    data = picture()
    assert set(done.stdout.split()) == {hashlib.sha256(data).hexdigest()}
    assert not any(chunk in data for chunk in (b"tEXt", b"iTXt", b"tIME"))


def test_pictures_need_neither_torch_nor_pyplot():
    script = (
        "import sys, vit_finetune.data.figures, vit_finetune.evaluation.figures\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_characters_that_no_installed_font_has_are_boxes_and_a_warning_names_them(recwarn):
    private = "\ue123\ue124"  # of Unicode's private area: no font of text has them
    figure, [[axes]] = style.figure_of(2, f"cat {private}")
    axes.set_xlabel(f"two\nlines {private}")
    assert png(figure).startswith(b"\x89PNG")
    assert font_warnings([figure, figure]) == [
        f"no installed font has {private}; install one, for example Noto Sans CJK"
    ]
    plain, _ = style.figure_of(2, "cat")
    assert font_warnings([plain]) == []
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_the_first_font_is_the_one_that_comes_with_matplotlib_and_only_installed_ones_follow():
    first, *others = style.STYLE["font.family"]
    assert first == "DejaVu Sans"
    assert set(others) <= {font.name for font in fontManager.ttflist} & set(style.FALLBACKS)


def luminance(colour):
    """Relative luminance of sRGB, as WCAG 2 defines it."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_a_darkened_picture_has_letters_that_can_be_read_on_the_dark_page():
    figure, [[axes]] = style.figure_of(2, "title")
    for row, colour in enumerate([style.QUIET, style.BLUE, style.VERMILION, "black"]):
        axes.text(0, row, "text", color=colour)
    style.darken(figure)
    pixels = np.asarray(Image.open(io.BytesIO(style.png(figure))).convert("RGB"))
    assert tuple(pixels[0, 0] / 255) == to_rgb(style.DARK_PAGE)
    page = luminance(style.DARK_PAGE) + 0.05
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert len(texts) >= 5
    for text in texts:
        assert (luminance(text.get_color()) + 0.05) / page >= 4.5, text.get_text()
