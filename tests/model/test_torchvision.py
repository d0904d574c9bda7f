"""torchvision's Vision Transformers are timm's, with torchvision's weights and preprocessing."""

import urllib.request

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.models import VisionTransformer as TorchvisionViT
from torchvision.models import ViT_B_16_Weights, get_model, get_model_weights

from tests.model.small import SMALL, NoInitialisation, randomised
from tests.small_vits import pictures
from vit_finetune.core.errors import UserError
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.saved import load_model, save_model, weights_digest
from vit_finetune.model.torchvision import TORCHVISION, load_torchvision_state, torchvision_model


def small_torchvision(side=32, classes=5):
    return randomised(TorchvisionViT(side, 16, 2, 4, 64, 128, num_classes=classes))


def small_timm(side=32, classes=5):
    options = {**SMALL, "depth": 2, "img_size": side, "mlp_ratio": 2, "num_classes": classes}
    return timm.create_model("vit_base_patch16_224", **options).eval()


def test_torchvisions_tensors_in_timms_model_give_torchvisions_logits():
    theirs = small_torchvision()
    model = small_timm()
    load_torchvision_state(model, theirs.state_dict())
    pixels = pictures(model)
    with torch.no_grad():
        expected = theirs(pixels)
        torch.testing.assert_close(model(pixels), expected, rtol=0, atol=1e-5)
        assert (expected[0] - expected[1]).abs().max() > 0.01
        theirs.encoder.layers[1].mlp[3].bias[7] += 0.1  # any tensor counts
        assert not torch.allclose(model(pixels), theirs(pixels), atol=1e-3)


def test_torchvisions_older_names_of_the_mlps_tensors_are_understood():
    model = small_timm()
    same = small_timm()
    state = small_torchvision().state_dict()
    older = {}
    for name, tensor in state.items():
        older[name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")] = tensor
    assert set(older) != set(state)
    load_torchvision_state(model, older)
    load_torchvision_state(same, state)
    assert weights_digest(model) == weights_digest(same)


def test_torchvisions_head_is_left_out_where_the_model_has_none():
    theirs = small_torchvision()
    model = small_timm(classes=0)
    load_torchvision_state(model, theirs.state_dict())
    theirs.heads = torch.nn.Identity()
    pixels = pictures(model)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), theirs(pixels), rtol=0, atol=1e-5)


def test_a_torchvision_state_that_lacks_a_tensor_is_an_error():
    state = small_torchvision().state_dict()
    del state["encoder.ln.bias"]
    with pytest.raises(RuntimeError, match=r"norm\.bias"):
        load_torchvision_state(small_timm(), state)


