"""The batched preprocessing is timm's own, which goes image by image through PIL."""

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


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("crop_mode", "border", "center, squash"),
        ("interpolation", "lanczos", "bicubic, bilinear"),
        ("crop_pct", 1.5, "up to 1"),
    ],
)
def test_a_crop_or_interpolation_that_is_not_known_is_named_with_those_that_are(key, value, known):
    config = {
        "input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    assert Preprocessing(config).input_size == (32, 32)
    with pytest.raises(UserError, match=f"the model wants {key} {value!r}; supported: {known}"):
        Preprocessing({**config, key: value})
