"""Stored activations come back bit for bit, or an error says what is wrong with them."""

import numpy as np
import pytest
import torch

from vit_finetune.activations import files
from vit_finetune.activations.files import ActivationFile, map_activations, resident, storage_dtype
from vit_finetune.activations.manifest import Manifest
from vit_finetune.activations.views import ImageView
from vit_finetune.core.errors import UserError


def activation_file(folder, values, batch_size=2):
    path = folder / "val.bin"
    done = folder / "done"
    return ActivationFile(path, done, list(values.shape), values.dtype, batch_size)


def write(folder, values, batch_size=2):
    """Write what is missing; returns how many images that were."""
    file = activation_file(folder, values, batch_size)
    file.prepare()
    missing = file.missing(file.segments())
    batches = [batch for segment in missing for batch in file.batches(segment)]
    file.write(missing, (values[batch.start : batch.stop] for batch in batches))
    return sum(map(len, batches))


def mapped(folder, values):
    storage = str(values.dtype).removeprefix("torch.")
    manifest = Manifest("", {}, {}, 1, "tokens", "float32", storage, {"val": [*values.shape]})
    return map_activations(folder, manifest, "val")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8])
def test_activations_come_back_bit_for_bit_in_their_order(tmp_path, dtype):
    values = (torch.arange(7 * 6).view(7, 3, 2) * 1.5).to(dtype)
    write(tmp_path, values, batch_size=3)
    view = mapped(tmp_path, values)
    assert len(view) == 7
    assert torch.equal(view[:], values)
    assert torch.equal(view[torch.tensor([5, 0, 5])], values[[5, 0, 5]])


def test_changing_mapped_activations_leaves_the_file_alone(tmp_path):
    values = torch.ones(2, 2)
    write(tmp_path, values)
    mapped(tmp_path, values)[:].zero_()
    assert torch.equal(mapped(tmp_path, values)[:], values)


@pytest.mark.parametrize(
    "damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1])]
)
def test_a_missing_or_short_file_is_an_error_that_says_what_to_do_and_is_written_again(
    tmp_path, damage
):
    values = torch.ones(4, 2)
    write(tmp_path, values)
    damage(tmp_path / "val.bin")
    with pytest.raises(UserError, match=r"val\.bin is missing or damaged; run dvc repro"):
        mapped(tmp_path, values)
    assert write(tmp_path, values) == 4
    assert torch.equal(mapped(tmp_path, values)[:], values)


@pytest.mark.parametrize(
    ("largest", "expected"), [(3.0, torch.float16), (20_000.0, torch.bfloat16)]
)
def test_automatic_storage_is_float16_until_values_come_near_its_limit(largest, expected):
    assert storage_dtype("auto", torch.tensor([0.0, -largest])) == expected
    assert storage_dtype("float32", torch.tensor([largest])) == torch.float32


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (70_000.0, r"activations of images 4 to 4 are too large for float16; set embed\.storage"),
        (float("inf"), r"activations of images 4 to 4 are too large for float16"),
        (float("nan"), "the model gives NaN for images 4 to 4: its weights are damaged"),
    ],
)
def test_a_value_that_the_format_cannot_hold_names_the_images(tmp_path, value, message):
    file = activation_file(tmp_path, torch.zeros(5, 2, dtype=torch.float16))
    file.prepare()
    values = torch.cat([torch.zeros(4, 2), torch.tensor([[0.0, value]])])
    with pytest.raises(UserError, match=message):
        file.write(file.segments(), iter(values.split(2)))


def activations_and_images(folder):
    """A view of each kind, 32 bytes each, with all that is in it."""
    values = torch.arange(8.0).view(4, 2)
    write(folder, values)
    images = np.arange(32, dtype=np.uint8).reshape(4, 2, 4, 1)
    return [(mapped(folder, values), values), (ImageView(images), torch.from_numpy(images))]


def test_a_view_moves_only_where_at_most_half_of_a_gpus_free_memory_takes_it(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    for view, everything in activations_and_images(tmp_path):
        assert resident(view, cpu) is view
        monkeypatch.setattr(files, "free_memory", lambda device: 63)
        assert resident(view, cpu) is view
        monkeypatch.setattr(files, "free_memory", lambda device: 64)
        assert torch.equal(resident(view, cpu), everything)
        monkeypatch.undo()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_has_room_takes_activations_and_images(tmp_path):
    for view, everything in activations_and_images(tmp_path):
        moved = resident(view, torch.device("cuda"))
        assert moved.device.type == "cuda"
        assert torch.equal(moved.cpu(), everything)
