"""The pass over the images stores what the model computes, and continues after an interruption."""

import numpy as np
import pytest
import torch

from vit_finetune.activations import files, forward
from vit_finetune.activations.files import map_activations
from vit_finetune.activations.manifest import Manifest
from vit_finetune.core.errors import UserError
from vit_finetune.core.hashes import digest
from vit_finetune.core.ranks import Ranks
from vit_finetune.model.boundary import SplitModel
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import weights_digest

BATCH = 2
SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def short_segments_in_order(monkeypatch):
    """Two batches in a segment; one thread, so that batches are computed in order."""
    monkeypatch.setattr(files, "SEGMENT", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return {
        split: rng.integers(256, size=(n, 24, 20, 3), dtype=np.uint8)
        for split, n in {"train": 9, "val": 4, "test": 5}.items()
    }


def split_at(model, blocks):
    return SplitModel(model, blocks, preprocessing(model, None), torch.device("cpu"), torch.float32)


def describe(split_model, images, storage="float32"):
    return forward.describe(split_model, images, storage=storage, batch_size=BATCH)


def write(split_model, images, manifest, checkpoint, ranks=None):
    """The bytes of every file that the pass has written, and what it says."""
    folder = checkpoint / "embedded"
    stored = forward.activation_files(folder, checkpoint, manifest, BATCH)
    messages = forward.prepare_files(folder, stored)
    forward.write_splits(split_model, images, stored, ranks or Ranks())
    return {path.name: path.read_bytes() for path in folder.iterdir()}, messages


@pytest.mark.parametrize(
    ("blocks", "form", "shape"),
    [
        (0, ("features", "float32"), [32]),
        (1, ("tokens", "float32"), [17, 32]),
        ("all", ("images", "uint8"), [24, 20, 3]),
    ],
)
def test_the_manifest_says_of_which_model_and_images_the_activations_are_and_in_which_form(
    tiny_vit, images, tmp_path, blocks, form, shape
):
    split_model = split_at(tiny_vit, blocks)
    describe(split_model, images).write(tmp_path)
    manifest = Manifest.read(tmp_path)
    assert manifest.shapes == {"train": [9, *shape], "val": [4, *shape], "test": [5, *shape]}
    assert (manifest.boundary, manifest.storage) == form
    assert (manifest.trainable_blocks, manifest.precision) == (blocks, "float32")
    assert manifest.weights_sha256 == weights_digest(tiny_vit)
    assert manifest.images_sha256 == {split: digest(array) for split, array in images.items()}
    assert manifest.preprocessing["input_size"] == [32, 32]


def test_automatic_storage_follows_from_the_first_batch(tiny_vit, images):
    assert describe(split_at(tiny_vit, 1), images, storage="auto").storage == "float16"
    with torch.no_grad():
        tiny_vit.patch_embed.proj.bias += 1e5
    assert describe(split_at(tiny_vit, 1), images, storage="auto").storage == "bfloat16"


@pytest.mark.parametrize("blocks", [0, 1, "all"])
def test_every_split_holds_what_the_model_computes_of_its_images(
    tiny_vit, images, tmp_path, blocks
):
    split_model = split_at(tiny_vit, blocks)
    manifest = describe(split_model, images)
    written, messages = write(split_model, images, manifest, tmp_path)
    assert written.keys() == {f"{split}.bin" for split in SPLITS}
    assert messages == []
    for split in SPLITS:
        source = torch.from_numpy(images[split])
        with torch.no_grad():
            expected = source if blocks == "all" else split_model.tokens(source)
        stored = map_activations(tmp_path / "embedded", manifest, split)[:]
        torch.testing.assert_close(stored, expected, rtol=0, atol=1e-5)


def images_confirmed(checkpoint):
    """Images of the segments that an interrupted pass need not repeat: 4 of each segment, or what
    is left of 9, 4 and 5."""
    confirmed = 0
    for split in SPLITS:
        for path in (checkpoint / split).glob("*"):
            confirmed += min(4, {"train": 9, "val": 4, "test": 5}[split] - int(path.name))
    return confirmed


@pytest.mark.parametrize("after", [0, 4, 8])
def test_a_pass_cut_short_goes_on_to_the_same_bytes_and_repeats_no_confirmed_segment(
    tiny_vit, images, tmp_path, after
):
    split_model = split_at(tiny_vit, 1)
    manifest = describe(split_model, images)
    whole, _ = write(split_model, images, manifest, tmp_path / "whole")
    computed = []

    def interrupt(_module, inputs):
        if len(computed) == after:
            raise KeyboardInterrupt
        computed.append(len(inputs[0]))

    hook = tiny_vit.patch_embed.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(split_model, images, manifest, tmp_path / "resumed")
    hook.remove()
    confirmed = images_confirmed(tmp_path / "resumed")
    assert bool(confirmed) is (after >= 4)
    computed.clear()
    tiny_vit.patch_embed.register_forward_pre_hook(
        lambda _, inputs: computed.append(len(inputs[0]))
    )
    resumed, messages = write(split_model, images, manifest, tmp_path / "resumed")
    assert resumed == whole
    assert sum(computed) == 9 + 4 + 5 - confirmed
    assert any("continues after" in message for message in messages) is bool(confirmed)


class WaitsForNobody(Ranks):
    """One of several processes; here they run one after the other."""

    def barrier(self):
        pass


@pytest.mark.parametrize("processes", [2, 7])
def test_any_number_of_processes_write_the_bytes_of_one_in_any_order(
    tiny_vit, images, tmp_path, processes
):
    split_model = split_at(tiny_vit, 1)
    manifest = describe(split_model, images)
    whole, _ = write(split_model, images, manifest, tmp_path / "whole")
    for rank in reversed(range(processes)):
        ranks = WaitsForNobody(rank, processes)
        written, _ = write(split_model, images, manifest, tmp_path / "shared", ranks)
        assert (written == whole) is (rank == 0)


def test_activations_are_used_with_the_model_that_made_them_split_where_they_were_stored(
    tiny_vit, images
):
    manifest = describe(split_at(tiny_vit, 2), images)
    split_model = manifest.split_model(tiny_vit, torch.device("cpu"))
    assert (split_model.trainable_blocks, split_model.precision) == (2, torch.float32)
    assert split_model.preprocess.facts() == manifest.preprocessing
    manifest.require_weights(tiny_vit)
    with torch.no_grad():
        tiny_vit.norm.bias[0] += 1
    with pytest.raises(
        UserError, match="models/adapted is not the model that data/embedded was made with"
    ):
        manifest.require_weights(tiny_vit)
