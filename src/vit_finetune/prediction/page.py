"""The page of `predict --page`: each image beside what speaks for its class."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_finetune.pages.cards import Card
from vit_finetune.pages.images import jpeg
from vit_finetune.pages.render import render
from vit_finetune.prediction.promise import Promise

Pixels = NDArray[np.uint8]


def prediction_card(
    name: str,
    image: Pixels,
    spotlit: Pixels,
    drawn: str,
    top: Sequence[Mapping[str, Any]],
    answered: bool | None = None,
) -> Card:
    """The card of an image (H, W, 3).

    Args:
        spotlit: the image under the spotlight of its map, (H, W, 3).
        drawn: the class of the map.
        top: the most probable classes, {"label", "probability"}.
        answered: whether the promise of the page covers the image; None without a promise.
    """
    predicted = top[0]["label"]
    data = {"name": name, "predicted": predicted}
    caption = name
    if answered is not None:
        data["answered"] = "yes" if answered else "no"
    if answered is False:
        caption = f"{name}: not answered"
    return Card(
        image=jpeg(image),
        alt=f"{name}: {predicted}",
        second=jpeg(spotlit),
        second_alt=f"{name}: what speaks for {drawn}",
        caption=caption,
        classes=top,
        data=data,
    )


class DrawnMap(NamedTuple):
    """The map that is drawn.

    Attributes:
        against: its second class, if it has one.
        verdict: on the run that trained the model, None where there is none.
        bars: whether images may have bars, on which no map is drawn.
    """

    method: str
    against: str | None
    verdict: str | None = None
    bars: bool = False


def predictions_page(cards: Sequence[Card], drawn: DrawnMap, promise: Promise | None = None) -> str:
    """The page as text."""
    return render("prediction/page.html", cards=cards, drawn=drawn, promise=promise)
