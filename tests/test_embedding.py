"""Stored activations come back as they went in, or not at all."""

import numpy as np
import pytest
import torch

from vit_finetune import embedding
from vit_finetune.embedding import image_loader, map_activations, storage_dtype, write_activations


def write(folder, batches, dtype, taken=None):
    """All batches from the start, or those after what the record says is done; `taken` collects where it started."""
    sizes = np.cumsum([0, *(len(batch) for batch in batches)]).tolist()

    def after(done):
        if taken is not None:
            taken.append(done)
        return batches[sizes.index(done) :]

    return write_activations(folder / "val.bin", folder / "val.json", after, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "uint8"])
def test_activations_come_back_bit_for_bit_in_their_order(tmp_path, dtype):
    values = (torch.arange(7 * 6).view(7, 3, 2) / (1 if dtype == "uint8" else 3)).to(getattr(torch, dtype))
    shape = write(tmp_path, values.split(3), getattr(torch, dtype))
    manifest = {"storage": dtype, "shapes": {"val": shape}}
    assert torch.equal(map_activations(tmp_path, manifest, "val"), values)


def test_changing_mapped_activations_leaves_the_file_alone(tmp_path):
    shape = write(tmp_path, [torch.ones(2, 2)], torch.float32)
    before = (tmp_path / "val.bin").read_bytes()
    map_activations(tmp_path, {"storage": "float32", "shapes": {"val": shape}}, "val").zero_()
    assert (tmp_path / "val.bin").read_bytes() == before


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1])])
def test_a_missing_or_short_file_is_an_error_that_says_what_to_do(tmp_path, damage):
    shape = write(tmp_path, [torch.ones(2, 2)], torch.float32)
    damage(tmp_path / "val.bin")
    with pytest.raises(OSError, match=r"val\.bin is missing or damaged; run dvc repro"):
        map_activations(tmp_path, {"storage": "float32", "shapes": {"val": shape}}, "val")


@pytest.mark.parametrize(("largest", "expected"), [(3.0, torch.float16), (20_000.0, torch.bfloat16)])
def test_automatic_storage_is_float16_until_values_come_near_its_limit(largest, expected):
    assert storage_dtype("auto", torch.tensor([0.0, -largest])) == expected
    assert storage_dtype("float32", torch.tensor([largest])) == torch.float32


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (70_000.0, r"activations of images 4 to 4 are too large for float16; set embed\.storage"),
        (float("inf"), r"activations of images 4 to 4 are too large for float16; set embed\.storage"),
        (float("nan"), "the model gives NaN for images 4 to 4: its weights are damaged"),
    ],
)
def test_a_value_that_the_format_cannot_hold_names_the_images(tmp_path, value, message):
    batches = [torch.zeros(4, 2), torch.tensor([[0.0, value]])]
    with pytest.raises(ValueError, match=message):
        write(tmp_path, batches, torch.float16)


def test_images_are_loaded_in_order_whole_and_mirrored_left_to_right():
    images = np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)
    for workers in (0, 2):
        plain = torch.cat(list(image_loader(images, flip=False, batch_size=2, workers=workers)))
        mirrored = torch.cat(list(image_loader(images, flip=True, batch_size=2, workers=workers)))
        np.testing.assert_array_equal(plain, images)
        np.testing.assert_array_equal(mirrored, images[:, :, ::-1])


def cut_short(batches, after):
    """The batches, and a power cut."""
    yield from batches[:after]
    raise KeyboardInterrupt


@pytest.mark.parametrize(("after", "confirmed"), [(0, 0), (1, 0), (2, 4), (3, 4), (4, 8), (5, 8)])
@pytest.mark.parametrize("garbage", [b"", b"half a batch"])
def test_a_pass_cut_short_goes_on_after_the_last_confirmed_chunk(tmp_path, monkeypatch, after, confirmed, garbage):
    monkeypatch.setattr(embedding, "CHUNK", 2)
    batches = torch.randn(9, 3, 2, generator=torch.Generator().manual_seed(0)).split(2)
    whole, resumed, taken = tmp_path / "whole", tmp_path / "resumed", []
    whole.mkdir()
    resumed.mkdir()
    shape = write(whole, batches, torch.float16)
    with pytest.raises(KeyboardInterrupt):
        write_activations(
            resumed / "val.bin", resumed / "val.json", lambda done: cut_short(batches, after), torch.float16
        )
    with (resumed / "val.bin").open("ab") as file:
        file.write(garbage)
    assert write(resumed, batches, torch.float16, taken) == shape == [9, 3, 2]
    assert taken == [confirmed]
    assert (resumed / "val.bin").read_bytes() == (whole / "val.bin").read_bytes()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"short")])
def test_a_record_without_its_data_is_not_believed(tmp_path, damage):
    batches, taken = torch.ones(4, 2).split(2), []
    write(tmp_path, batches, torch.float32)
    damage(tmp_path / "val.bin")
    assert write(tmp_path, batches, torch.float32, taken) == [4, 2]
    assert taken == [0]
    assert (tmp_path / "val.bin").read_bytes() == torch.ones(4, 2).numpy().tobytes()
