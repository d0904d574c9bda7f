"""The cheap last block is the last block; a saved model is the model; what cannot be built is named."""

import json

import pytest
import timm
import torch
from timm.data import create_transform, resolve_model_data_config

from vit_finetune.backbone import (
    boundary_of,
    build_model,
    class_names,
    cls_attention,
    cls_of_block,
    load_model,
    preprocessing,
    reads_only_cls,
    run_blocks,
    save_model,
    to_device,
    trained_config,
    weights_digest,
)


def test_the_cheap_last_block_gives_the_blocks_own_outputs_gradients_and_attention(tiny_vit):
    block = tiny_vit.blocks[-1]
    tokens = torch.randn(4, 17, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    inputs = [tokens, *block.parameters()]
    cheap, full = cls_of_block(block, tokens), block(tokens)[:, 0]
    torch.testing.assert_close(cheap, full, rtol=0, atol=1e-5)
    own = torch.autograd.grad((cheap * weights).sum(), inputs)
    expected = torch.autograd.grad((full * weights).sum(), inputs)
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    block.attn.fused_attn = False
    seen = []
    block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    block(tokens)
    _, probabilities = cls_attention(block.attn, block.norm1(tokens))
    torch.testing.assert_close(probabilities, seen[0][:, :, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "precision", "size", "fused"),
    [
        ("cpu", torch.bfloat16, 32, False),
        ("cpu", torch.float32, 32, True),
        ("meta", torch.bfloat16, 32, True),  # any other device
        ("cpu", torch.bfloat16, 33 * 8, True),  # 1,089 tokens
    ],
)
def test_attention_is_three_operations_where_that_is_faster_and_means_the_same(device, precision, size, fused):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=size, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    model.eval()
    pixels = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        expected = model(pixels)
    placed = to_device(model, torch.device(device), precision)
    assert [block.attn.fused_attn for block in placed.blocks] == [fused, fused]
    if device == "cpu":
        with torch.inference_mode():
            torch.testing.assert_close(placed(pixels), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "applies"),
    [
        ("vit_tiny_patch16_224", {}, True),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, False),
        ("vit_tiny_patch16_224", {"qk_norm": True}, False),
        ("vit_base_patch16_siglip_224", {}, False),
        ("deit_tiny_distilled_patch16_224", {}, False),
        ("vit_small_patch16_rope_224", {"global_pool": "token"}, False),
        ("beit_base_patch16_224", {"global_pool": "token"}, False),
    ],
)
def test_the_cheap_last_block_says_where_it_does_not_apply(name, options, applies):
    model = timm.create_model(name, img_size=32, depth=2, embed_dim=64, num_heads=4, **options)
    assert reads_only_cls(model) is applies


def test_a_block_with_normalised_keys_is_run_whole():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=64, num_heads=4, qk_norm=True, num_classes=0
    )
    tokens = torch.randn(2, 5, 64)
    expected = model.norm(model.blocks[1](tokens))[:, 0]
    torch.testing.assert_close(run_blocks(model.eval(), tokens, 1), expected)


def test_what_is_stored_follows_from_the_trainable_blocks():
    assert [boundary_of(blocks) for blocks in (0, 1, 12, "all")] == ["features", "tokens", "tokens", "images"]


@pytest.mark.parametrize("crop_pct", [None, 1.0])
@pytest.mark.parametrize("size", [(32, 32), (40, 64), (500, 333)])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch32_clip_224", "vit_base_patch16_siglip_224"])
def test_batched_preprocessing_equals_timms_pil_transform(name, size, crop_pct):
    from PIL import Image

    model = timm.create_model(name, depth=1)
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = resolve_model_data_config(model, {} if crop_pct is None else {"crop_pct": crop_pct})
    transform = create_transform(**config, is_training=False)
    expected = torch.stack([transform(Image.fromarray(image.numpy())) for image in images])
    found = preprocessing(model, crop_pct)(images)
    std = torch.tensor(config["std"]).view(3, 1, 1)
    assert found.shape == expected.shape
    assert ((found - expected) * std * 255).abs().max() <= 0.001


