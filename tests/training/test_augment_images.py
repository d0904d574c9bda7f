"""Random changes of the training images."""

import numpy as np
import pytest
import torch

from vit_finetune.training.augmentation import augment


def coordinates(height, width, n=12):
    """Images whose first two channels say how far down and right each pixel is, in 0..240."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([240 * rows / (height - 1), 240 * columns / (width - 1), 0 * rows], axis=-1)
    return torch.from_numpy(np.repeat(image.round().astype(np.uint8)[None], n, axis=0))


@pytest.mark.parametrize("crop_scale", [0.2, 0.8])
@pytest.mark.parametrize("size", [(61, 61), (41, 61)])
def test_each_image_gets_its_own_random_crop_neither_turned_nor_mirrored(size, crop_scale):
    images = coordinates(*size)
    cropped = augment(images, crop_scale, 0, seed=3)
    assert (cropped.shape, cropped.dtype) == (images.shape, torch.uint8)
    down = cropped[..., 0].float()
    right = cropped[..., 1].float()
    assert down.std(2).max() < 0.6  # no rotation
    assert right.std(1).max() < 0.6
    shares = (
        (down.amax((1, 2)) - down.amin((1, 2))) * (right.amax((1, 2)) - right.amin((1, 2))) / 240**2
    )
    assert shares.min() > crop_scale - 0.1
    assert shares.max() <= 1
    assert shares.unique().numel() > 4
    assert (down.diff(dim=1) >= 0).all()  # neither upside down nor mirrored
    assert (right.diff(dim=2) >= 0).all()
    assert down.mean((1, 2)).std() > 2


def test_randaugment_changes_images_as_torchvisions_does_and_depends_on_the_seed_alone():
    from torchvision.transforms import v2

    images = torch.from_numpy(
        np.random.default_rng(0).integers(256, size=(6, 20, 20, 3), dtype=np.uint8)
    )
    before = torch.get_rng_state()
    changed = augment(images, 1.0, 12, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        transform = v2.RandAugment(num_ops=2, magnitude=12)
        expected = [transform(image.permute(2, 0, 1)).permute(1, 2, 0) for image in images]
    assert torch.equal(changed, torch.stack(expected))
    assert torch.equal(augment(images, 1.0, 12, seed=7), changed)
    assert not torch.equal(augment(images, 1.0, 12, seed=8), changed)
    assert not torch.equal(augment(images, 1.0, 3, seed=7), changed)
