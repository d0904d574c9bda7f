"""Cards of images for pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Card:
    """An image of a page, drawn by `image_card` of pages/cards.html.

    Attributes:
        image: PNG, JPEG or SVG.
        alt: the image in words.
        second: an image beside it, and `second_alt`.
        classes: the most probable classes first, {"label", "probability"}.
        data: what filters look at, {"predicted": "cat"}; in the page it is the attribute
            data-predicted.
    """

    image: bytes
    alt: str
    second: bytes | None = None
    second_alt: str = ""
    caption: str
    classes: Sequence[Mapping[str, Any]] = ()
    data: Mapping[str, str] = field(default_factory=dict)
