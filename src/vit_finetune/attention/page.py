"""One self-contained HTML page in which a reader explores the attention of a few images.

Letters: L blocks, H heads, T tokens (prefix tokens, then the patches row by row), Gh x Gw patch
grid, K classes.
"""

import base64
import html
import io
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_finetune.attention.kept import Kept

TEMPLATE = Path(__file__).with_suffix(".html")
OWN_TAB = "attention"  # the tab of the matrices themselves
TOP_LEVEL = 255  # of an attention value: 8 bits
NOTE = "Attention shows where a block reads from. It is not by itself an explanation of the prediction."

Floats = NDArray[np.floating]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of the page and everything the model computed on it."""

    image: Bytes  # (H, W, 3), the original pixels
    # (L, H, T, T), rows are queries; of the blocks that are kept, H = 1 for the mean over heads
    attn: Floats
    maps: Mapping[str, Floats]  # per method (K, Gh, Gw), or (1, Gh, Gw) when it knows no class
    label: int
    predicted: int
    probabilities: Floats  # (K,)
    # left, top, right, bottom of the grid, in original pixels
    box: tuple[float, float, float, float]
    file: str = ""  # where the image came from
    # the image without bars: left, top, right, bottom in pixels
    content: tuple[int, int, int, int] | None = None
    # per method that has them (P, Gh, Gw), signed
    contrasts: Mapping[str, Floats] = field(default_factory=dict)


def render(
    records: Iterable[Record],
    *,
    title: str,
    classes: Sequence[str],
    prefix_names: Sequence[str],
    methods: Mapping[str, str],
    summary: str,
    facts: Sequence[tuple[str, str]],
    start: tuple[int, str] = (0, OWN_TAB),
    pairs: Sequence[tuple[int, int]] = (),
    note: str = NOTE,
    kept: Kept | None = None,
) -> str:
    """The page as text; equal arguments give equal bytes, and the page never asks the network for
    anything.

    `methods` maps each method, in the order of its tab, to a sentence that says what it shows;
    `summary` is a sentence that unfolds into `facts`, (name, value) pairs; `start` is the image and
    the tab that the page opens on; `pairs` are the P pairs of classes, the smaller number first, of
    which the records hold contrasts; `kept` says which blocks and heads the records hold, if not
    all, and the page names what it leaves out. Raises ValueError when a record does not fit the
    others.
    """
    images, layouts = [], []
    for number, record in enumerate(records):
        layouts.append(
            _layout(record, number, len(classes), len(prefix_names), list(methods), len(pairs))
        )
        images.append(_describe(record, methods))
        if layouts[number] != layouts[0]:
            raise ValueError(f"image {number} has {layouts[number]}, but image 0 has {layouts[0]}")
    if not images:
        raise ValueError("the page needs at least one image, but there are no records")
    depth, heads = layouts[0]["shape"][:2]
    kept = kept or Kept(tuple(range(depth)), depth, heads)
    data = {
        **{
            "title": title,
            "note": f"{note} {kept.left_out}".rstrip(),
            "summary": summary,
            "facts": list(facts),
        },
        "classes": list(classes),
        "prefix": list(prefix_names),
        "methods": dict(methods),
        **layouts[0],
        **{"blocks": kept.blocks, "depth": kept.depth, "meanHeads": not kept.each_head},
        **{"start": start, "pairs": list(pairs)},
        "images": images,
    }
    # "<" could end the script element early; inside JSON its escape means the same
    parts = {
        "title": html.escape(title),
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    }
    return re.sub(
        r"\{\{(title|data)\}\}", lambda found: parts[found[1]], TEMPLATE.read_text("utf-8")
    )


def quantise(attn: Floats) -> tuple[Bytes, Floats]:
    """Attention (..., T, T) -> levels (..., T, T) in 0..255 and the scale of each row, float32
    (..., T).

    A value is about scale * (level / 255)**2: the square root spends the levels on the many small
    values. The scale is the row's maximum rounded up to bfloat16, so that it is stored in two
    bytes.
    """
    if not (np.isfinite(attn).all() and (attn >= 0).all()):
        raise ValueError("attention must be finite and not negative, but it is not")
    bits = attn.max(axis=-1).astype(np.float32).view(np.uint32)
    scale = ((bits + 0xFFFF) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    share = attn / np.where(scale > 0, scale, 1)[..., None]
    return np.rint(TOP_LEVEL * np.sqrt(share)).astype(np.uint8), scale


def _layout(
    record: Record, number: int, classes: int, prefix: int, methods: Sequence[str], pairs: int
) -> dict[str, tuple[int, ...]]:
    """Grid (Gh, Gw) and (L, H, T) of a record, or ValueError with what was expected and what
    came."""
    if not methods or OWN_TAB in methods:
        raise ValueError(
            f"the page needs at least one method, and none called {OWN_TAB!r}; got {list(methods)}"
        )
    grid = record.maps[methods[0]].shape[1:]
    found = [
        ("image", record.image, (*record.image.shape[:2], 3)),
        ("probabilities", record.probabilities, (classes,)),
    ]
    found += [("attn", record.attn, (*record.attn.shape[:2], *[prefix + int(np.prod(grid))] * 2))]
    for name in methods:
        known = 1 if len(record.maps[name]) == 1 else classes
        found += [(f"map {name!r}", record.maps[name], (known, *grid))]
    found += [
        (f"contrasts of {name!r}", array, (pairs, *grid))
        for name, array in record.contrasts.items()
    ]
    for name, array, expected in found:
        if array.shape != expected:
            raise ValueError(f"image {number}: {name} has shape {array.shape}, expected {expected}")
    return {"grid": grid, "shape": record.attn.shape[:3]}


def _describe(record: Record, methods: Iterable[str]) -> dict[str, Any]:
    """A record as the page's script reads it."""
    levels, scale = quantise(record.attn)
    height, width = record.image.shape[:2]
    return {
        "png": _png(record.image),
        "size": [width, height],
        "box": [float(edge) for edge in record.box],
        "label": int(record.label),
        "predicted": int(record.predicted),
        "probabilities": [round(float(p), 6) for p in record.probabilities],
        "scale": _pack((scale.view(np.uint32) >> 16).astype("<u2")),
        "levels": _pack(levels),
        "maps": {
            name: _describe_map(record.maps[name])
            | {
                "against": _describe_map(record.contrasts[name])
                if name in record.contrasts
                else None
            }
            for name in methods
        },
        "file": record.file,
        "content": record.content,
    }


def _describe_map(maps: Floats) -> dict[str, Any]:
    """Maps (K, 1 or P, Gh, Gw) in 256 levels between each one's own minimum and maximum."""
    low, high = maps.min(axis=(1, 2)), maps.max(axis=(1, 2))
    span = np.where(high > low, high - low, 1)[:, None, None]
    levels = np.rint(255 * (maps - low[:, None, None]) / span).astype(np.uint8)
    return {"low": low.tolist(), "high": high.tolist(), "levels": _pack(levels)}


def _pack(array: NDArray[Any]) -> str:
    """Zlib, then base64: what `DecompressionStream("deflate")` reads back."""
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode("ascii")


def _png(image: Bytes) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
