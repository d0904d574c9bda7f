"""The page that classifies: a real model in a real browser, without a network."""

import base64
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.browser import chromium, set_screen
from vit_finetune.classifier_page import page as module
from vit_finetune.classifier_page.page import classifier_page
from vit_finetune.classifier_page.runtime import Runtime, read_runtime
from vit_finetune.core.errors import UserError
from vit_finetune.data.image_files import READING, fit_image, open_image
from vit_finetune.export import export_page, main
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import load_model, save_model
from vit_finetune.prediction.predictor import Predictor

CLASSES = ["<b>cat</b>", "dog", "owl", "a very long name of a class that is no word"]
FOR_ONNX = "--with-preprocessing and --opset are for FILE.onnx"
CARDS = """
return [...document.querySelectorAll(".card")].map((card) => ({
  name: card.querySelector("p").textContent,
  classes: [...card.querySelectorAll("li span")].map((name) => name.textContent),
  probabilities: [...card.querySelectorAll("data")].map((data) => Number(data.value)),
  shown: [...card.querySelectorAll("data")].map((data) => data.textContent),
  text: card.querySelector("ol").textContent,
}));
"""
# files as a person drops or pastes them
GIVE = """
const [kind, bytes, name] = arguments;
const data = new DataTransfer();
const content = Uint8Array.from(atob(bytes), (character) => character.charCodeAt(0));
data.items.add(new File([content], name, { type: "image/png" }));
const event = kind === "drop"
  ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
  : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
document.body.dispatchEvent(event);
return event.defaultPrevented;
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of several sizes and colours, 0.png to 7.png; the last one is damaged."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number, size in enumerate([(8, 8), (8, 8), (40, 90), (300, 20), (64, 64), (9, 7), (1, 1)]):
        pixels = rng.integers(256, size=(*size, 3)) * rng.uniform(size=(1, 1, 3))
        pixels[: size[0] // 2] += rng.uniform(0, 255, size=3)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    (folder / "7.png").write_bytes((folder / "0.png").read_bytes()[:60])
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def model(tiny_model_folder, images, tmp_path_factory):
    """The folder of a model of random weights, except that its head tells the images apart."""
    folder = tmp_path_factory.mktemp("finetuned")
    network = load_model(tiny_model_folder, num_classes=len(CLASSES))
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))
    preprocess = preprocessing(network, None)
    fitted = [fit_image(open_image(file), (8, 8), "crop") for file in images[:-1]]
    with torch.no_grad():
        logits = network(preprocess(torch.from_numpy(np.stack(fitted))))
        network.head.weight /= logits.std(dim=0)[:, None]
        network.head.bias -= (logits / logits.std(dim=0)).mean(dim=0)
    seen = {"classes": CLASSES, "image_shape": [8, 8, 3], "fit": "crop", "reading": READING}
    save_model(network, folder, preprocess, seen)
    return folder


@pytest.fixture(scope="module")
def page(model, runtime_file, tmp_path_factory):
    pytest.importorskip("onnxscript")
    target = tmp_path_factory.mktemp("page") / "page.html"
    export_page(model, target, runtime_file)
    return target


@pytest.fixture
def opened(page):
    with chromium(1280, 900) as driver:
        driver.set_network_conditions(offline=True, latency=0, throughput=0)
        driver.get(page.as_uri())
        yield driver
        assert driver.execute_script("return performance.getEntriesByType('resource')") == []
        assert driver.get_log("browser") == []


def wait_for(driver, status):
    from selenium.webdriver.support.ui import WebDriverWait

    shown = driver.find_element("id", "status")
    WebDriverWait(driver, 60).until(lambda _: shown.text == status)


def answers(model, files):
    predictor = Predictor(model, "cpu")
    pixels = [predictor.read(file.name, file, draw=False).pixels for file in files]
    return predictor.probabilities(pixels).numpy()


@pytest.mark.slow
def test_images_get_the_class_and_probability_of_predict(opened, model, images):
    opened.find_element("id", "files").send_keys("\n".join(map(str, images)))
    wait_for(opened, "8 images classified")
    *cards, damaged = opened.execute_script(CARDS)
    expected = answers(model, images[:-1])
    assert len(set(expected.argmax(axis=1))) > 2  # else the comparison would show little
    for card, file, probabilities in zip(cards, images, expected, strict=False):
        order = probabilities.argsort()[::-1][:3]
        assert card["name"] == file.name
        assert card["classes"] == [CLASSES[k] for k in order]
        np.testing.assert_allclose(card["probabilities"], probabilities[order], atol=0.03)
        assert card["shown"] == [f"{100 * value:.1f} %" for value in card["probabilities"]]
    assert damaged["name"] == "7.png"
    assert damaged["text"].startswith("Not classified: ")


@pytest.mark.slow
def test_images_can_be_dropped_and_pasted_and_the_newest_are_first(opened, images):
    wait_for(opened, "Ready")
    content = base64.b64encode(images[0].read_bytes()).decode()
    assert opened.execute_script(GIVE, "drop", content, "dropped.png")  # not opened by the browser
    wait_for(opened, "1 image classified")
    opened.execute_script(GIVE, "paste", content, "pasted.png")
    wait_for(opened, "2 images classified")
    cards = opened.execute_script(CARDS)
    assert [card["name"] for card in cards] == ["pasted.png", "dropped.png"]
    assert cards[0]["probabilities"] == cards[1]["probabilities"]


@pytest.mark.slow
def test_the_keyboard_reaches_the_choice_of_files_and_shows_where_it_is(opened):
    from selenium.webdriver import ActionChains, Keys

    focused = "return document.activeElement.id"
    outlined = "return getComputedStyle(document.getElementById('choose')).outlineStyle"
    assert opened.execute_script(outlined) == "none"
    ActionChains(opened).send_keys(Keys.TAB, Keys.TAB).perform()  # past the list of classes
    assert opened.execute_script(focused) == "files"
    assert opened.execute_script(outlined) == "solid"


@pytest.mark.slow
def test_on_a_phone_nothing_is_wider_than_the_screen(opened, images):
    set_screen(opened, 360, 780, scale=2, phone=True)
    opened.find_element("id", "files").send_keys("\n".join(map(str, images)))
    wait_for(opened, "8 images classified")
    opened.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert opened.execute_script("return document.documentElement.scrollWidth") == 360


@pytest.mark.slow
def test_only_the_pages_own_scripts_run_and_webassembly(page):
    text = page.read_text("utf-8")
    (policy,) = re.findall(r'Content-Security-Policy"\s+content="([^"]*)"', text)
    assert policy.startswith("default-src 'none';")
    assert set(re.findall(r"'([a-z-]+)'", policy)) == {"none", "wasm-unsafe-eval"}
    assert "http" not in policy
    assert "sourceMappingURL" not in text


@pytest.mark.slow
def test_the_same_model_gives_the_same_page_and_no_paths_of_this_machine(
    model, page, runtime_file, tmp_path
):
    export_page(model, tmp_path / "again.html", runtime_file)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


@pytest.mark.slow
def test_the_script_of_the_runtime_does_not_need_the_origin_of_the_page(runtime_file):
    """Firefox says "null" for a file, from which the script could not start."""
    script = read_runtime(runtime_file).script
    assert "location.origin" not in script
    assert "location.href" in script


@pytest.mark.slow
def test_the_script_of_the_runtime_stands_in_a_page_as_it_is(runtime_file):
    script = read_runtime(runtime_file).script
    assert "InferenceSession:" in script
    # what would end the element, or what a browser changes
    assert not re.search(r"</script|<!--|\r|\0", script, re.IGNORECASE)


def test_a_model_too_large_for_a_browser_is_refused_in_one_line(monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(module, "LARGEST", 10)
    facts = {"classes": ["cat"], "fit": "crop", **READING}
    large = onnx.ModelProto(producer_name="a name of some length")
    message = "would take 4. bytes of the page, and a browser reads at most 10 bytes; name a FILE"
    with pytest.raises(UserError, match=message):
        classifier_page(large, facts, Runtime("", b""))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["page.htm"], "page.htm must end in .onnx or .html"),
        (["page.html", "--opset", "20"], FOR_ONNX),
        (
            ["page.html", "--with-preprocessing"],
            FOR_ONNX,
        ),
        (["page.html", "--runtime", "other.tgz"], "other.tgz is not onnxruntime-web@"),
        (["page.html", "--runtime", "no.tgz"], "No such file or directory: 'no.tgz'"),
        (["page.html"], "npm, which fetches onnxruntime-web@"),
        (["page.html", "--model", "nowhere"], "nowhere does not hold a trained model"),
    ],
)
def test_without_what_a_page_needs_there_is_one_line_and_no_page(
    model, tmp_path, monkeypatch, capfd, options, error
):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "other.tgz").write_bytes(b"other")
    monkeypatch.setattr("sys.argv", ["export", "--model", str(model), *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert error in end.value.code
    assert "\n" not in end.value.code
    assert [path.name for path in tmp_path.iterdir()] == ["other.tgz"]
