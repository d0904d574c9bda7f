"""Charts of tables: the Vega-Lite templates of `dvc plots`, drawn without a browser.

A template lies beside this module as <name>.json. dvc.yaml names it for a table in plots/, and
`dvc plots` fills it with the rows of one or more revisions. Here it is filled with those of one.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import vl_convert

Rows = Iterable[Mapping[str, Any]]

VEGA_LITE = "6.4"  # the version of the page of `dvc plots` (.dvc/plots/page.html)
BLUE = "#0072b2"  # Okabe and Ito 2008
INK = "#1d1f23"  # all text outside of marks, and nothing else
DARK = f"""<style>@media (prefers-color-scheme:dark){{
[fill="{INK}"]{{fill:#eceef1}}
[fill="{BLUE}"]{{fill:#3391d4}}
[stroke="{BLUE}"]{{stroke:#3391d4}}
path[fill="white"]{{fill:#e0e0e0}}
}}</style>"""
# Liberation Sans comes with vl_convert, so text is measured alike on every machine. The others are
# what browsers have, and as wide.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
LOOK = {
    "font": FONT,
    "aria": False,
    "background": None,
    "view": {"stroke": None},
    "text": {"color": INK},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "gridColor": "#888",
        "gridOpacity": 0.25,
        "domainColor": "#888",
        "tickColor": "#888",
    },
    "header": {"labelColor": INK, "labelFontSize": 12, "labelFontWeight": "bold"},
    "legend": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
    },
}


def counted(rows: Rows, columns: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each combination of values of these columns, and in `count` how many rows have it.
    Of many rows a chart takes seconds and gigabytes."""
    counts = Counter(tuple(row[column] for column in columns) for row in rows)
    return [
        dict(zip(columns, values, strict=True)) | {"count": count}
        for values, count in counts.items()
    ]


def filled(name: str, rows: Rows) -> dict[str, Any]:
    """The template with the rows of one run, as `dvc plots` fills it, but in one colour, without a
    legend of revisions, and without a title, for which pages have captions."""
    template = Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8")
    values = [{"rev": "", **row} for row in rows]
    template = template.replace("<DVC_METRIC_TITLE>", "")
    template = template.replace('"<DVC_METRIC_COLOR>"', json.dumps({"value": BLUE}))
    template = template.replace('"<DVC_METRIC_DATA>"', json.dumps(values))
    return json.loads(template)


def svg(name: str, rows: Rows) -> bytes:
    """The chart as SVG (image/svg+xml) for a light or a dark page: it is transparent, and its
    colours follow the reader's colour scheme. Equal rows give equal bytes."""
    picture = vl_convert.vegalite_to_svg(filled(name, rows), vl_version=VEGA_LITE, config=LOOK)
    # Vega numbers the gradients of a process; no chart here has two.
    picture = re.sub(r'(id="|url\(#)gradient_\d+', r"\1gradient", picture)
    start = picture.index(">") + 1
    return (picture[:start] + DARK + picture[start:]).encode()


def png(name: str, rows: Rows) -> bytes:
    """The chart as PNG on white, twice as large as the SVG. Equal rows give equal bytes.

    The font is that of all PNG: matplotlib brings it, and its outlines have not changed for years.
    Of Liberation Sans a system may have another version.
    """
    _register_fonts()
    look = LOOK | {"background": "white", "font": "DejaVu Sans"}
    return vl_convert.vegalite_to_png(
        filled(name, rows), vl_version=VEGA_LITE, config=look, scale=2
    )


@cache
def _register_fonts() -> None:
    vl_convert.register_font_directory(str(Path(matplotlib.get_data_path(), "fonts/ttf")))
