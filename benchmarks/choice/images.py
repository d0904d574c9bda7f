"""Images that need no download: distorted characters in matplotlib's fonts, and made textures."""

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

GLYPH_SIDE = 32
TEXTURE_SIDE = 96
TEXTURES = (
    "coarse noise",
    "smooth noise",
    "streaks",
    "stripes",
    "cells",
    "cell walls",
    "spots",
    "chequers",
    "bricks",
    "lattice",
)


def to_rgb(grey):
    """Grey values (H, W) from 0 to 1 -> uint8 (H, W, 3)."""
    levels = (grey.clip(0, 1) * 255).round().astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=-1)


# Characters


def load_fonts(names):
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    return [ImageFont.truetype(folder / f"{name}.ttf", 100) for name in names]


def glyph_images(characters, fonts, each, seed):
    """So many images of each character, uint8 (N, 32, 32, 3), and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(characters)), each)
    images = []
    for label in labels:
        font = fonts[int(rng.integers(len(fonts)))]
        images.append(glyph_image(characters[label], font, rng))
    return np.stack(images), labels


def glyph_image(character, font, rng):
    """A character, warped, crossed by lines, blurred, and with noise."""
    glyph = bend(turn(draw_character(character, font, rng), rng), rng)
    pen = ImageDraw.Draw(glyph)
    for _ in range(rng.integers(0, 3)):
        ends = [tuple(point) for point in rng.integers(0, 64, (2, 2)).tolist()]
        pen.line(ends, fill=int(rng.integers(90, 255)), width=int(rng.integers(1, 4)))
    resolution = int(rng.choice([9, 12, 16, 32]))
    blurred = glyph.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.2))))
    coarse = blurred.resize((resolution, resolution), Image.Resampling.BOX)
    enlarged = coarse.resize((GLYPH_SIDE, GLYPH_SIDE), Image.Resampling.BICUBIC)
    grey = np.asarray(enlarged, dtype=np.float32) / 255
    grey = rng.uniform(0.0, 0.2) + grey * rng.uniform(0.4, 0.9)
    grey = grey + rng.normal(0, rng.uniform(0.02, 0.14), grey.shape)
    if rng.random() < 0.25:
        grey = 1 - grey
    return to_rgb(grey)


def draw_character(character, font, rng):
    canvas = Image.new("L", (192, 192))
    stroke = int(rng.integers(0, 4))
    pen = ImageDraw.Draw(canvas)
    pen.text((96, 96), character, fill=255, font=font, anchor="mm", stroke_width=stroke)
    return canvas


def turn(canvas, rng):
    """A random affine view of what is drawn, 64 pixels a side."""
    left, top, right, bottom = canvas.getbbox()
    side = max(right - left, bottom - top) * rng.uniform(1.05, 1.5)
    centre = np.array([left + right, top + bottom]) / 2 + rng.normal(0, 0.06, 2) * side
    angle = rng.normal(0, 0.25)
    shear = rng.normal(0, 0.25)
    squeeze = np.exp(rng.normal(0, 0.15))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[squeeze, shear], [0, 1 / squeeze]]) * side / 64
    offset = centre - matrix @ np.array([32, 32])
    rows = np.column_stack([matrix, offset])
    affine = Image.Transform.AFFINE
    return canvas.transform((64, 64), affine, rows.ravel().tolist(), Image.Resampling.BILINEAR)


def bend(glyph, rng):
    """Move each pixel of an image, 64 pixels a side, by a smooth random field."""
    shifts = []
    for coarse in rng.normal(0, 3.0, (2, 5, 5)):  # pixels
        field = Image.fromarray(coarse.astype(np.float32))
        shifts.append(np.asarray(field.resize((64, 64), Image.Resampling.BICUBIC)))
    y, x = np.mgrid[0:64, 0:64]
    rows = np.clip((y + shifts[0]).round().astype(int), 0, 63)
    columns = np.clip((x + shifts[1]).round().astype(int), 0, 63)
    return Image.fromarray(np.asarray(glyph)[rows, columns])


# Textures


def texture_images(each, seed):
    """So many images of each of TEXTURES, uint8 (N, 96, 96, 3), and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(TEXTURES)), each)
    return np.stack([texture_image(TEXTURES[label], rng) for label in labels]), labels


