"""The common style of pictures. Each room draws its own in `figures.py`: arrays in, a matplotlib
Figure out.

K classes, N images; `images` (N, H, W, 3) uint8, `labels` and `predicted` (N,) class indices,
`classes` the 2 to 100 names. Every figure is 8 inches wide, the width of a README. Meaning never
rests on colour alone, and the colours (Okabe and Ito 2008; inferno) survive colour blindness and a
grey printer.
"""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

Array = np.ndarray[Any, Any]
Names = Sequence[str]
Rows = Sequence[Mapping[str, Any]]

WIDTH = 8.0  # inches
QUIET, FAINT, BLUE, ORANGE, VERMILION = "#767676", "#e4e4e4", "#0072b2", "#e69f00", "#d55e00"
SERIES: list[dict[str, Any]] = [
    {"color": colour, "marker": marker, "markevery": 0.12}
    for colour, marker in zip(
        [BLUE, VERMILION, "#009e73", "#cc79a7", "#56b4e9", ORANGE], "osD^vP", strict=True
    )
]
FALLBACKS = (  # fonts with the characters that DejaVu Sans lacks, where they are installed
    *(
        "Noto Sans CJK JP",
        "Noto Sans CJK SC",
        "Noto Sans JP",
        "Noto Sans SC",
        "Noto Sans KR",
        "WenQuanYi Zen Hei",
    ),
    *(
        "IPAexGothic",
        "Hiragino Sans",
        "PingFang SC",
        "Yu Gothic",
        "Microsoft YaHei",
        "Malgun Gothic",
        "NanumGothic",
    ),
    *(
        "Noto Sans Arabic",
        "Noto Sans Hebrew",
        "Noto Sans Devanagari",
        "Noto Sans Thai",
        "Noto Emoji",
        "Symbola",
    ),
)
STYLE: dict[Any, Any] = {
    "font.family": [
        "DejaVu Sans",
        *(name for name in FALLBACKS if name in {font.name for font in fontManager.ttflist}),
    ],
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
    "grid.color": FAINT,
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

    Characters that no installed font has become boxes; they are said once, in one line.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    codes = {
        int(code)
        for warning in caught
        for code in re.findall(r"^Glyph (\d+) ", str(warning.message))
    }
    if missing := sorted(codes - _boxes):
        _boxes.update(missing)
        print(
            f"pictures: no installed font has {''.join(map(chr, missing))}; install one, such as Noto Sans CJK",
            flush=True,
        )
    return buffer.getvalue()


_boxes: set[int] = set()  # characters that were said to be missing


def figure_of(height: float, title: str, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of one row of axes, and those axes as an array (1, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.008, ha="left")
    return figure, figure.subplots(1, columns, squeeze=False)


def shorten(name: str, longest: int = 16) -> str:
    """At most `longest` characters; the middle goes, for names often differ in their last word or
    number."""
    return (
        name
        if len(name) <= longest
        else f"{name[: longest - longest // 3 - 1]}…{name[-(longest // 3) :]}"
    )


def fit_texts(texts: Sequence[str], inches: float, em: float = 0.64) -> tuple[list[str], float]:
    """The texts, cut to what `inches` hold at 6 points, and the size in points (6 to 9) at which
    all fit."""
    texts = [shorten(text, max(4, int(12 * inches / em))) for text in texts]
    return texts, min(9.0, 72 * inches / em / max(map(len, texts), default=1))


def name_ticks(axis: Any, classes: Names, inches: float, **text: Any) -> None:
    """Class names along `inches` of an axis: first smaller, then every second, third, ... so that
    none touch."""
    room = 65 * inches / len(classes)  # points per name, a tenth left free
    step = math.ceil(6 / room)
    axis.set_ticks(
        range(0, len(classes), step),
        [shorten(name) for name in classes[::step]],
        fontsize=min(9, room * step),
        **text,
    )
    axis.grid(visible=False)


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
    h, w = np.array(picture.shape[:2]) * min(
        0.95 / picture.shape[1], 0.95 * tall / picture.shape[0]
    )
    x, y = x + (0.95 - w) / 2, y + (0.95 * tall - h) / 2
    method: Any = "auto" if picture.ndim == 3 and max(picture.shape) > 64 else "nearest"
    axes.imshow(picture, extent=(x, x + w, y + h, y), interpolation=method, **style)


def class_bars(
    axes: Axes, values: Sequence[float], form: str, offset: float = 0, **bar: Any
) -> None:
    """A horizontal bar per class, the first on top, with its number behind it while there is
    room."""
    bars = axes.barh(np.arange(len(values)) + offset, values, **bar)
    if len(values) <= 25:
        axes.bar_label(bars, fmt=form, padding=3, fontsize=7, color=QUIET)
    axes.set_ylim(len(values) - 0.4, -0.6)
