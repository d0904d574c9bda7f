"""The batched preprocessing is timm's own, which goes image by image through PIL."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from vit_finetune.core.errors import UserError
from vit_finetune.model.build import preprocessing
from vit_finetune.model.preprocessing import Preprocessing


@pytest.mark.parametrize("crop_pct", [None, 1.0])
@pytest.mark.parametrize("size", [(32, 32), (40, 64), (500, 333)])
@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_base_patch32_clip_224", "vit_base_patch16_siglip_224"]
)
def test_batched_preprocessing_equals_timms_pil_transform(name, size, crop_pct):
    model = timm.create_model(name, depth=1, embed_dim=64, num_heads=4)
    images = torch.randint(
        0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    config = resolve_model_data_config(model, {} if crop_pct is None else {"crop_pct": crop_pct})
    transform = create_transform(**config, is_training=False)
    expected = torch.stack([transform(Image.fromarray(image.numpy())) for image in images])
    pixels = preprocessing(model, crop_pct)(images)
    std = torch.tensor(config["std"]).view(3, 1, 1)
    assert pixels.shape == expected.shape
    assert ((pixels - expected) * std * 255).abs().max() <= 0.001


CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "mean": (0.0,) * 3,
    "std": (1.0,) * 3,
}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("size", "target"), [(1024, 32), (1024, 224), (1000, 999), (224, 224), (8, 512)]
)
def test_levels_are_those_of_pillow_at_the_ends_of_the_sizes_that_are_allowed(
    size, target, interpolation
):
    """Of black and white pixels, whose sums are the largest."""
    rng = np.random.default_rng(0)
    image = 255 * rng.integers(2, size=(size, size, 3)).astype(np.uint8)
    config = CONFIG | {"input_size": (3, target, target), "interpolation": interpolation}
    levels = Preprocessing(config)(torch.from_numpy(image)[None])[0] * 255
    resampling = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(image).resize((target, target), resampling))
    assert np.array_equal(levels.permute(1, 2, 0).round().numpy(), expected)


def test_the_steps_name_what_is_done_with_an_image_of_a_size():
    steps = Preprocessing(CONFIG | {"crop_pct": 0.8}).steps(50, 60)
    assert steps == {
        "resize": (40, 48),
        "interpolation": "bicubic",
        "crop": (4, 8, 32, 32),
        "divide_by": 255,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    }


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("crop_mode", "border", "center, squash"),
        ("interpolation", "lanczos", "bicubic, bilinear"),
        ("crop_pct", 1.5, "up to 1"),
    ],
)
def test_a_crop_or_interpolation_that_is_not_known_is_named_with_those_that_are(key, value, known):
    assert Preprocessing(CONFIG).input_size == (32, 32)
    with pytest.raises(UserError, match=f"the model wants {key} {value!r}; supported: {known}"):
        Preprocessing({**CONFIG, key: value})
