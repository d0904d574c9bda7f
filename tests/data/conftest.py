import pytest
from PIL import Image


@pytest.fixture
def few_pixels(monkeypatch):
    """Pillow takes an image of more than 9,216 pixels for a decompression bomb."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 72)
