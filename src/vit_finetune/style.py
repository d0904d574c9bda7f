"""The common style of pictures that are made of images. Charts of numbers are drawn elsewhere
(vit_finetune.charts). Each part of the package draws its pictures in `figures.py`: arrays in, a
matplotlib Figure out.

K classes, N images; `images` (N, H, W, 3) uint8, `labels` and `predicted` (N,) class indices,
`classes` the 2 to 100 names. Every figure is 8 inches wide, the width of a README. Meaning never
rests on colour alone, and the colours (Okabe and Ito 2008; inferno) survive colour blindness and a
grey printer.
"""

import io
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text

Array = np.ndarray[Any, Any]
Names = Sequence[str]

WIDTH = 8.0  # inches
QUIET = "#767676"
BLUE = "#0072b2"
VERMILION = "#d55e00"
DARK_PAGE = "#1d1f23"  # the cards of pages/base.css on a dark page
ON_DARK = {"#000000": "#eceef1", QUIET: "#a3a9b3", BLUE: "#6db7f2", VERMILION: "#f0944d"}
FALLBACKS = (  # fonts with the characters that DejaVu Sans lacks, where they are installed
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans JP",
    "Noto Sans SC",
    "Noto Sans KR",
    "WenQuanYi Zen Hei",
    "IPAexGothic",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "NanumGothic",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
    "Symbola",
)
INSTALLED = {font.name for font in fontManager.ttflist}
FONTS = ["DejaVu Sans", *(name for name in FALLBACKS if name in INSTALLED)]
STYLE: dict[Any, Any] = {
    "font.family": FONTS,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "figure.titlesize": 11,
    "lines.markersize": 4,
    "figure.titleweight": "bold",
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "text.parse_math": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
}
# Over matplotlib's defaults: a matplotlibrc of the user's must not change a byte.
styled = matplotlib.rc_context(
    {k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k} | STYLE
)


@styled
def png(figure: Figure) -> bytes:
    """The figure as PNG, always with the same bytes: no date, no program version.

    Characters that no installed font has become boxes; `font_warnings` names them.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def darken(figure: Figure) -> None:
    """Change the colours of letters and background to those for a dark page."""
    figure.set_facecolor(DARK_PAGE)
    for text in figure.findobj(Text):
        colour = to_hex(text.get_color())
        text.set_color(ON_DARK.get(colour, colour))


def font_warnings(figures: Iterable[Figure]) -> list[str]:
    """A sentence on the characters of the figures that no installed font has, if there are any."""
    used = {char for figure in figures for text in figure.findobj(Text) for char in text.get_text()}
    missing = used - {"\n"}
    for name in FONTS:
        charmap = get_font(findfont(name)).get_charmap()
        missing = {char for char in missing if ord(char) not in charmap}
    if not missing:
        return []
    characters = "".join(sorted(missing))
    return [f"no installed font has {characters}; install one, for example Noto Sans CJK"]


def figure_of(height: float, title: str, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of one row of axes, and those axes as an array (1, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.008, ha="left")
    return figure, figure.subplots(1, columns, squeeze=False)


def shorten(name: str, longest: int = 16) -> str:
    """At most `longest` characters. The middle is cut: names often differ in their last word or
    number."""
    if len(name) <= longest:
        return name
    end = longest // 3
    return f"{name[: longest - end - 1]}…{name[-end:]}"


def fit_texts(texts: Sequence[str], inches: float, em: float = 0.64) -> tuple[list[str], float]:
    """The texts, cut to what `inches` hold at 6 points, and the size in points (6 to 9) at which
    all fit."""
    short = [shorten(text, max(4, int(12 * inches / em))) for text in texts]
    longest = max(map(len, short), default=1)
    return short, min(9.0, 72 * inches / em / longest)


def canvas(
    width: float, height: float, title: str, margin: float = 0.15
) -> tuple[Figure, Axes, float]:
    """An empty axes of width x height cells, origin at the top left, and the inches that one cell
    measures."""
    inch = (WIDTH - margin) / width
    figure, [[axes]] = figure_of(inch * height + 0.4, title)
    axes.set(
        xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[], frame_on=False
    )
    axes.grid(visible=False)
    return figure, axes, inch


def place(axes: Axes, picture: Array, x: float, y: float, tall: float = 1, **style: Any) -> None:
    """Fit a picture into the cell (1 wide, `tall` high) at (x, y), pixels sharp: a blur would look
    like knowledge."""
    rows, columns = picture.shape[:2]
    scale = min(0.95 / columns, 0.95 * tall / rows)
    h = rows * scale
    w = columns * scale
    left = x + (0.95 - w) / 2
    top = y + (0.95 * tall - h) / 2
    photograph = picture.ndim == 3 and max(picture.shape) > 64
    axes.imshow(
        picture,
        extent=(left, left + w, top + h, top),
        interpolation="auto" if photograph else "nearest",
        **style,
    )