def test_another_image_size_resamples_torchvisions_position_embedding_and_nothing_else():
    theirs = small_torchvision(64)
    same = small_timm(64)
    larger = small_timm(96)
    load_torchvision_state(same, theirs.state_dict())
    load_torchvision_state(larger, theirs.state_dict())
    own = theirs.encoder.pos_embedding.detach()
    grid = own[:, 1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    resampled = F.interpolate(grid, (6, 6), mode="bicubic", antialias=True)
    expected = resampled.permute(0, 2, 3, 1).reshape(1, 36, 64)
    torch.testing.assert_close(larger.pos_embed[:, 1:], expected, rtol=0, atol=1e-6)
    assert torch.equal(larger.pos_embed[:, 0], own[:, 0])
    assert torch.equal(same.pos_embed, own)
    others = [name for name in same.state_dict() if name != "pos_embed"]
    assert all(torch.equal(same.state_dict()[name], larger.state_dict()[name]) for name in others)


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_architecture_of_torchvision_has_the_tensors_and_settings_of_its_model_of_timm(name):
    with torch.device("meta"), NoInitialisation():
        theirs = get_model(name)
        model = timm.create_model(TORCHVISION[name])
        # fails if any tensor differs in name or shape
        load_torchvision_state(model, theirs.state_dict())
    block = model.blocks[-1]
    last = theirs.encoder.layers[-1]
    assert model.patch_embed.img_size == (theirs.image_size,) * 2
    assert block.attn.num_heads == last.self_attention.num_heads
    assert [norm.eps for norm in (block.norm1, block.norm2, model.norm)] == [last.ln_1.eps] * 3
    assert type(block.mlp.act) is type(last.mlp[1])


def test_build_model_asks_for_weights_of_the_right_hash_and_gives_torchvisions_features(
    monkeypatch,
):
    theirs = randomised(TorchvisionViT(224, 16, 1, 12, 768, 3072))
    asked = []
    create = timm.create_model

    def state(weights, **options):
        asked.append((weights.name, options["check_hash"]))
        return theirs.state_dict()

    monkeypatch.setattr(
        timm, "create_model", lambda name, **options: create(name, depth=1, **options)
    )
    monkeypatch.setattr(ViT_B_16_Weights, "get_state_dict", state)
    model = build_model("torchvision/vit_b_16", pretrained=True, image_size=None, seed=0)
    theirs.heads = torch.nn.Identity()
    pixels = pictures(model, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), theirs(pixels), rtol=0, atol=1e-5)
    assert asked == [("IMAGENET1K_V1", True)]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("torchvision/vit_b_17", ["no Vision Transformer 'vit_b_17'", *TORCHVISION]),
        ("torchvision/resnet18", ["no Vision Transformer 'resnet18'", *TORCHVISION]),
        ("torchvision/vit_b_16.V1", ["no weights 'V1' of vit_b_16", *ViT_B_16_Weights.__members__]),
    ],
)
@pytest.mark.parametrize("pretrained", [False, True])
def test_a_model_or_weights_that_torchvision_lacks_are_answered_with_those_it_has(
    name, parts, pretrained
):
    with pytest.raises(UserError, match=f"^model.name is '{name}': torchvision has") as raised:
        build_model(name, pretrained=pretrained, image_size=None, seed=0)
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


def test_torchvision_weights_out_of_reach_are_one_error_that_says_where_they_are_kept(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would remember other proxies
    message = r"^the weights of torchvision/vit_b_16 could not be loaded: .*TORCH_HOME"
    with (
        torch.device("meta"),
        NoInitialisation(),
        pytest.raises(UserError, match=message) as raised,
    ):
        build_model("torchvision/vit_b_16", pretrained=True, image_size=None, seed=0)
    assert "\n" not in str(raised.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


ALL_WEIGHTS = [
    f"{name}.{tag}"
    for name in TORCHVISION
    for tag in get_model_weights(name).__members__
    if tag != "DEFAULT"
]
ONE_BLOCK = {"depth": 1, "embed_dim": 64, "num_heads": 4}


@pytest.mark.parametrize("name", [*ALL_WEIGHTS, "vit_h_14"])
def test_preprocessing_is_that_of_torchvisions_weights(name):
    architecture, _, tag = name.partition(".")
    preset = get_model_weights(architecture)[tag or "DEFAULT"].transforms()
    model = torchvision_model(name, pretrained=False, **ONE_BLOCK)
    std = torch.tensor(preset.std).view(3, 1, 1)
    for height, width in ((37, 61), (300, 200)):
        image = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
        expected = preset(Image.fromarray(image))
        preprocessed = preprocessing(model, None)(torch.from_numpy(image)[None])[0]
        difference = ((preprocessed - expected) * std * 255).abs()
        assert difference.max() <= 1
        assert difference.mean() < 0.01


def test_a_torchvision_model_is_saved_and_loaded_with_its_weights_and_preprocessing(tmp_path):
    options = {**ONE_BLOCK, "img_size": 64, "num_classes": 0}
    model = randomised(torchvision_model("vit_l_16.IMAGENET1K_V1", pretrained=False, **options))
    preprocess = preprocessing(model, None)
    save_model(model, tmp_path / "m", preprocess)
    loaded = load_model(tmp_path / "m")
    assert weights_digest(loaded) == weights_digest(model)
    assert preprocessing(loaded, None).facts() == preprocess.facts()
    assert preprocess.resized(100, 100) == (69, 69)  # 64 of 224 from 242
    pixels = pictures(model)
    with torch.no_grad():
        assert torch.equal(loaded(pixels), model(pixels))
