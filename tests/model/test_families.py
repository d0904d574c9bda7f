"""Every Vision Transformer is split exactly or refused in one line; torchvision's models are timm's."""

import copy
import re
import urllib.request

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch.overrides import TorchFunctionMode
from torchvision.models import VisionTransformer as TorchvisionViT
from torchvision.models import ViT_B_16_Weights, get_model_weights, vit_b_16

from vit_finetune.backbone import (
    WORKS,
    Suffix,
    build_model,
    load_model,
    preprocessing,
    run_prefix,
    save_model,
    weights_digest,
)
from vit_finetune.families import TORCHVISION, family_of, load_torchvision_state, torchvision_model
from vit_finetune.freezing import freeze

TINY = {"img_size": 32, "depth": 3, "embed_dim": 64, "num_heads": 4}
OF_14 = {"img_size": 28, "patch_size": 14}
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {}),
    "augreg, normalised before the pooling": ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    "deit": ("deit_tiny_patch16_224", {}),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3, LayerScale, no class position": ("deit3_small_patch16_224", {}),
    "registers, average pooling": ("vit_wee_patch16_reg1_gap_256", {}),
    "dinov2": ("vit_small_patch14_dinov2", OF_14),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", OF_14),
    "siglip, attention pooling": ("vit_base_patch16_siglip_224", {}),
    "clip, norm before": ("vit_base_patch32_clip_224", {"img_size": 64}),
    "dinov3, rotary": ("vit_small_patch16_dinov3", {}),
    "dinov3 with biases": ("vit_small_patch16_dinov3_qkvb", {}),
    "eva02 tiny, rotary, packed swiglu": ("eva02_tiny_patch14_224", OF_14),
    "eva02 base, rotary, swiglu with norm": ("eva02_base_patch14_224", OF_14),
    "eva02 enormous, norm after": ("eva02_enormous_patch14_clip_224", OF_14),
    "eva, absolute positions": ("eva_giant_patch14_224", OF_14),
    "perception encoder, rotary, attention pooling": ("vit_pe_core_tiny_patch16_384", {}),
    "rotary, axial": ("vit_small_patch16_rope_224", {}),
    "rotary, learnt in each block": ("vit_small_patch16_rope_mixed_224", {}),
    "rotary, learnt, and absolute positions": ("vit_small_patch16_rope_mixed_ape_224", {}),
    "beit, relative positions in each block": ("beit_base_patch16_224", {}),
    "beit, relative positions of all blocks": (
        "beit_base_patch16_224",
        {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    ),
    "beit, both relative positions": ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True}),
    "beit, absolute positions": ("beit_base_patch16_224", {"use_rel_pos_bias": False, "use_abs_pos_emb": True}),
    "beit, CLS": ("beit_base_patch16_224", {"global_pool": "token"}),
    "beitv2": ("beitv2_base_patch16_224", {}),
}


