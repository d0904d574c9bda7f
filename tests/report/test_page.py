"""The page to send: what it says is what was measured, and it opens anywhere."""

import base64
import html
import json
import re

import pytest

from tests.browser import chromium
from tests.project import ROOT
from vit_finetune.figures import png, training_curves
from vit_finetune.report import ATTENTION, TEST, TRAINING, compose, locked_versions

HISTORY = [{"epoch": 1, "train_loss": 1.0, "val_loss": 0.9, "train_accuracy": 0.5, "val_accuracy": 0.6, "lr": 0.1}]
PICTURE = png(training_curves(HISTORY))
PICTURES = dict.fromkeys([*TEST, *ATTENTION, *TRAINING], PICTURE)
PARAMS = {
    "seed": {"seed": 0},
    "data": {"name": "cifar10"},
    "model": {"name": "vit_<tiny>&co", "image_size": None, "pretrained": True},
    "freeze": {"trainable_blocks": 2},
    "report": {"title": None, "author": None},
}


@pytest.fixture(scope="module")
def metrics():
    names = ("subset", "train", "evaluation", "attention")
    return {name: json.loads((ROOT / f"metrics/{name}.json").read_text()) for name in names}


def page(metrics, **report):
    return compose({**PARAMS, "report": {**PARAMS["report"], **report}}, metrics, PICTURES, {"torch": "2.0"})


def test_the_numbers_are_those_of_the_metrics(metrics):
    test = metrics["evaluation"] | {"accuracy": 0.12345, "accuracy_ci95": [0.1, 0.2], "n": 54321}
    text = page({**metrics, "evaluation": test})
    assert "0.1235  [0.1000, 0.2000], n = 54,321" in text
    assert metrics["attention"]["faithfulness"]["verdict"] in text
    assert f"{metrics['train']['parameters_trainable']:,}" in text
    assert "trainable_blocks 2" in text
    assert "image_size null, pretrained true" in text
    assert "<td>torch</td><td>2.0</td>" in text


def test_what_a_user_wrote_is_text_and_never_markup(metrics):
    text = page(metrics, title="<script>alert(1)</script>", author="A & <b>B</b> $title")
    assert "<script" not in text
    assert "<b>" not in text
    assert "<h1>&lt;script&gt;alert(1)&lt;/script&gt;</h1>" in text
    assert "A &amp; &lt;b&gt;B&lt;/b&gt; $title." in text
    assert "<h1>vit_&lt;tiny&gt;&amp;co on cifar10</h1>" in page(metrics)


def test_every_picture_is_inside_under_its_caption_and_the_same_arguments_give_the_same_page(metrics):
    text = page(metrics)
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert [base64.b64decode(data) for data in found] == [PICTURE] * len(PICTURES)
    for caption in (*TEST.values(), *ATTENTION.values(), *TRAINING.values()):
        assert f"<figcaption>{html.escape(caption)}</figcaption>" in text
    assert page(metrics) == text


def test_versions_come_from_the_lock():
    lock = "numpy==2.1.0 ; python_version > '3' \\\n    --hash=sha256:aa\ntorch==2.15.0 \\\n    # via x==1\n"
    assert locked_versions(lock, ["torch", "numpy"]) == {"torch": "2.15.0", "numpy": "2.1.0"}
    with pytest.raises(ValueError, match=r"does not pin timm, x; run make lock"):
        locked_versions(lock, ["timm", "x"])


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_a_screen_and_a_phone_and_asks_the_network_for_nothing(metrics, tmp_path, width):
    (tmp_path / "report.html").write_text(page(metrics, title="A" * 200), encoding="utf-8")
    with chromium(width, 900) as driver:
        driver.get((tmp_path / "report.html").as_uri())
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        sizes = driver.execute_script("return [...document.images].map(i => [i.naturalWidth, i.clientWidth])")
        assert len(sizes) == len(PICTURES)
        assert all(natural > 0 and shown >= 500 for natural, shown in sizes)  # letters stay legible
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [name for name in loaded if not name.startswith("data:")] == []
        assert driver.get_log("browser") == []
