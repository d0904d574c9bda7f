"""The trained model on the hub: a stand-in on this machine takes it, and timm loads it from
there."""

import json

import pytest
import yaml

from tests.documents import template
from tests.hub import TOKEN, running_hub
from tests.project import ROOT
from vit_finetune.params import read_yaml
from vit_finetune.publish import card_with_test_accuracy

CARD = """---
license: apache-2.0
library_name: timm
pipeline_tag: image-classification
model-index:
- name: vit
  results:
  - task:
      type: image-classification
    dataset:
      name: cifar10
      type: uoft-cs/cifar10
      split: validation
    metrics:
    - type: accuracy
      value: 0.9
      name: validation accuracy, n = 10
---

# vit, fine-tuned on cifar10

| | |
|---|---|
| images | 100 |

model = timm.create_model("local-dir:models/finetuned", pretrained=True).eval()
"""
EVALUATION = {"accuracy": 0.8, "accuracy_ci95": [0.711112, 0.866633], "n": 100}

TINY_LR = read_yaml(ROOT / "params.yaml")["train"]["lr"]
PUBLISH = """
import runpy, sys
sys.path.insert(0, "src")
runpy.run_module("vit_finetune.publish", run_name="__main__")
"""

LOGITS = """
import sys, timm, torch
model = timm.create_model(sys.argv[1], pretrained=True).eval()
pixels = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
print(model.pretrained_cfg["label_names"], model(pixels).tolist())
"""


# A run can start from it, with its head.
START = """
import sys
sys.path.insert(0, "src")
from safetensors.torch import load_file
from vit_finetune.model.build import build_model, kept_head
name = sys.argv[1]
backbone = build_model(name, pretrained=True, image_size=None, seed=0)
head = kept_head(name, backbone, [str(digit) for digit in range(10)])
saved = load_file("models/finetuned/model.safetensors")
print(bool((head["weight"] == saved["head.weight"]).all()))
"""


def test_the_card_has_the_test_accuracy_with_its_interval_and_loads_the_model_from_the_hub():
    card = card_with_test_accuracy(CARD, EVALUATION, "ada/birds")
    _, front, body = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["license"] == "apache-2.0"
    (model,) = facts["model-index"]
    by_split = {result["dataset"]["split"]: result for result in model["results"]}
    assert by_split["test"]["dataset"]["type"] == "uoft-cs/cifar10"
    assert by_split["test"]["metrics"] == [
        {
            "type": "accuracy",
            "value": 0.8,
            "name": "test accuracy, 95 % interval [0.7111, 0.8666], n = 100",
        }
    ]
    assert by_split["validation"]["metrics"][0]["value"] == 0.9
    row = "| test accuracy | 0.8000, 95 % interval [0.7111, 0.8666], n = 100 |"
    assert f"|---|---|\n{row}\n| images | 100 |\n" in body
    assert 'timm.create_model("hf_hub:ada/birds", pretrained=True)' in body
    assert "local-dir" not in card


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture
def environment(hub, tmp_path):
    return {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": TOKEN,
    }


@pytest.mark.slow
def test_timm_loads_from_the_hub_what_was_published(finished, hub, environment):
    here = {"hf auth login": "true", "OWNER/NAME": "ada/digits --private"}
    here["vit-finetune"] = "PYTHONPATH=src python -m vit_finetune"
    lines = template("vit-finetune publish", here)
    done = finished.run("sh", "-ec", "\n".join(lines), env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        f"publish: {hub.address}/ada/digits/commit/{'c' * 40}; timm loads it as hf_hub:ada/digits"
    )
    assert hub.private == {"ada/digits": True}
    folder = finished.folder / "models/finetuned"
    written = hub.models["ada/digits"]
    assert sorted(written) == ["README.md", "config.json", "model.safetensors", "validation.csv"]
    assert written["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    accuracy = json.loads((finished.folder / "metrics/evaluation.json").read_text())["accuracy"]
    assert f"| test accuracy | {accuracy:.4f}, " in written["README.md"].decode()

    here = finished.run("python", "-c", LOGITS, "local-dir:models/finetuned")
    there = finished.run("python", "-c", LOGITS, "hf_hub:ada/digits", env=environment)
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout != ""

    started = finished.run("python", "-c", START, "hf_hub:ada/digits", env=environment)
    assert started.stdout.splitlines()[-1] == "True", started.stderr

    # a second time it is replaced
    again = finished.run("python", "-c", PUBLISH, "ada/digits", env=environment)
    assert again.returncode == 0, again.stderr
    assert hub.models["ada/digits"] == written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ada/digits", {"HF_TOKEN": "wrong"}, "the hub did not take ada/digits: "),
        ("ada/digits", {"HF_HUB_OFFLINE": "1"}, "the hub did not take ada/digits: "),
        ("ada/digits", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub did not take ada/digits: "),
        ("no name", {}, "the hub did not take no name: "),
    ],
)
def test_what_the_hub_refuses_is_one_line(finished, hub, environment, name, change, message):
    done = finished.run("python", "-c", PUBLISH, name, env=environment | change)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"publish: {message}")
    assert line.endswith("log in with `hf auth login`, and use a name OWNER/NAME that is yours")
    assert not any(hub.models.values())


@pytest.mark.slow
def test_a_model_whose_test_accuracy_is_not_known_is_not_published(
    finished, hub, environment, tmp_path
):
    project = finished.copy(tmp_path / "p")
    project.set(**{"train.lr": 0.01})
    done = project.run("python", "-c", PUBLISH, "ada/digits", env=environment)
    assert done.returncode == 1
    assert "may be that of another model: train changed since " in done.stderr
    assert hub.models == {}
    # what has no part in the accuracy may change
    project.set(**{"train.lr": TINY_LR, "report.title": "Digits"})
    done = project.run("python", "-c", PUBLISH, "ada/digits", env=environment)
    assert done.returncode == 0, done.stderr
    assert hub.private == {"ada/digits": False}