def randomised(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def build(family):
    name, options = FAMILIES[family]
    model = randomised(timm.create_model(name, num_classes=5, **{**TINY, **options}))
    if hasattr(model, "head_dist"):  # as it is saved
        model.head_dist.load_state_dict(model.head.state_dict())
    return model


def pictures(model, n=2):
    return torch.randn(n, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(0))


def suffix_of(model, blocks):
    return Suffix(model, blocks, lambda images: images, torch.device("cpu"), torch.float32)


def store(model, pixels, blocks):
    with torch.no_grad():
        return pixels if blocks == "all" else run_prefix(model, pixels, blocks)


# Prefix and suffix


@pytest.mark.parametrize("blocks", [0, 1, 2, "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_then_suffix_is_the_whole_model(family, blocks):
    model = build(family)
    pixels = pictures(model)
    with torch.no_grad():
        whole = model(pixels)
        torch.testing.assert_close(
            suffix_of(model, blocks).predict(store(model, pixels, blocks)), whole, rtol=0, atol=1e-5
        )
    assert (whole[0] - whole[1]).abs().max() > 0.01  # the logits tell images apart, so that an error shows


@pytest.mark.parametrize("blocks", [1, "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_suffix_has_the_gradients_of_the_whole_model(family, blocks):
    model = build(family)
    pixels, labels = pictures(model), torch.tensor([1, 4])
    freeze(model, blocks)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    suffix = suffix_of(model, blocks)
    logits = suffix.logits(suffix.tokens(store(model, pixels, blocks)))
    found = torch.autograd.grad(F.cross_entropy(logits, labels), list(trained.values()))
    if hasattr(model, "head_dist"):  # one head twice, so its gradients add up
        model.head_dist = model.head
    expected = torch.autograd.grad(F.cross_entropy(model(pixels), labels), list(trained.values()))
    assert max(gradient.abs().max() for name, gradient in zip(trained, found, strict=True) if "head" not in name) > 1e-3
    for name, own, whole in zip(trained, found, expected, strict=True):
        torch.testing.assert_close(own, whole, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("family", [name for name in FAMILIES if "rotary" in name or "beit, " in name])
def test_what_the_blocks_take_beside_the_tokens_matters(family):
    model = build(family)
    pixels = pictures(model)
    tokens, options = store(model, pixels, 2), family_of(model).options(model)
    assert len(options) == len(model.blocks)
    taken = [value for block in options for value in block.values() if value is not None]
    shared = getattr(model, "rel_pos_bias", None) is not None
    assert bool(taken) is ("rotary" in family or shared)
    if taken:
        with torch.no_grad():
            assert (model.blocks[1](tokens, **options[1]) - model.blocks[1](tokens)).abs().max() > 1e-4


def test_a_distilled_model_is_saved_so_that_timm_alone_gives_the_suffixs_logits(tmp_path):
    options = {**TINY, "num_classes": 7}
    pretrained = randomised(timm.create_model("deit_tiny_distilled_patch16_224", **options))
    save_model(pretrained, tmp_path / "pretrained", preprocessing(pretrained, None))
    model = load_model(tmp_path / "pretrained", num_classes=3)
    with torch.no_grad():
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    pixels = pictures(model)
    expected = suffix_of(model, 1).predict(store(model, pixels, 1))
    dataset = {"classes": ["a", "b", "c"], "image_shape": [8, 8, 3], "fit": "crop"}
    save_model(model, tmp_path / "finetuned", preprocessing(model, None), dataset)
    alone = timm.create_model(f"local-dir:{tmp_path / 'finetuned'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(alone(pixels), expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1


# Every architecture of timm


class NoInitialisation(TorchFunctionMode):
    """Writes no values into new models, which is what takes the time."""

    WRITES = frozenset(("normal_", "uniform_", "clamp_", "erfinv_", "mul_", "div_", "add_", "fill_", "zero_"))

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        if function.__name__ in self.WRITES:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


OURS = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva", "beit")  # timm's files of what can be split
LIKE = r"vit|^vision|^pit|cait|volo|xcit|^swin_transformer$|mlp|hiera$|^resnet$|^convnext$|^vgg"


def architectures():
    """All architectures of timm's files that hold what can be split, and one for each of some others."""
    names = [name for file in OURS for name in timm.list_models(module=file)]
    others = [file for file in timm.list_modules() if file not in OURS and re.search(LIKE, file)]
    return names + [min(timm.list_models(module=file), key=lambda name: (len(name), name)) for file in others]


def test_every_architecture_is_split_or_refused_in_one_line(monkeypatch):
    create, ours = timm.create_model, {name for file in OURS for name in timm.list_models(module=file)}

    def one_block(name, **options):
        return create(name, **(options if name not in ours or "sapiens2" in name else {"depth": 1, **options}))

    monkeypatch.setattr(timm, "create_model", one_block)
    accepted, refused = {}, {}
    for name in architectures():
        with torch.device("meta"), NoInitialisation():
            try:
                accepted[name] = type(build_model(name, pretrained=False, image_size=None, seed=0)).__name__
            except ValueError as error:
                refused[name] = str(error)
    assert set(accepted.values()) == {"VisionTransformer", "VisionTransformerDistilled", "Eva", "Beit"}
    assert len(accepted) > 200
    assert {"resnet18", "vit_base_patch16_xp_224", "test_vit_relpos"} <= set(refused)
    for name, message in refused.items():
        assert "\n" not in message
        assert name in message
        assert re.search(r"cannot be split at a block; use vit_\*|use a multiple", message), message
    for pattern in re.findall(r"[\w*]+", WORKS.split(" of timm")[0]):
        assert any(re.fullmatch(pattern.replace("*", ".*"), name) for name in accepted), pattern


def variants():
    """An architecture of every kind that differs by more than its size."""
    sizes = r"_(tiny|x?small|medium|base|large|huge|giant|gigantic|enormous|\d+b)(?=_)|\d{3}|_?(so\d+m\d?|betwixt|wee)"
    chosen = {}
    for file in OURS:
        for name in sorted(timm.list_models(module=file), key=len):
            if not re.search(r"_r\d*_|resnet|mci", name):  # convolutions first: slow, and no other blocks
                chosen.setdefault((file, re.sub(sizes, "", name)), name)
    return list(chosen.values())


def test_every_accepted_variant_is_split_exactly():
    kinds = []
    for name in variants():
        options = {**TINY, "depth": 2, "patch_size": 16, "num_classes": 3}
        if "sapiens2" in name:
            options["num_kv_heads"] = (4, 2)
        if name == "vit_giant_patch14_dinov2":  # its gated MLP wants a width that can be halved
            options["mlp_ratio"] = 4
        model = randomised(timm.create_model(name, **options))
        try:
            family_of(model)
        except ValueError:
            continue
        if hasattr(model, "head_dist"):
            model.head_dist.load_state_dict(model.head.state_dict())
        pixels = pictures(model, 1)
        with torch.no_grad():
            whole, found = model(pixels), suffix_of(model, 1).predict(run_prefix(model, pixels, 1))
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        kinds.append(type(model).__name__)
    assert set(kinds) == {"VisionTransformer", "VisionTransformerDistilled", "Eva", "Beit"}
    assert len(kinds) > 50


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet18", "a ResNet of timm.models.resnet"),
        ("vit_relpos_small_patch16_224", "a VisionTransformerRelPos of timm.models.vision_transformer_relpos"),
        ("vit_base_patch16_xp_224", "a VisionTransformer of ParallelScalingBlock"),
        ("vit_small_patch16_18x2_224", "a VisionTransformer of ParallelThingsBlock"),
    ],
)
def test_what_cannot_be_split_is_named_with_the_reason(name, reason):
    with torch.device("meta"), NoInitialisation(), pytest.raises(ValueError, match="use vit_") as raised:
        build_model(name, pretrained=False, image_size=None, seed=0)
    assert str(raised.value).startswith(f"model.name is {name!r}: {reason} cannot be split at a block; use ")


def test_a_model_without_a_fixed_grid_is_refused():
    model = timm.create_model("vit_tiny_patch16_224", **TINY)
    family_of(model)
    model.patch_embed.img_size = None
    with pytest.raises(ValueError, match="a PatchEmbed has no fixed grid of patches"):
        family_of(model)


# torchvision


def small_torchvision(side=32, classes=5):
    return randomised(TorchvisionViT(side, 16, 2, 4, 64, 128, num_classes=classes))


def small_timm(side=32, classes=5):
    options = {**TINY, "depth": 2, "img_size": side, "mlp_ratio": 2, "num_classes": classes}
    return timm.create_model("vit_base_patch16_224", **options).eval()


def test_torchvisions_tensors_in_timms_model_give_torchvisions_logits():
    theirs, model = small_torchvision(), small_timm()
    load_torchvision_state(model, theirs.state_dict())
    pixels = pictures(model)
    with torch.no_grad():
        expected = theirs(pixels)
        torch.testing.assert_close(model(pixels), expected, rtol=0, atol=1e-5)
        assert (expected[0] - expected[1]).abs().max() > 0.01
        theirs.encoder.layers[1].mlp[3].bias[7] += 0.1  # any tensor counts
        assert not torch.allclose(model(pixels), theirs(pixels), atol=1e-3)


def test_torchvisions_older_names_of_the_mlp_are_known():
    theirs, model, same = small_torchvision(), small_timm(), small_timm()
    state = theirs.state_dict()
    older = {n.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for n, v in state.items()}
    assert set(older) != set(state)
    load_torchvision_state(model, older)
    load_torchvision_state(same, state)
    assert weights_digest(model) == weights_digest(same)


def test_torchvisions_head_is_left_out_where_the_model_has_none():
    theirs, model = small_torchvision(), small_timm(classes=0)
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
    theirs, same, larger = small_torchvision(64), small_timm(64), small_timm(96)
    load_torchvision_state(same, theirs.state_dict())
    load_torchvision_state(larger, theirs.state_dict())
    own = theirs.encoder.pos_embedding.detach()
    grid = own[:, 1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (6, 6), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 36, 64)
    torch.testing.assert_close(larger.pos_embed[:, 1:], expected, rtol=0, atol=1e-6)
    assert torch.equal(larger.pos_embed[:, 0], own[:, 0])
    assert torch.equal(same.pos_embed, own)
    others = [name for name in same.state_dict() if name != "pos_embed"]
    assert all(torch.equal(same.state_dict()[name], larger.state_dict()[name]) for name in others)


def test_torchvisions_real_architecture_is_built_with_its_weights(monkeypatch):
    with NoInitialisation():
        theirs = vit_b_16(weights=None).eval()
    noise, asked = torch.randn(3_000_000, generator=torch.Generator().manual_seed(0)) * 0.02, []
    for name, tensor in theirs.state_dict().items():
        tensor.copy_(noise[: tensor.numel()].view_as(tensor) + (1 if re.search(r"ln\w*\.weight", name) else 0))

    def state(weights, **options):
        asked.append((weights.name, options["check_hash"]))
        return theirs.state_dict()

    monkeypatch.setattr(ViT_B_16_Weights, "get_state_dict", state)
    with NoInitialisation():
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
def test_what_torchvision_does_not_have_is_named_with_what_it_has(name, parts, pretrained):
    with pytest.raises(ValueError, match=f"^model.name is '{name}': torchvision has") as raised:
        build_model(name, pretrained=pretrained, image_size=None, seed=0)
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


def test_torchvisions_image_size_must_be_a_multiple_of_the_patch():
    message = r"model.image_size is 40: the patches of torchvision/vit_b_32 are 32 pixels"
    with torch.device("meta"), NoInitialisation(), pytest.raises(ValueError, match=message):
        build_model("torchvision/vit_b_32", pretrained=False, image_size=40, seed=0)


def test_torchvision_weights_out_of_reach_are_one_error_that_says_where_they_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would remember other proxies
    message = r"^the weights of torchvision/vit_b_16 could not be loaded: .*TORCH_HOME"
    with torch.device("meta"), NoInitialisation(), pytest.raises(OSError, match=message) as raised:
        build_model("torchvision/vit_b_16", pretrained=True, image_size=None, seed=0)
    assert "\n" not in str(raised.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


ALL_WEIGHTS = [(name, tag) for name in TORCHVISION for tag in get_model_weights(name).__members__ if tag != "DEFAULT"]
ONE_BLOCK = {"depth": 1, "embed_dim": 64, "num_heads": 4}


@pytest.mark.parametrize(("architecture", "tag"), ALL_WEIGHTS)
def test_preprocessing_is_that_of_torchvisions_weights(architecture, tag):
    preset = get_model_weights(architecture)[tag].transforms()
    model = torchvision_model(f"{architecture}.{tag}", pretrained=False, **ONE_BLOCK)
    std = torch.tensor(preset.std).view(3, 1, 1)
    for height, width in ((37, 61), (300, 200)):
        image = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
        expected = preset(Image.fromarray(image))
        found = preprocessing(model, None)(torch.from_numpy(image)[None])[0]
        assert found.shape == expected.shape
        assert ((found - expected) * std * 255).abs().max() <= 1
        assert ((found - expected) * std * 255).abs().mean() < 0.01


def test_torchvisions_default_weights_are_those_without_a_tag():
    plain = torchvision_model("vit_h_14", pretrained=False, **ONE_BLOCK, num_classes=0)
    tagged = torchvision_model("vit_h_14.IMAGENET1K_SWAG_LINEAR_V1", pretrained=False, **ONE_BLOCK, num_classes=0)
    assert (plain.patch_embed.img_size, tagged.patch_embed.img_size) == ((518, 518), (224, 224))
    assert type(plain.head) is torch.nn.Identity


def test_a_torchvision_model_is_saved_and_loaded_with_its_weights_and_preprocessing(tmp_path):
    options = {**ONE_BLOCK, "img_size": 64, "num_classes": 0}
    model = randomised(torchvision_model("vit_l_16.IMAGENET1K_V1", pretrained=False, **options))
    preprocess = preprocessing(model, None)
    save_model(model, tmp_path / "m", preprocess)
    loaded = load_model(tmp_path / "m")
    assert weights_digest(loaded) == weights_digest(model)
    assert preprocessing(loaded, None) == preprocess
    assert preprocess.resized(100, 100) == (69, 69)  # 64 of 224 from 242
    pixels = pictures(model)
    with torch.no_grad():
        assert torch.equal(loaded(pixels), model(pixels))
    other = copy.deepcopy(model)
    other.pos_embed.data[0, 1] += 1
    assert weights_digest(other) != weights_digest(model)