def test_a_saved_model_is_loaded_by_timm_alone_with_the_same_logits_names_and_preprocessing(tiny_vit, tmp_path):
    preprocess = preprocessing(tiny_vit, 1.0)
    dataset = {"name": "insects", "classes": ["ant", "bee", "cat"], "image_shape": [48, 40, 3], "fit": "pad"}
    save_model(tiny_vit, tmp_path / "m", preprocess, dataset)
    alone = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(alone(pixels), tiny_vit(pixels))
    random = timm.create_model(f"local-dir:{tmp_path / 'm'}").eval()
    assert not torch.allclose(random(pixels), tiny_vit(pixels))
    assert preprocessing(alone, None) == preprocess
    assert class_names(tmp_path / "m") == ["ant", "bee", "cat"]
    assert trained_config(tmp_path / "m")["trained_on"] == {"image_size": [48, 40], "fit": "pad"}
    assert str(tmp_path) not in (tmp_path / "m" / "config.json").read_text()


def test_a_model_saved_without_a_dataset_is_not_taken_for_a_trained_one(tiny_vit, tmp_path):
    save_model(tiny_vit, tmp_path / "m", preprocessing(tiny_vit, None))
    assert "label_names" not in (tmp_path / "m" / "config.json").read_text()
    for folder in ("m", "none"):
        with pytest.raises(OSError, match=f"{folder} does not hold a trained model; run dvc repro"):
            trained_config(tmp_path / folder)


def test_a_new_head_is_of_zeros_and_the_saved_one_is_kept_without_it(tiny_vit, tmp_path):
    save_model(tiny_vit, tmp_path / "m", preprocessing(tiny_vit, None))
    renewed, kept = load_model(tmp_path / "m", num_classes=3), load_model(tmp_path / "m")
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


def test_a_model_folder_without_a_tensor_is_told_by_its_digest(tiny_model_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(tiny_model_folder / "model.safetensors")
    recorded = weights_digest(load_model(tiny_model_folder))
    del tensors["norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tiny_model_folder / "config.json").read_text())
    assert weights_digest(load_model(tmp_path, num_classes=3)) != recorded


def test_random_weights_come_from_the_seed_alone():
    digests = []
    for noise, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(noise)
        model = build_model("vit_tiny_patch16_224", pretrained=False, image_size=32, seed=seed)
        digests.append(weights_digest(model))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("vit_tiny_patch17_224", {}, ValueError, r"does not know; close: vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.imagenet", {}, ValueError, r"no such weights; it has: .*augreg_in21k_ft_in1k"),
        ("resnet18", {}, ValueError, r"^model.name is 'resnet18': a ResNet .*cannot be split at a block; use vit_\*, "),
        ("swin_tiny_patch4_window7_224", {}, ValueError, r"a SwinTransformer .*cannot be split at a block; use vit_\*"),
        ("vit_tiny_patch16_224", {"image_size": 40}, ValueError, r"model.image_size is 40: the patches of .* are 16"),
        ("local-dir:no/such/folder", {}, OSError, r"'local-dir:no/such/folder', but that folder has no usable model"),
    ],
)
def test_a_model_that_cannot_be_built_is_named_with_what_can(name, options, error, message):
    options = {"pretrained": name.startswith("local-dir:"), "image_size": None, "seed": 0, **options}
    with pytest.raises(error, match=message):
        build_model(name, **options)


def test_weights_out_of_reach_name_the_hub_and_the_demo(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"vit_tiny_patch16_224\.\S+ could not be loaded: .*make demo"):
        build_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", pretrained=True, image_size=None, seed=0)


def test_a_local_folder_of_another_architecture_is_refused(tiny_model_folder, tmp_path):
    config = json.loads((tiny_model_folder / "config.json").read_text())
    config["model_args"]["depth"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((tiny_model_folder / "model.safetensors").read_bytes())
    with pytest.raises(OSError, match=r"has no usable model: .*blocks\.3"):
        build_model(f"local-dir:{tmp_path}", pretrained=True, image_size=None, seed=0)
