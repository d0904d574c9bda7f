"""One HTML page of predictions, with each image beside what speaks for its class. It loads
nothing."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_finetune.core.files import write_text

TEMPLATE = Path(__file__).with_suffix(".html")
Pixels = NDArray[np.uint8]


def note_of(method: str, against: str | None) -> str:
    """What the second picture of each image shows."""
    shown = (
        f"what speaks for the class and against {against}"
        if against
        else "what speaks for the class"
    )
    return (
        f"Left the image, right {shown} (map: {method}), each map on its own scale: bright where it is high, dimmed "
        "where it is low and where the model did not see the image. Whether a map explains a prediction has to be "
        "measured: see plots/attention_maps.csv of the run that trained the model."
    )


def card(name: str, image: Pixels, lit: Pixels, drawn: str, top: Sequence[dict[str, Any]]) -> str:
    """An image of the page.

    Args:
        lit: the image under the spotlight of its map, (H, W, 3).
        drawn: the class of the map.
        top: the most probable classes, {"label", "probability"}.
    """
    alt = html.escape(f"{name}: {top[0]['label']}"), html.escape(f"{name}: what speaks for {drawn}")
    pictures = "".join(
        f'<img src="{_jpeg(one)}" alt="{text}">'
        for one, text in zip((image, lit), alt, strict=True)
    )
    rows = "".join(
        f"<span>{html.escape(row['label'])}<meter value={row['probability']:.3f}></meter>"
        f"<data>{100 * row['probability']:.1f} %</data></span>"
        for row in top
    )
    return f"<figure><div>{pictures}</div><figcaption><b>{html.escape(name)}</b>{rows}</figcaption></figure>"


def write_page(path: str | Path, cards: Sequence[str], note: str) -> None:
    page = Template(TEMPLATE.read_text(encoding="utf-8"))
    write_text(path, page.substitute(note=html.escape(note), cards="\n".join(cards)))


def _jpeg(image: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
