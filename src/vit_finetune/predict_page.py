"""The page of `predict --page`: each image beside what speaks for its class."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_finetune.pages.cards import Card
from vit_finetune.pages.render import render

Pixels = NDArray[np.uint8]


def prediction_card(
    name: str, image: Pixels, spotlit: Pixels, drawn: str, top: Sequence[Mapping[str, Any]]
) -> Card:
    """The card of an image (H, W, 3).

    Args:
        spotlit: the image under the spotlight of its map, (H, W, 3).
        drawn: the class of the map.
        top: the most probable classes, {"label", "probability"}.
    """
    predicted = top[0]["label"]
    return Card(
        image=jpeg(image),
        alt=f"{name}: {predicted}",
        second=jpeg(spotlit),
        second_alt=f"{name}: what speaks for {drawn}",
        caption=name,
        classes=top,
        data={"name": name, "predicted": predicted},
    )


def predictions_page(cards: Sequence[Card], method: str, against: str | None) -> str:
    """The page as text. `method` is the map that is drawn, `against` the second class of it."""
    return render("predict_page.html", cards=cards, method=method, against=against)


def jpeg(image: Pixels) -> bytes:
    """An image (H, W, 3) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()
