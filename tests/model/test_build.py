"""A model is built by its name, or refused in one line that says why and what works."""

import http.server
import json
import re
import shutil
import socket
import threading
import urllib.request
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.model.small import OURS, NoInitialisation
from tests.project import TINY_MODEL
from vit_finetune.core.errors import UserError
from vit_finetune.model import hub
from vit_finetune.model.build import (
    WORKS,
    build_model,
    kept_head,
    known_classes,
    preprocessing,
)
from vit_finetune.model.families import FAMILIES
from vit_finetune.model.saved import save_model, weights_digest


def refusal(name, image_size=None):
    """What `build_model` says of a model without weights."""
    with torch.device("meta"), NoInitialisation(), pytest.raises(UserError) as raised:
        build_model(name, pretrained=False, image_size=image_size, seed=0)
    return str(raised.value)


def test_random_weights_come_from_the_seed_alone():
    digests = []
    for noise, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(noise)
        model = build_model("vit_tiny_patch16_224", pretrained=False, image_size=32, seed=seed)
        digests.append(weights_digest(model))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_tiny_patch17_224",
            r"^model.name is 'vit_tiny_patch17_224', .* not know; close: vit_tiny_patch16_224",
        ),
        ("vit_tiny_patch16_224.imagenet", r"no such weights; it has: .*augreg_in21k_ft_in1k"),
    ],
)
def test_a_name_that_timm_does_not_know_is_answered_with_those_it_knows(name, message):
    assert re.search(message, refusal(name))


def test_a_model_of_the_hub_that_cannot_be_loaded_is_refused_with_the_reason():
    message = refusal("hf_hub:nobody/nothing")
    assert message.startswith("model.name is 'hf_hub:nobody/nothing', which could not be loaded: ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet18", "a ResNet of timm.models.resnet cannot be split at a block"),
        ("vit_base_patch16_xp_224", "ParallelScalingBlock cannot be split at a block"),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock cannot be split at a block"),
        ("vit_dwee_patch16_reg1_gap_256", "DiffAttention cannot be shown: it is not one softmax"),
    ],
)
def test_a_model_that_no_family_can_carry_is_refused_with_the_reason(name, reason):
    message = refusal(name)
    assert message.startswith(f"model.name is {name!r}: ")
    assert message.endswith(f"{reason}; use {WORKS}")


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [
        ("vit_tiny_patch16_224", 40, "32 or 48"),
        ("vit_small_patch14_dinov2", 224 + 1, "224 or 238"),
        ("vit_small_patch14_dinov2", 224 - 1, "210 or 224"),
        ("vit_tiny_patch16_224", 8, "16"),
        ("torchvision/vit_b_32", 40, "32 or 64"),
    ],
)
def test_an_image_size_that_the_patch_does_not_divide_is_answered_with_the_nearest_that_work(
    name, size, nearest
):
    patch = re.search(r"(?:patch|b_)(\d+)", name)[1]
    assert refusal(name, size) == (
        f"model.image_size is {size}: the patches of {name} are {patch} pixels; "
        f"use a multiple such as {nearest}"
    )
    with torch.device("meta"), NoInitialisation():
        for works in map(int, nearest.split(" or ")):
            model = build_model(name, pretrained=False, image_size=works, seed=0)
            assert model.patch_embed.img_size == (works, works)


def test_weights_out_of_reach_name_the_hub_and_the_demo(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"could not be loaded .*HF_HOME.*local-dir.*pretrained to false.*make demo",
    ):
        build_model(
            "vit_tiny_patch16_224.augreg_in21k_ft_in1k", pretrained=True, image_size=None, seed=0
        )


@pytest.mark.parametrize("tag", ["augreg_in21k_ft_in1k", "no_such_tag"])
def test_a_hub_that_does_not_answer_is_an_error_at_once_unless_the_weights_are_in_its_cache(
    monkeypatch, tmp_path, tag
):
    import huggingface_hub.constants

    name = f"vit_tiny_patch16_224.{tag}"
    asked = []

    def create_model(*arguments, **options):
        asked.append(arguments)
        raise OSError("the hub was asked")

    with socket.socket() as server:  # it accepts and never answers
        server.bind(("127.0.0.1", 0))
        server.listen()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(urllib.request, "_opener", None)
        monkeypatch.setattr(hub, "PATIENCE", 0.1)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(timm, "create_model", create_model)
        if tag == "no_such_tag":
            with pytest.raises(UserError, match="timm has no such weights"):
                build_model(name, pretrained=True, image_size=None, seed=0)
            return
        with pytest.raises(UserError, match=rf"{endpoint} cannot be reached \(.*timed out\)"):
            build_model(name, pretrained=True, image_size=None, seed=0)
        assert asked == []
        (tmp_path / f"models--timm--{name}/snapshots").mkdir(parents=True)
        with pytest.raises(UserError, match="the hub was asked"):
            build_model(name, pretrained=True, image_size=None, seed=0)
        assert len(asked) == 1


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(403)


def test_any_answer_of_the_hub_will_do(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(urllib.request, "_opener", None)
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request).start()
        assert hub.unreachable(f"http://127.0.0.1:{server.server_port}") is None
    assert "refused" in hub.unreachable("http://127.0.0.1:9")


