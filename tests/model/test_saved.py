"""A saved model is the model, to timm as well; its digest tells any other weights."""

import pytest
import timm
import torch

from tests.model.small import SMALL, randomised, split_model_of, store
from tests.small_vits import pictures
from vit_finetune.core.errors import UserError
from vit_finetune.model.adapted import Adapted
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import (
    class_names,
    head_digest,
    load_model,
    save_model,
    trained_config,
    weights_digest,
)


def test_a_saved_model_is_loaded_by_timm_alone_with_the_same_logits_names_and_preprocessing(
    tiny_vit, tmp_path
):
    preprocess = preprocessing(tiny_vit, 1.0)
    dataset = {
        "name": "insects",
        "classes": ["ant", "bee", "cat"],
        "image_shape": [48, 40, 3],
        "fit": "pad",
        "reading": {"pad_colour": [1, 2, 3]},
    }
    save_model(tiny_vit, tmp_path / "m", preprocess, dataset)
    alone = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(alone(pixels), tiny_vit(pixels))
    random = timm.create_model(f"local-dir:{tmp_path / 'm'}").eval()
    assert not torch.allclose(random(pixels), tiny_vit(pixels))
    assert preprocessing(alone, None).facts() == preprocess.facts()
    assert class_names(tmp_path / "m") == ["ant", "bee", "cat"]
    assert trained_config(tmp_path / "m")["trained_on"] == {
        "image_size": [48, 40],
        "fit": "pad",
        "pad_colour": [1, 2, 3],
    }
    assert str(tmp_path) not in (tmp_path / "m" / "config.json").read_text()


def test_timm_alone_gives_a_saved_distilled_model_the_logits_it_was_trained_with(tmp_path):
    pretrained = randomised(
        timm.create_model("deit_tiny_distilled_patch16_224", **SMALL, num_classes=7)
    )
    save_model(pretrained, tmp_path / "pretrained", preprocessing(pretrained, None))
    model = load_model(tmp_path / "pretrained", num_classes=3)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    pixels = pictures(model)
    expected = split_model_of(model, 1).predict_logits(store(model, pixels, 1))
    dataset = {"classes": ["a", "b", "c"], "image_shape": [8, 8, 3], "fit": "crop", "reading": {}}
    save_model(model, tmp_path / "finetuned", preprocessing(model, None), dataset)
    alone = timm.create_model(f"local-dir:{tmp_path / 'finetuned'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(alone(pixels), expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_a_model_saved_without_a_dataset_is_not_taken_for_a_trained_one(tiny_vit, tmp_path):
    save_model(tiny_vit, tmp_path / "m", preprocessing(tiny_vit, None))
    assert "label_names" not in (tmp_path / "m" / "config.json").read_text()
    for folder in ("m", "none"):
        with pytest.raises(UserError, match=f"{folder} does not hold a trained model; run dvc "):
            trained_config(tmp_path / folder)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_folder_without_a_model_is_named_with_what_it_lacks(tiny_vit, tmp_path, lost):
    save_model(tiny_vit, tmp_path / "m", preprocessing(tiny_vit, None))
    (tmp_path / "m" / lost).unlink()
    with pytest.raises(
        UserError, match=r"m does not hold a model \(config.json and model.saf\w+\); run dvc repro"
    ):
        load_model(tmp_path / "m")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 22\n"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", POINTER),
        ("model.safetensors", b""),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"architectures": ["ViTForImageClassification"]}'),
        ("config.json", b'{"architecture": "vit_of_the_future", "num_classes": 3}'),
        ("config.json", b'{"architecture": "vit_tiny_patch16_224", "num_classes": 3}'),
    ],
)
def test_a_damaged_model_is_named_with_what_to_do(tiny_vit, tmp_path, file, content):
    save_model(tiny_vit, tmp_path / "m", preprocessing(tiny_vit, None))
    (tmp_path / "m" / file).write_bytes(content)
    with pytest.raises(UserError, match=r"m holds a damaged model \(.+\); run dvc repro, or copy"):
        load_model(tmp_path / "m")


def test_a_damaged_configuration_of_a_trained_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"label_names": [')
    with pytest.raises(UserError, match=r"holds a damaged model \(JSONDecodeError: .+\); run dvc "):
        trained_config(tmp_path)


def test_a_new_head_is_of_zeros_and_one_for_as_many_classes_is_kept(tiny_vit, tmp_path):
    save_model(tiny_vit, tmp_path / "m", preprocessing(tiny_vit, None))
    renewed = load_model(tmp_path / "m", num_classes=4)
    kept = load_model(tmp_path / "m")
    same = load_model(tmp_path / "m", num_classes=3)
    assert torch.equal(same.head.weight, tiny_vit.head.weight)
    assert head_digest(same) == head_digest(tiny_vit) != head_digest(renewed)
    assert not renewed.head.weight.any()
    assert not renewed.head.bias.any()
    assert torch.equal(kept.head.weight, tiny_vit.head.weight)
    assert weights_digest(renewed) == weights_digest(kept) == weights_digest(tiny_vit)


def test_the_weights_digest_is_of_every_tensor_but_the_head(tiny_vit, tiny_model_folder):
    before = weights_digest(tiny_vit)
    assert before == weights_digest(load_model(tiny_model_folder))
    with torch.no_grad():
        tiny_vit.head.weight.add_(1)
    assert weights_digest(tiny_vit) == before
    with torch.no_grad():
        tiny_vit.blocks[1].norm1.bias[3] += 1e-6
    assert weights_digest(tiny_vit) != before


def test_a_folder_that_lost_a_tensor_has_another_digest(tiny_model_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(tiny_model_folder / "model.safetensors")
    recorded = weights_digest(load_model(tiny_model_folder))
    del tensors["norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tiny_model_folder / "config.json").read_text())
    assert weights_digest(load_model(tmp_path, num_classes=3)) != recorded


def test_the_record_of_the_adapted_model_is_read_as_it_was_written(tmp_path):
    record = Adapted("bfloat16", 5_526_346, 3, probe_accuracy=0.923)
    record.write(tmp_path)
    assert Adapted.read(tmp_path) == record
    assert record.dtype == torch.bfloat16
    with pytest.raises(UserError, match=r"none/adapted\.json is missing; run dvc repro"):
        Adapted.read(tmp_path / "none")
