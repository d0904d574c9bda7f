"""Patches are painted on the pixels that the model read them from."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from vit_finetune.attention.pixels import PixelGrid, spotlight
from vit_finetune.model.preprocessing import Preprocessing

GEOMETRIES = {  # image, resized, crop, grid
    "cifar": ((32, 32), (224, 224), (224, 224), (14, 14)),
    "cifar with crop": ((32, 32), (248, 248), (224, 224), (14, 14)),
    "landscape": ((100, 160), (64, 102), (48, 64), (3, 4)),
    "portrait, odd crop offset": ((161, 90), (123, 69), (64, 48), (4, 3)),
    "squash": ((50, 90), (48, 64), (48, 64), (6, 8)),
    "enlarged": ((20, 33), (96, 158), (96, 96), (6, 6)),
    "padded": ((41, 60), (41, 60), (48, 48), (3, 3)),
}


def test_a_grid_knows_the_sizes_of_the_preprocessing():
    preprocess = Preprocessing(
        {
            "input_size": (3, 48, 64),
            "interpolation": "bicubic",
            "crop_pct": 0.75,
            "crop_mode": "center",
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        }
    )
    grid = PixelGrid.of((100, 160, 3), preprocess, (3, 4))
    assert grid == PixelGrid((100, 160), preprocess.resized(100, 160), (48, 64), (3, 4))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_patch_paints_exactly_the_pixels_inside_its_box(geometry):
    grid = PixelGrid(*geometry)
    image, _, _, (rows, columns) = geometry
    for row, column in ((0, 0), (rows - 1, 0), (1, columns - 1), (rows // 2, columns // 2)):
        one_hot = np.zeros((rows, columns))
        one_hot[row, column] = 1
        lit = grid.paint(one_hot) == 1
        top, left, bottom, right = grid.boxes()[row, column]
        y, x = np.arange(image[0]) + 0.5, np.arange(image[1]) + 0.5
        expected = np.outer(
            (y >= top - 1e-9) & (y < bottom - 1e-9), (x >= left - 1e-9) & (x < right - 1e-9)
        )
        assert np.array_equal(lit, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_cropped_as_the_image_is_a_painted_map_has_one_value_in_each_patch(geometry):
    grid = PixelGrid(*geometry)
    _, resized, crop, (rows, columns) = geometry
    values = np.arange(1.0, rows * columns + 1).reshape(rows, columns)
    canvas = torch.from_numpy(np.nan_to_num(grid.paint(values, resized)))
    seen = transforms.center_crop(canvas[None], list(crop))[0].numpy()
    expected = np.kron(values, np.ones((crop[0] // rows, crop[1] // columns)))
    assert np.array_equal(seen[seen != 0], expected[seen != 0])
    inside = min(resized[0], crop[0]) * min(resized[1], crop[1])
    assert (seen != 0).sum() == inside


def test_light_on_the_painted_pixels_of_a_patch_reaches_that_patch_of_the_models_input():
    geometry = GEOMETRIES["landscape"]
    grid = PixelGrid(*geometry)
    _, resized, crop, shape = geometry
    for row, column in np.ndindex(*shape):
        one_hot = np.zeros(shape)
        one_hot[row, column] = 1
        picture = torch.from_numpy(np.nan_to_num(grid.paint(one_hot)))[None]
        given = transforms.center_crop(
            transforms.resize(picture, list(resized), antialias=True), list(crop)
        )[0]
        brightness = given.unfold(0, 16, 16).unfold(1, 16, 16).mean(dim=(-1, -2))
        assert divmod(int(brightness.argmax()), shape[1]) == (row, column)
        assert brightness.max() > 0.9


def test_outside_the_crop_there_is_no_value():
    painted = PixelGrid(*GEOMETRIES["landscape"]).paint(np.ones((3, 4)))
    assert np.isnan(painted[0]).all()
    assert np.isnan(painted[:, 0]).all()
    assert painted[50, 80] == 1


def test_a_grid_that_does_not_divide_the_crop_and_a_map_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(50, 64\) pixels cannot be cut into \(3, 4\)"):
        PixelGrid((100, 160), (64, 102), (50, 64), (3, 4))
    with pytest.raises(ValueError, match=r"the map is \(4, 3\), the grid \(3, 4\)"):
        PixelGrid(*GEOMETRIES["landscape"]).paint(np.ones((4, 3)))


def test_bars_that_were_added_are_not_painted():
    grid = PixelGrid((8, 8), (16, 16), (16, 16), (2, 2))
    painted = grid.paint(np.array([[1.0, 2.0], [3.0, 4.0]]), size=(16, 16), content=(2, 0, 6, 8))
    assert np.isnan(painted[:4]).all()
    assert np.isnan(painted[12:]).all()
    assert (painted[4:8, :8] == 1).all()
    assert (painted[8:12, 8:] == 4).all()


def test_a_spotlight_is_scaled_by_what_lies_on_the_image():
    painted = np.full((10, 10), 0.1)
    painted[:3] = np.nan  # a bar, on which the map was the highest
    lit = spotlight(np.full((5, 5, 3), 100, np.uint8), painted)
    assert (lit[:3] == 20).all()
    assert (lit[3:] == 100).all()