def test_a_local_folder_that_is_missing_or_of_another_architecture_is_refused(
    tiny_model_folder, tmp_path
):
    with pytest.raises(
        UserError, match="'local-dir:no/such/folder', but that folder has no usable model"
    ):
        build_model("local-dir:no/such/folder", pretrained=True, image_size=None, seed=0)
    config = json.loads((tiny_model_folder / "config.json").read_text())
    config["model_args"]["depth"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(
        (tiny_model_folder / "model.safetensors").read_bytes()
    )
    with pytest.raises(UserError, match=r"has no usable model: .*blocks\.3"):
        build_model(f"local-dir:{tmp_path}", pretrained=True, image_size=None, seed=0)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "header"),
        ("config.json", b'{"model_type": "vit"}', "its configuration has no 'architecture'"),
        ("config.json", b"{", "Expecting property name"),
    ],
)
def test_a_local_folder_with_a_file_that_timm_cannot_read_is_refused(
    tiny_model_folder, tmp_path, file, content, reason
):
    shutil.copytree(tiny_model_folder, tmp_path / "m")
    (tmp_path / "m" / file).write_bytes(content)
    with pytest.raises(UserError, match=f"has no usable model: .*{reason}"):
        build_model(f"local-dir:{tmp_path / 'm'}", pretrained=True, image_size=None, seed=0)


def test_a_local_folder_behind_a_link_is_refused_because_dvc_would_not_see_it_change(
    tiny_model_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_folder, "elsewhere/deep")
    Path("pretrained").mkdir()
    Path("pretrained/linked").symlink_to(tmp_path / "elsewhere")
    for folder in ("pretrained/linked", "pretrained/linked/deep"):
        with pytest.raises(UserError, match=r"^pretrained/linked is a link to a folder: DVC does"):
            build_model(f"local-dir:{folder}", pretrained=True, image_size=None, seed=0)
    build_model("local-dir:elsewhere/deep", pretrained=True, image_size=None, seed=0)


@pytest.mark.parametrize("change", ["missing", "renamed"])
def test_a_local_folder_whose_weights_are_incomplete_is_refused_though_it_has_a_head(
    tmp_path, change
):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **TINY_MODEL)
    save_model(model, tmp_path, preprocessing(model, None))
    weights = load_file(tmp_path / "model.safetensors")
    tensor = weights.pop("blocks.1.norm1.bias")
    if change == "renamed":
        weights["encoder.1.norm1.bias"] = tensor
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"has no usable model: .*blocks\.1\.norm1\.bias"):
        build_model(f"local-dir:{tmp_path}", pretrained=True, image_size=None, seed=0)


LIKE = r"vit|^vision|^pit|cait|volo|xcit|^swin_transformer$|mlp|hiera$|^resnet$|^convnext$|^vgg"


def architectures():
    """All architectures of timm's files that hold what can be split, and one for each of some
    others."""
    names = [name for file in OURS for name in timm.list_models(module=file)]
    others = [file for file in timm.list_modules() if file not in OURS and re.search(LIKE, file)]
    return names + [
        min(timm.list_models(module=file), key=lambda name: (len(name), name)) for file in others
    ]


@pytest.mark.slow
def test_every_architecture_of_timm_is_built_or_refused_in_one_line(monkeypatch):
    create = timm.create_model
    ours = {name for file in OURS for name in timm.list_models(module=file)}

    def one_block(name, **options):
        if name in ours and "sapiens2" not in name:
            options = {"depth": 1, **options}
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", one_block)
    accepted = {}
    refused = {}
    for name in architectures():
        with torch.device("meta"), NoInitialisation():
            try:
                accepted[name] = type(build_model(name, pretrained=False, image_size=None, seed=0))
            except UserError as error:
                refused[name] = str(error)
    assert set(accepted.values()) == set(FAMILIES)
    assert len(accepted) > 200
    assert {"resnet18", "vit_base_patch16_xp_224", "test_vit_relpos"} <= set(refused)
    for name, message in refused.items():
        assert "\n" not in message
        assert name in message
        assert re.search(
            r"(cannot be split at a block|not one softmax); use vit_\*|use a multiple", message
        ), message
    for pattern in re.findall(r"[\w*]+", WORKS.split(" of timm")[0]):
        assert any(re.fullmatch(pattern.replace("*", ".*"), name) for name in accepted), pattern


def test_a_kept_model_brings_its_head_for_the_same_classes_in_whatever_order(tiny_vit, tmp_path):
    seen = {
        "classes": ["cat", "dog", "owl"],
        "image_shape": [8, 8, 3],
        "fit": "crop",
        "reading": {},
    }
    save_model(tiny_vit, tmp_path / "kept", preprocessing(tiny_vit, None), seen)
    name = f"local-dir:{tmp_path / 'kept'}"
    backbone = build_model(name, pretrained=True, image_size=None, seed=0)
    assert known_classes(backbone) == ["cat", "dog", "owl"]
    head = kept_head(name, backbone, ["owl", "cat", "dog"])
    assert torch.equal(head["weight"], tiny_vit.head.weight[[2, 0, 1]])
    assert torch.equal(head["bias"], tiny_vit.head.bias[[2, 0, 1]])
    for others in (["cat", "dog"], ["cat", "dog", "eel"], ["cat", "dog", "owl", "eel"]):
        assert kept_head(name, backbone, others) is None


def test_weights_that_do_not_say_their_classes_bring_no_head(tiny_model_folder):
    name = f"local-dir:{tiny_model_folder}"
    backbone = build_model(name, pretrained=True, image_size=None, seed=0)
    assert known_classes(backbone) == []
    assert kept_head(name, backbone, ["cat", "dog", "owl"]) is None
