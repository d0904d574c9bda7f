"""What decides where `data.fit: pad` was used: the image, or the bars beside it?

Maps of single images are not drawn on bars, but a model sees them, and they tell the shape of the
file. If shape and class go together, a model may read nothing else, and no score of a map shows
that. So pairs of images of different predicted classes exchange their bars, and the model is asked
again.

Both images of a pair are asked. So a model that gives one answer to whatever looks unusual follows
the bars once and the image once, and the pair decides nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vit_finetune.attention.sample import PredictedImages, Preprocess
from vit_finetune.intervals import LEVEL, fraction, sign_test
from vit_finetune.verdict import BARS, IMAGE, UNCLEAR

Image = NDArray[np.uint8]
Box = Sequence[int] | NDArray[np.int32]  # top, left, bottom, right in pixels

DIFFERENT = 0.05  # of the square: bars that differ by less are taken as alike
BATCH = 32


def with_bars(image: Image, content: Box, other: Image, other_content: Box) -> Image:
    """An image (H, W, 3) with the bars of another one in place of its own.

    What stays visible keeps its place and its scale, so that nothing is stretched: where the new
    bars are narrower, the image goes on as its mirror image; where they are wider, they cover it.
    With its own bars an image is what it was.
    """
    top, left, bottom, right = content
    height, width = image.shape[:2]
    around = ((top, height - bottom), (left, width - right), (0, 0))
    whole = np.pad(image[top:bottom, left:right], around, mode="symmetric")
    top, left, bottom, right = other_content
    result = other.copy()
    result[top:bottom, left:right] = whole[top:bottom, left:right]
    return result


def difference(content: Box, other: Box, size: int) -> float:
    """The part of `size` pixels that lies in exactly one of two boxes."""
    top, left = np.maximum(content[:2], other[:2])
    bottom, right = np.minimum(content[2:], other[2:])
    common = max(0, bottom - top) * max(0, right - left)
    return (_area(content) + _area(other) - 2 * common) / size


def _area(box: Box) -> int:
    top, left, bottom, right = box
    return int((bottom - top) * (right - left))


def draw_pairs(test: PredictedImages, rng: np.random.Generator) -> NDArray[np.intp]:
    """Pairs of images that are predicted as different classes and have different bars, at random:
    their rows, (P, 2), each image in at most one pair."""
    assert test.content is not None
    height, width = test.images.shape[1:3]
    free = rng.permutation(len(test.images)).tolist()
    pairs = []
    while free:
        one = free.pop()
        for other in free:
            unlike = difference(test.content[one], test.content[other], height * width)
            if test.predicted[one] != test.predicted[other] and unlike >= DIFFERENT:
                free.remove(other)
                pairs.append((one, other))
                break
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


def exchange_bars(
    model: nn.Module, test: PredictedImages, preprocess: Preprocess, rng: np.random.Generator
) -> dict[str, Any]:
    """How the predictions change when padded images exchange their bars.

    Returns:
        `exchanged`, the number of images; and unless it is 0: `follow_bars`, the fraction that is
        then predicted as the image from which the bars came, `follow_image`, the fraction that is
        predicted as before, each with its interval, in which the images of a pair are a group; and
        `decides`, which of the two is more frequent.
    """
    assert test.content is not None
    pairs = draw_pairs(test, rng)
    if len(pairs) == 0:
        return {"exchanged": 0}
    images = np.concatenate([pairs[:, 0], pairs[:, 1]])
    donors = np.concatenate([pairs[:, 1], pairs[:, 0]])
    mixed = []
    for image, donor in zip(images, donors, strict=True):
        mixed.append(
            with_bars(
                test.images[image], test.content[image], test.images[donor], test.content[donor]
            )
        )
    answers = predict(model, preprocess, np.stack(mixed))
    follow_bars = answers == test.predicted[donors]
    follow_image = answers == test.predicted[images]
    groups = np.tile(np.arange(len(pairs)), 2)
    found: dict[str, Any] = {"exchanged": len(images)}
    for name, values in (("follow_bars", follow_bars), ("follow_image", follow_image)):
        of_images = fraction(values, groups)
        found[name] = round(of_images.mean, 4)
        found[f"{name}_ci95"] = [round(of_images.low, 4), round(of_images.high, 4)]
    gains = (follow_bars.astype(int) - follow_image).reshape(2, -1).sum(axis=0)
    return found | {"decides": more_frequent(gains)}


def more_frequent(gains: NDArray[np.int64]) -> str:
    """What decides in most pairs, by the sign test (two-sided, exact).

    Args:
        gains: (P,), above 0 where the bars decide, below 0 where the image does.
    """
    bars = int((gains > 0).sum())
    images = int((gains < 0).sum())
    if sign_test(bars, images) >= 1 - LEVEL:
        return UNCLEAR
    return BARS if bars > images else IMAGE


@torch.inference_mode()
def predict(model: nn.Module, preprocess: Preprocess, images: Image) -> NDArray[np.int64]:
    """The predicted classes (N,) of images (N, H, W, 3)."""
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = preprocess(torch.from_numpy(images[start : start + BATCH]))
        parts.append(model(pixels).argmax(dim=1).cpu())
    return torch.cat(parts).numpy()
