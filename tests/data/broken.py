"""Bytes of image files that are none: cut, empty, of another kind, too large."""

import io

import numpy as np
from PIL import Image, features


def saved(kind, mode="RGB", size=(24, 24), colour="red"):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return file.getvalue()


def photograph():
    """The bytes of a JPEG with enough in it to be cut."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(
        file, "JPEG"
    )
    return file.getvalue()


JPEG = photograph()
BLP = saved("BLP", mode="P", size=(8, 8), colour=0)
BOMB = saved("PNG", size=(100, 100))  # more pixels than the fixture `few_pixels` allows

BROKEN_FILES = {
    "half a photograph.jpg": JPEG[: len(JPEG) // 2],
    "all but the end.jpg": JPEG[:-200],
    "half a drawing.png": saved("PNG")[:50],
    "text.jpg": b"404: Not Found\n",
    "page.webp": b"<!doctype html><html></html>",
    "empty.png": b"",
    "signature alone.png": b"\x89PNG\r\n\x1a\n",
    "of an unknown kind.blp": BLP[:8] + b"\xff" + BLP[9:],
    "bomb.png": BOMB,
}
if features.check("avif"):
    BROKEN_FILES["half a photograph.avif"] = saved("AVIF")[:-20]
