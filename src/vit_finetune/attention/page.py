"""One HTML page in which a reader explores the attention of a few images.

Letters: L blocks, H heads, T tokens (prefix tokens, then the patches row by row), Gh x Gw patch
grid, K classes, P pairs of classes.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_finetune.attention.kept import Kept
from vit_finetune.pages.render import data_uri, pack, render

MATRICES = "attention"  # the view of the matrices themselves, beside those of the methods
TOP_LEVEL = 255  # of an attention value: 8 bits

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


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What the numbers along the axes of all records mean.

    Attributes:
        classes: names of the K classes.
        prefix_names: names of the tokens before the patches.
        methods: each method, in the order of the views, with a sentence that says what it shows.
        pairs: the P pairs of classes, the smaller number first, of which the records hold
            contrasts.
        kept: which blocks and heads the records hold, if not all.
    """

    classes: Sequence[str]
    prefix_names: Sequence[str]
    methods: Mapping[str, str]
    pairs: Sequence[tuple[int, int]] = ()
    kept: Kept | None = None


def compose(
    records: Iterable[Record],
    axes: Axes,
    *,
    title: str,
    summary: str,
    facts: Sequence[tuple[str, str]],
    start: tuple[int, str] = (0, MATRICES),
) -> str:
    """The page as text; equal arguments give equal bytes.

    Args:
        summary: a sentence that unfolds into `facts`, names and values.
        start: the image and the view that the page opens on.

    Raises:
        ValueError: a record does not fit the others, or there is none.
    """
    images = []
    shapes = []
    for number, record in enumerate(records):
        shapes.append(_check_shapes(record, number, axes))
        images.append(_describe(record, axes.methods))
        if shapes[number] != shapes[0]:
            raise ValueError(f"image {number} has {shapes[number]}, but image 0 has {shapes[0]}")
    if not images:
        raise ValueError("the page needs at least one image, but there are no records")
    depth, heads, _ = shapes[0]["shape"]
    kept = axes.kept or Kept(tuple(range(depth)), depth, heads)
    data = {
        **shapes[0],
        "blocks": kept.blocks,
        "depth": kept.depth,
        "meanHeads": not kept.each_head,
        "classes": list(axes.classes),
        "prefix": list(axes.prefix_names),
        "methods": dict(axes.methods),
        "pairs": list(axes.pairs),
        "start": start,
        "images": images,
    }
    return render(
        "attention/page.html",
        title=title,
        summary=summary,
        facts=facts,
        left_out=kept.left_out,
        data=data,
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
    fraction = attn / np.where(scale > 0, scale, 1)[..., None]
    return np.rint(TOP_LEVEL * np.sqrt(fraction)).astype(np.uint8), scale


def _check_shapes(record: Record, number: int, axes: Axes) -> dict[str, tuple[int, ...]]:
    """Grid (Gh, Gw) and shape (L, H, T) of a record.

    Raises:
        ValueError: with the expected shape and the one of the record.
    """
    if not axes.methods or MATRICES in axes.methods:
        raise ValueError(
            f"the page needs at least one method, and none called {MATRICES!r}; "
            f"got {list(axes.methods)}"
        )
    classes = len(axes.classes)
    first_method = next(iter(axes.methods))
    grid = record.maps[first_method].shape[1:]
    depth, heads = record.attn.shape[:2]
    tokens = len(axes.prefix_names) + int(np.prod(grid))
    checks = [
        ("image", record.image, (*record.image.shape[:2], 3)),
        ("probabilities", record.probabilities, (classes,)),
        ("attn", record.attn, (depth, heads, tokens, tokens)),
    ]
    for name in axes.methods:
        maps = record.maps[name]
        expected_maps = 1 if len(maps) == 1 else classes
        checks.append((f"map {name!r}", maps, (expected_maps, *grid)))
    for name, contrasts in record.contrasts.items():
        checks.append((f"contrasts of {name!r}", contrasts, (len(axes.pairs), *grid)))
    for name, array, expected in checks:
        if array.shape != expected:
            raise ValueError(f"image {number}: {name} has shape {array.shape}, expected {expected}")
    return {"grid": grid, "shape": (depth, heads, tokens)}


def _describe(record: Record, methods: Iterable[str]) -> dict[str, Any]:
    """A record as the page's script reads it."""
    levels, scale = quantise(record.attn)
    height, width = record.image.shape[:2]
    maps = {}
    for name in methods:
        maps[name] = _describe_maps(record.maps[name])
        contrasts = record.contrasts.get(name)
        maps[name]["against"] = None if contrasts is None else _describe_maps(contrasts)
    return {
        "png": _png(record.image),
        "size": [width, height],
        "box": [float(edge) for edge in record.box],
        "label": int(record.label),
        "predicted": int(record.predicted),
        "probabilities": [round(float(p), 6) for p in record.probabilities],
        "scale": pack((scale.view(np.uint32) >> 16).astype("<u2").tobytes()),
        "levels": pack(levels.tobytes()),
        "maps": maps,
        "file": record.file,
        "content": record.content,
    }


def _describe_maps(maps: Floats) -> dict[str, Any]:
    """Maps (K, 1 or P, Gh, Gw) in 256 levels between each one's own minimum and maximum."""
    low = maps.min(axis=(1, 2))
    high = maps.max(axis=(1, 2))
    span = np.where(high > low, high - low, 1)[:, None, None]
    levels = np.rint(255 * (maps - low[:, None, None]) / span).astype(np.uint8)
    return {"low": low.tolist(), "high": high.tolist(), "levels": pack(levels.tobytes())}


def _png(image: Bytes) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue())
