"""Stored activations come back bit for bit, or an error says what is wrong with them."""

import pytest
import torch

from vit_finetune.activations import files
from vit_finetune.activations.files import ActivationFile, map_activations, resident, storage_dtype
from vit_finetune.core.errors import UserError


def activation_file(folder, values, dtype, batch_size=2):
    return ActivationFile(
        folder / "val.bin", folder / "done", list(values.shape), dtype, batch_size
    )


def write(folder, values, dtype, batch_size=2, share=slice(None)):
    """Write what is missing, or a share of it; returns how many images that were."""
    file = activation_file(folder, values, dtype, batch_size)
    file.prepare()
    missing = file.missing(file.segments()[share])
    batches = [batch for segment in missing for batch in file.batches(segment)]
    file.write(missing, (values[batch.start : batch.stop] for batch in batches))
    return sum(map(len, batches))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "uint8"])
def test_activations_come_back_bit_for_bit_in_their_order(tmp_path, dtype):
    values = (torch.arange(7 * 6).view(7, 3, 2) / (1 if dtype == "uint8" else 3)).to(
        getattr(torch, dtype)
    )
    write(tmp_path, values, getattr(torch, dtype), batch_size=3)
    manifest = {"storage": dtype, "shapes": {"val": [7, 3, 2]}}
    assert torch.equal(map_activations(tmp_path, manifest, "val"), values)


def test_changing_mapped_activations_leaves_the_file_alone(tmp_path):
    write(tmp_path, torch.ones(2, 2), torch.float32)
    before = (tmp_path / "val.bin").read_bytes()
    map_activations(tmp_path, {"storage": "float32", "shapes": {"val": [2, 2]}}, "val").zero_()
    assert (tmp_path / "val.bin").read_bytes() == before


@pytest.mark.parametrize(
    "damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1])]
)
def test_a_missing_or_short_file_is_an_error_that_says_what_to_do(tmp_path, damage):
    write(tmp_path, torch.ones(2, 2), torch.float32)
    damage(tmp_path / "val.bin")
    with pytest.raises(UserError, match=r"val\.bin is missing or damaged; run dvc repro"):
        map_activations(tmp_path, {"storage": "float32", "shapes": {"val": [2, 2]}}, "val")


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
        (
            float("inf"),
            r"activations of images 4 to 4 are too large for float16; set embed\.storage",
        ),
        (float("nan"), "the model gives NaN for images 4 to 4: its weights are damaged"),
    ],
)
def test_a_value_that_the_format_cannot_hold_names_the_images(tmp_path, value, message):
    values = torch.cat([torch.zeros(4, 2), torch.tensor([[0.0, value]])])
    with pytest.raises(UserError, match=message):
        write(tmp_path, values, torch.float16)


def cut_short(batches, after):
    """The batches, and a power cut."""
    yield from batches[:after]
    raise KeyboardInterrupt


@pytest.mark.parametrize(("after", "confirmed"), [(0, 0), (1, 0), (2, 4), (3, 4), (4, 8), (5, 9)])
def test_a_pass_cut_short_goes_on_after_the_last_confirmed_segment(
    tmp_path, monkeypatch, after, confirmed
):
    monkeypatch.setattr(files, "SEGMENT", 2)
    values = torch.randn(9, 3, 2, generator=torch.Generator().manual_seed(0))
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    whole.mkdir()
    resumed.mkdir()
    assert write(whole, values, torch.float16) == 9
    file = activation_file(resumed, values, torch.float16)
    file.prepare()
    if after < 5:
        with pytest.raises(KeyboardInterrupt):
            file.write(file.segments(), cut_short(values.split(2), after))
    else:
        file.write(file.segments(), iter(values.split(2)))
    assert write(resumed, values, torch.float16) == 9 - confirmed
    assert (resumed / "val.bin").read_bytes() == (whole / "val.bin").read_bytes()


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_any_number_of_processes_write_the_same_file_in_any_order(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(files, "SEGMENT", 2)
    values = torch.randn(19, 3, generator=torch.Generator().manual_seed(0))
    shares = [slice(rank, None, processes) for rank in reversed(range(processes))]
    assert sum(write(tmp_path, values, torch.float32, share=share) for share in shares) == 19
    assert (tmp_path / "val.bin").read_bytes() == values.numpy().tobytes()
    assert write(tmp_path, values, torch.float32) == 0


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"short")]
)
def test_a_confirmed_segment_counts_as_missing_when_the_file_is_gone_or_short(tmp_path, damage):
    values = torch.ones(4, 2)
    write(tmp_path, values, torch.float32)
    damage(tmp_path / "val.bin")
    assert write(tmp_path, values, torch.float32) == 4
    assert (tmp_path / "val.bin").read_bytes() == values.numpy().tobytes()


def test_activations_stay_mapped_on_a_cpu_and_move_to_a_gpu_that_has_room():
    views = [torch.zeros(4, 2), torch.ones(4, 2)]
    assert resident(views, torch.device("cpu")) is views
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    assert [view.device.type for view in resident(views, torch.device("cuda"))] == ["cuda", "cuda"]
