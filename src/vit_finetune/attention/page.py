"""One HTML page in which a reader explores the attention of a few images.

T tokens (prefix tokens, then the patches row by row), K classes, a grid of G_h x G_w patches.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_finetune.attention.gallery import Shown
from vit_finetune.attention.judge import Judgement
from vit_finetune.attention.kept import Kept
from vit_finetune.attention.maps import METHODS
from vit_finetune.attention.pixels import PixelGrid
from vit_finetune.pages.render import data_uri, pack, render
from vit_finetune.verdict import bars_in_words, error_chance, in_words

MATRICES = "attention"  # the view of the matrices themselves, beside those of the methods
TOP_LEVEL = 255  # of an attention value: 8 bits

Floats = NDArray[np.floating]
Bytes = NDArray[np.uint8]


class Method(NamedTuple):
    """A way to make maps.

    Attributes:
        description: a sentence that says what it shows.
        verdict: a word, against a centred Gaussian.
        signed: whether values below 0 speak against the class.
    """

    name: str
    description: str
    verdict: str
    signed: bool


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all images of the page have in common.

    Attributes:
        classes: names of the K classes.
        prefix: names of the tokens before the patches.
        methods: in the order of the views.
        kept: which blocks and heads the images hold.
        grid: where the patches lie.
    """

    classes: Sequence[str]
    prefix: Sequence[str]
    methods: Sequence["Method"]
    kept: Kept
    grid: PixelGrid

    @property
    def box(self) -> list[float]:
        """Left, top, right, bottom of the patches, in original pixels."""
        boxes = self.grid.boxes()
        top, left = boxes[0, 0, :2].tolist()
        bottom, right = boxes[-1, -1, 2:].tolist()
        return [left, top, right, bottom]


def compose(
    images: Sequence[Shown],
    common: Common,
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
    """
    kept = common.kept
    data = {
        "grid": common.grid.grid,
        "shape": images[0].page_attn.shape[:3],
        "box": common.box,
        "blocks": kept.blocks,
        "depth": kept.depth,
        "meanHeads": not kept.each_head,
        "classes": list(common.classes),
        "prefix": list(common.prefix),
        "methods": [method._asdict() for method in common.methods],
        "start": start,
        "images": [_describe(one, [method.name for method in common.methods]) for one in images],
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


def _describe(shown: Shown, methods: Iterable[str]) -> dict[str, Any]:
    """An image as the page's script reads it."""
    levels, scale = quantise(shown.page_attn)
    height, width = shown.image.shape[:2]
    maps = {}
    for name in methods:
        contrasts = shown.contrasts.get(name)
        maps[name] = {
            **_describe_maps(shown.maps[name]),
            "against": None if contrasts is None else _describe_maps(contrasts),
        }
    return {
        "png": _png(shown.image),
        "size": [width, height],
        "label": shown.label,
        "predicted": shown.predicted,
        "probabilities": [round(float(p), 6) for p in shown.probabilities],
        "rivals": shown.rivals,
        "scale": pack((scale.view(np.uint32) >> 16).astype("<u2").tobytes()),
        "levels": pack(levels.tobytes()),
        "maps": maps,
        "file": shown.file,
        "content": shown.content,
    }


def _describe_maps(maps: Floats) -> dict[str, Any]:
    """Maps (n, G_h, G_w) in 256 levels between each one's own minimum and maximum."""
    low = maps.min(axis=(1, 2))
    high = maps.max(axis=(1, 2))
    span = np.where(high > low, high - low, 1)[:, None, None]
    levels = np.rint(255 * (maps - low[:, None, None]) / span).astype(np.uint8)
    return {"low": low.tolist(), "high": high.tolist(), "levels": pack(levels.tobytes())}


def _png(image: Bytes) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue())


def methods_in_order(rows: Sequence[Mapping[str, Any]]) -> list[Method]:
    """The methods in the order of the rows of the maps."""
    found = []
    for row in rows:
        if row["verdict"]:
            kind = METHODS[row["map"]]
            found.append(Method(kind.name, kind.description, row["verdict"], kind.signed))
    return found


def facts(judgement: Judgement) -> list[tuple[str, str]]:
    """Numbers of the page: the margins that the verdict rests on, and the proof of the capture."""
    found = []
    rows = [row for row in judgement.tables["attention_maps"] if row["verdict"]]
    chance = error_chance(rows)
    if chance:
        found.append(("how sure that is", chance))
    for row in rows:
        low = row["minus_centre_low"]
        high = row["minus_centre_high"]
        found.append(
            (
                f"{row['map']}: score minus that of a centred Gaussian",
                f"{row['minus_centre']:+.3f} [{low:+.3f}, {high:+.3f}]",
            )
        )
    error = judgement.metrics["selfcheck_max_rel_err"]
    found.append(("self-check of every block, largest relative error", f"{error:.1e}"))
    if judgement.shares:
        shares = [f"{name} {100 * share:.0f} %" for name, share in judgement.shares.items()]
        found.append(("where the predicted class's logit comes from", ", ".join(shares)))
        error = judgement.metrics["completeness_max_rel_err"]
        found.append(("sum of these parts against the logit, relative error", f"{error:.1e}"))
    return found


def opening(images: Sequence[Shown], judgement: Judgement) -> tuple[int, str]:
    """What the page opens on: the most confident mistake, or without mistakes the least confident
    image; and of the maps that know the class the first, which deserves most trust."""
    order = [(one.predicted == one.label, -one.confidence) for one in images]
    if all(right for right, _ in order):
        order = [(right, -confidence) for right, confidence in order]
    first = min(range(len(images)), key=lambda i: order[i])
    names = [row["map"] for row in judgement.tables["attention_maps"] if row["verdict"]]
    return first, next(name for name in names if METHODS[name].asks)


def attention_page(images: Sequence[Shown], common: Common, judgement: Judgement) -> str:
    """The interactive page, as text."""
    verdict = in_words(judgement.tables["attention_maps"])
    return compose(
        images,
        common,
        title="What the model attends to",
        summary=f"{verdict} {bars_in_words(judgement.metrics)}".rstrip(),
        facts=facts(judgement),
        start=opening(images, judgement),
    )