def texture_image(name, rng):
    """A texture under noise, between two random colours."""
    noise = rng.uniform(0.8, 2.2) * smooth_noise(rng, rng.uniform(0.0, 1.2))
    field = texture(name, rng) + noise
    contrast = rng.uniform(0.4, 1.2) * rng.choice([-1, 1])
    weight = 1 / (1 + np.exp(-field * contrast))
    dark = rng.uniform(0, 0.5, 3)
    light = rng.uniform(0.5, 1, 3)
    image = dark + weight[..., None] * (light - dark)
    image = image + rng.normal(0, rng.uniform(0.02, 0.12), image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def texture(name, rng):
    """A field (96, 96) of mean 0 and standard deviation 1, with its own scale and direction."""
    angle = rng.uniform(0, np.pi)
    frequency = np.exp(rng.uniform(np.log(5), np.log(14)))  # a side
    y, x = np.mgrid[0:TEXTURE_SIDE, 0:TEXTURE_SIDE] / TEXTURE_SIDE
    u = x * np.cos(angle) + y * np.sin(angle) + bending(rng)
    v = y * np.cos(angle) - x * np.sin(angle) + bending(rng)
    match name:
        case "coarse noise":
            field = smooth_noise(rng, rng.uniform(0.8, 1.3))
        case "smooth noise":
            field = smooth_noise(rng, rng.uniform(1.4, 1.9))
        case "streaks":
            field = smooth_noise(rng, rng.uniform(0.8, 1.6), angle, rng.uniform(2.2, 3.5))
        case "stripes":
            field = np.sin(2 * np.pi * frequency * u)
        case "cells" | "cell walls" | "spots":
            field = cells(name, x, y, frequency, rng)
        case "chequers":
            field = np.sin(2 * np.pi * frequency * u) * np.sin(2 * np.pi * frequency * v)
        case "bricks":
            row = np.floor(v * frequency)
            across = np.abs((u * frequency / 2 + 0.5 * (row % 2)) % 1 - 0.5) * 2
            along = np.abs((v * frequency) % 1 - 0.5) * 2
            field = (np.minimum(across, along) < 0.8).astype(float)
        case "lattice":
            field = np.sin(2 * np.pi * frequency * u) + np.sin(2 * np.pi * frequency * v)
    return (field - field.mean()) / (field.std() + 1e-9)


def bending(rng):
    return smooth_noise(rng, 2.2) * rng.uniform(0.01, 0.04)


def cells(name, x, y, frequency, rng):
    """Distances to random points: to the nearest, to the border between two, or close ones."""
    points = rng.random((int(frequency**2 / 1.5) + 8, 2))
    distances = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1])
    nearest, second = np.moveaxis(np.sort(distances, axis=-1)[..., :2], -1, 0)
    if name == "cells":
        return nearest
    if name == "cell walls":
        return second - nearest
    return (nearest < 0.35 / frequency).astype(float)


def smooth_noise(rng, exponent, angle=0.0, stretch=1.0):
    """Noise (96, 96) whose amplitudes fall with frequency, stretched along a direction."""
    frequencies = np.fft.fftfreq(TEXTURE_SIDE)
    fy, fx = np.meshgrid(frequencies, frequencies, indexing="ij")
    along = (fx * np.cos(angle) + fy * np.sin(angle)) * stretch
    across = (fy * np.cos(angle) - fx * np.sin(angle)) / stretch
    radius = np.hypot(along, across)
    radius[0, 0] = 1
    white = np.fft.fft2(rng.normal(size=radius.shape))
    field = np.fft.ifft2(white * radius ** (-exponent)).real
    return (field - field.mean()) / field.std()
