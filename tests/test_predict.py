"""The trained model in use: predictions of files, folders and streams, overlays."""

import csv
import io
import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.browser import chromium
from tests.documents import template
from tests.project import ROOT
from vit_finetune.attention.figures import contrast
from vit_finetune.attention.maps import MapMaker
from vit_finetune.attention.pixels import spotlight
from vit_finetune.data.image_files import READING
from vit_finetune.model.build import preprocessing
from vit_finetune.model.calibrated import write_validation
from vit_finetune.model.saved import load_model, save_model
from vit_finetune.predict import in_words, read_images
from vit_finetune.prediction.predictor import Photograph, Predictor

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def model(tiny_model_folder, tmp_path_factory):
    """The folder of a model of three classes, as the train stage saves it; its weights are
    random."""
    folder = tmp_path_factory.mktemp("finetuned")
    network = load_model(tiny_model_folder, num_classes=len(CLASSES))
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))
    seen = {"classes": CLASSES, "image_shape": [8, 8, 3], "fit": "crop", "reading": READING}
    save_model(network, folder, preprocessing(network, None), seen)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three images, 0.png to 2.png."""
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(
        np.random.default_rng(0).integers(256, size=(3, 8, 8, 3), dtype=np.uint8)
    ):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def command(module, *arguments):
    return [sys.executable, "-m", f"vit_finetune.{module}", *map(str, arguments)]


@pytest.fixture
def call(monkeypatch, capfd):
    """Run a module as `python -m` does, in this process, where torch is loaded: exit status,
    output, errors."""

    def run(module, *arguments, data=b""):
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.delitem(sys.modules, f"vit_finetune.{module}", raising=False)
        handler = signal.getsignal(signal.SIGPIPE)
        status = 0
        try:
            runpy.run_module(f"vit_finetune.{module}", run_name="__main__")
        except SystemExit as end:  # as Python ends: a text goes to stderr, and the status is 1
            status = end.code if isinstance(end.code, int) else 1
            print("" if isinstance(end.code, int) else end.code, file=sys.stderr)
        finally:
            signal.signal(signal.SIGPIPE, handler)
        shown = capfd.readouterr()
        return status, shown.out.splitlines(), shown.err.strip().splitlines()

    return run


@pytest.fixture
def predictor(model):
    return Predictor(model, "cpu")


def picture_of(predictor, photograph, label, against=None, method="relevance"):
    """The picture of one map of an image that was read."""
    row = predictor.probabilities([photograph.pixels])[0]
    title = (
        f"{predictor.classes[row.argmax()]} {row.max():.2f}, "
        f"{method} for {predictor.classes[label]}"
    )
    painted = predictor.paint_map(photograph, method, label, against)
    return predictor.draw_map(photograph, painted, label, against, title)


@pytest.mark.slow
def test_the_predictions_of_image_files_are_those_of_the_pipeline(finished, tmp_path):
    for number, image in enumerate(np.load(finished.folder / "data/subset/test_images.npy")):
        Image.fromarray(image).save(tmp_path / f"{number:03}.png")
    model = finished.folder / "models/finetuned"
    arguments = command("predict", "--model", model, "--json", "--top", 10, tmp_path)
    done = subprocess.run(arguments, cwd=ROOT / "src", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    with (finished.folder / "plots/predictions.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(map(str, tmp_path.iterdir()))
    for row, known in zip(rows, expected, strict=True):
        # from float16 activations
        assert row["probability"] == pytest.approx(float(known["confidence"]), abs=2e-3)
        gap = row["top"][0]["probability"] - row["top"][1]["probability"]
        assert row["label"] == known["predicted"] or gap < 0.004


def test_json_has_the_classes_by_falling_probability(model, images, call):
    status, lines, _ = call("predict", "--model", model, "--json", "--top", 10, images)
    assert status == 0
    rows = [json.loads(line) for line in lines]
    assert [row["image"] for row in rows] == [str(images / f"{number}.png") for number in range(3)]
    for row in rows:
        assert sorted(entry["label"] for entry in row["top"]) == CLASSES
        assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1, abs=1e-4)
        assert row["top"] == sorted(row["top"], key=lambda entry: -entry["probability"])
        assert row["top"][0] == {"label": row["label"], "probability": row["probability"]}


def test_a_file_a_folder_and_standard_input_give_the_same_line(model, images, tmp_path, call):
    data = (images / "0.png").read_bytes()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/one.PNG").write_bytes(data)
    (tmp_path / "deep/notes.txt").write_text("no image")
    sources = images / "0.png", tmp_path, "-"
    _, lines, _ = call("predict", "--model", model, "--top", 2, *sources, data=data)
    names, predictions = zip(*(line.split(": ", 1) for line in lines), strict=True)
    assert names == (str(images / "0.png"), str(tmp_path / "deep/one.PNG"), "-")
    assert len(set(predictions)) == 1
    assert len(predictions[0].split(", ")) == 2


def test_images_in_folders_of_classes_give_the_accuracy_and_the_pairs_that_are_confused(
    model, images, tmp_path, call
):
    """Three copies of an image in the folder of its answer, one in another class's, one in none."""
    (answer,) = call("predict", "--model", model, "--json", images / "0.png")[1]
    label = json.loads(answer)["label"]
    other = next(name for name in CLASSES if name != label)
    for place in (f"{label}/0", f"test/{label}/1", f"{label}/deep/2", f"{other}/3", "loose/4"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{place}.png").write_bytes((images / "0.png").read_bytes())
    status, lines, _ = call("predict", "--model", model, tmp_path)
    assert status == 0
    assert lines[5:] == [
        "",
        # Wilson (1927) by hand, z = 1.96
        "accuracy 0.7500, 95 % interval [0.3006, 0.9544], n = 4 images in folders of classes",
        f"{other} taken for {label}: 1 of 1",
    ]
    _, lines, _ = call("predict", "--model", model, "--json", tmp_path)
    actual = {Path(row["image"]).stem: row.get("actual") for row in map(json.loads, lines)}
    assert actual == {"0": label, "1": label, "2": label, "3": other, "4": None}


def test_a_folder_is_of_the_class_that_unicode_calls_the_same(tmp_path):
    """Some systems write é as two characters."""
    (tmp_path / "cafe\u0301").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cafe\u0301/0.png")
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    predictor = SimpleNamespace(
        classes=["caf\u00e9"], read=lambda name, *_: Photograph(name, pixels, None)
    )
    (photograph,) = read_images(predictor, [str(tmp_path)], False, [])
    assert photograph.actual == "caf\u00e9"


def test_a_name_that_cannot_be_printed_is_escaped_in_its_line():
    answer = {"image": "a\udcff\nb.png", "top": [{"label": "cat", "probability": 0.5}]}
    assert in_words(answer) == r"'a\udcff\nb.png': cat 0.500"


@pytest.mark.slow
def test_a_reader_that_leaves_early_ends_it_without_a_word(model, images):
    # more lines than are ready when the reader leaves
    piped = ["sh", "-c", '"$@" | head -n 1', "sh"]
    piped += command("predict", "--model", model, *[images] * 200)
    done = subprocess.run(piped, cwd=ROOT / "src", capture_output=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == b""


def test_what_cannot_be_read_is_named_and_the_others_are_predicted(model, images, tmp_path, call):
    (tmp_path / "torn.png").write_bytes((images / "0.png").read_bytes()[:60])
    sources = tmp_path / "torn.png", images / "1.png", tmp_path / "absent.png"
    status, lines, errors = call("predict", "--model", model, *sources)
    assert status == 1
    assert [line.split(": ")[0] for line in lines] == [str(images / "1.png")]
    first, second = errors
    assert first.startswith(f"predict: {tmp_path / 'torn.png'} cannot be read as an image: ")
    assert second.startswith(f"predict: {tmp_path / 'absent.png'} cannot be read as an image: ")


def test_a_folder_without_images_is_one_line(model, tmp_path, call):
    status, _, errors = call("predict", "--model", model, tmp_path)
    assert (status, errors) == (1, [f"predict: there is no image below the folder {tmp_path}"])


@pytest.mark.parametrize("top", ["0", "-1", "some"])
def test_fewer_than_one_class_to_show_is_refused(call, top):
    status, _, errors = call("predict", "--top", top, "x.png")
    assert status == 2
    assert errors[-1].endswith(f"error: argument --top: {top} is not a whole number above 0")


def test_a_device_that_is_not_there_is_named_by_its_option(model, images, call, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    status, _, errors = call("predict", "--model", model, "--device", "mps", images)
    assert status == 1
    assert errors[0].startswith("predict: --device is mps, which this machine does not have")


def test_a_folder_without_a_trained_model_is_one_line(tmp_path, call):
    status, _, errors = call("predict", "--model", tmp_path, tmp_path / "x")
    assert status == 1
    (error,) = errors
    assert error.startswith(f"predict: {tmp_path} does not hold a trained model; run dvc repro, ")


def test_an_image_of_another_size_is_seen_as_the_training_images_were(predictor, tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(50, 90, 3), dtype=np.uint8)
    large = Image.fromarray(pixels)

    def seen(image):
        """The pixels that the model gets of an image file."""
        image.save(tmp_path / "i.png")
        return predictor.pixels([predictor.read("i", tmp_path / "i.png", draw=False).pixels])

    small = large.crop((20, 0, 70, 50)).resize((8, 8), Image.Resampling.BICUBIC)
    # a crop by hand ends at its edge, Pillow's reads a little beyond
    inner = ..., slice(8, -8), slice(8, -8)
    torch.testing.assert_close(seen(large)[inner], seen(small)[inner], rtol=0, atol=0.02)
    predictor.source["fit"] = "squash"
    assert torch.equal(seen(large), seen(large.resize((8, 8), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize(
    ("size", "fit"), [((96, 24), "crop"), ((24, 96), "crop"), ((96, 24), "pad"), ((24, 96), "pad")]
)
def test_a_map_is_painted_on_what_the_model_saw_of_the_image_alone(predictor, tmp_path, size, fit):
    """Of an image four times as long as wide: cut to its middle, or with bars at its sides."""
    pixels = np.random.default_rng(0).integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "long.png")
    predictor.source["fit"] = fit
    photograph = predictor.read("long", tmp_path / "long.png", draw=True)
    painted = predictor.paint_map(photograph, "relevance", 0, None)
    assert painted.shape == photograph.shown.shape[:2]
    height, width = painted.shape
    if fit == "crop":
        assert max(height, width) == 4 * min(height, width)  # the picture shows all of the image
    side = max(height, width)
    # the middle quarter of the long side, to a pixel
    quarter = slice(3 * side // 8, -(-5 * side // 8))
    middle = np.zeros((height, width), bool)
    if (size[0] > size[1]) == (fit == "crop"):
        middle[:, quarter] = True
    else:
        middle[quarter] = True
    assert not np.isfinite(painted[~middle]).any()
    assert np.isfinite(painted[middle]).mean() > 0.75  # the model's own crop leaves out a margin
    dimmed = np.ceil(photograph.shown[~middle] * 0.2)
    assert (spotlight(photograph.shown, painted)[~middle] <= dimmed).all()


@pytest.fixture
def draw(model, images, tmp_path, call):
    """The answer to options that draw a map of 0.png, and the picture."""

    def run(*options, image=images / "0.png"):
        arguments = ("--model", model, "--json", "--attention", tmp_path / "maps", *options)
        status, lines, errors = call("predict", *arguments, image)
        assert (status, len(lines)) == (0, 1), errors
        answer = json.loads(lines[0])
        return answer, Path(answer["attention"]).read_bytes()

    return run


@pytest.fixture
def photograph(predictor, images):
    return predictor.read("0", images / "0.png", draw=True)


def test_the_overlay_shows_the_map_of_the_predicted_class(
    predictor, photograph, images, tmp_path, draw
):
    """The file's name has a part of the image's, which may be too long for a file in another
    folder."""
    long_name = tmp_path / f"{'ö' * 120}.png"
    long_name.write_bytes((images / "0.png").read_bytes())
    answer, picture = draw(image=long_name)
    assert [str(path) for path in (tmp_path / "maps").iterdir()] == [answer["attention"]]
    of_class = [picture_of(predictor, photograph, k) for k in range(len(CLASSES))]
    assert picture == of_class[CLASSES.index(answer["label"])]
    assert len(set(of_class)) == len(CLASSES)
    assert min(Image.open(io.BytesIO(picture)).size) > 200


def test_the_overlay_shows_the_class_that_is_named_alone_or_against_another(
    predictor, photograph, draw
):
    probabilities = predictor.probabilities([photograph.pixels])[0]
    first, second, third = probabilities.argsort(descending=True).tolist()
    names = [CLASSES[k] for k in (first, second, third)]
    asked = {
        (third,): ("--class", names[2]),
        (third, second): ("--class", names[2], "--against", names[1]),
        (first, third): ("--against", names[2]),
        (second, first): ("--against", names[0]),  # not against itself
    }
    pictures = {classes: draw(*options)[1] for classes, options in asked.items()}
    for classes, picture in pictures.items():
        assert picture == picture_of(predictor, photograph, *classes)
    assert len(set(pictures.values())) == 4


def test_the_overlay_shows_the_map_that_is_named(predictor, photograph, draw):
    answer, picture = draw("--map", "LeGrad", "--class", "owl")
    assert (answer["map"], answer["map_class"]) == ("LeGrad", "owl")
    assert picture == picture_of(predictor, photograph, 2, method="LeGrad")
    assert picture != picture_of(predictor, photograph, 2)


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """It is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


NOTHING_DRAWN = "--map, --class and --against say what is drawn; name a folder with --attention, "


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--map", "LeGrad"), NOTHING_DRAWN),
        (("--class", "owl"), NOTHING_DRAWN),
        (("--against", "owl"), NOTHING_DRAWN),
        (
            ("--page", "x.html", "--map", "legrad"),
            "--map is legrad; use one of: last block, rollout, gradient rollout",
        ),
        (
            ("--page", "x.html", "--map", "rollout", "--against", "cat"),
            "--map is rollout, which knows no class",
        ),
    ],
)
def test_options_of_the_map_that_do_not_go_together_are_one_line(
    model, images, options, message, empty_folder, call
):
    status, lines, errors = call("predict", "--model", model, *options, images)
    assert (status, lines, len(errors)) == (1, [], 1)
    assert message in errors[0]
    assert list(empty_folder.iterdir()) == []


@pytest.fixture
def answered(model, images, predictor):
    """The names of two images that are answered with an accuracy of 0.99, and not the third: the
    record of validation images is such that the threshold is the second highest confidence."""
    confidences = {}
    for path in sorted(images.iterdir()):
        pixels = predictor.read(str(path), path, draw=False).pixels
        confidences[str(path)] = round(predictor.probabilities([pixels]).max().item(), 6)
    threshold = sorted(confidences.values())[1]
    confidence = np.repeat([threshold, threshold / 2], [300, 100])
    rng = np.random.default_rng(0)
    write_validation(model, confidence, confidence == threshold, np.arange(400), rng)
    yield [name for name, value in confidences.items() if value >= threshold]
    (model / "validation.csv").unlink()


def test_what_cannot_be_answered_with_the_accuracy_is_marked(model, images, answered, call):
    arguments = ("--model", model, "--at-least", 0.99, "--json", images)
    status, lines, errors = call("predict", *arguments)
    rows = [json.loads(line) for line in lines]
    assert status == 0
    assert len(answered) == 2
    assert [row["image"] for row in rows if row["answered"]] == answered
    assert len(errors) == 1
    assert "like 300 of 400 validation images; at a confidence level of 95 %, at " in errors[0]
    (line,) = template("--at-least 0.99", {"photos": images})
    _, lines, _ = call("predict", "--model", model, *shlex.split(line)[2:])
    marked = [line.split(": ")[0] for line in lines if line.endswith(" (not answered)")]
    assert marked == [row["image"] for row in rows if not row["answered"]]


@pytest.mark.usefixtures("answered")
def test_where_validation_images_are_too_few_nothing_is_answered_and_one_line_says_so(
    model, images, call
):
    status, lines, errors = call("predict", "--model", model, "--at-least", 0.999, images)
    assert status == 0
    assert all(line.endswith(" (not answered)") for line in lines)
    assert errors == [
        "predict: answers nothing: 400 validation images are too few to promise an accuracy of "
        "0.999 at a confidence level of 95 %; at least 2,995 are needed"
    ]


@pytest.mark.parametrize("text", ["0", "1", "99", "nan", "much"])
def test_an_accuracy_that_nothing_can_promise_is_refused(model, images, call, text):
    status, _, errors = call("predict", "--model", model, "--at-least", text, images)
    assert status == 2
    assert f"{text} is not a number between 0 and 1, such as 0.99" in errors[-1]


def test_a_model_without_a_record_of_validation_images_promises_nothing(model, images, call):
    status, lines, errors = call("predict", "--model", model, "--at-least", 0.9, images)
    assert (status, lines) == (1, [])
    assert re.fullmatch(r"predict: .*validation\.csv is missing; run dvc repro", errors[0])


@pytest.mark.parametrize("rows", ["", "0.9,1\n2.0,1\n", "nan,1\n", "high,1\n"], ids=repr)
def test_a_damaged_record_of_validation_images_is_one_line(model, images, call, tmp_path, rows):
    damaged = tmp_path / "model"
    shutil.copytree(model, damaged)
    (damaged / "validation.csv").write_text(f"confidence,right\n{rows}")
    status, lines, errors = call("predict", "--model", damaged, "--at-least", 0.9, images)
    assert (status, lines) == (1, [])
    assert errors == [f"predict: {damaged}/validation.csv is damaged; run dvc repro"]


def test_the_page_marks_and_filters_what_is_not_answered(model, images, answered, tmp_path, call):
    page = tmp_path / "page.html"
    status, _, errors = call(
        "predict", "--model", model, "--at-least", 0.99, "--page", page, images
    )
    assert status == 0, errors
    with chromium(800, 800) as driver:
        driver.get(page.as_uri())
        captions = [e.text for e in driver.find_elements("css selector", "figcaption p")]
        assert [text for text in captions if text.endswith(": not answered")] == [
            f"{name}: not answered" for name in map(str, images.iterdir()) if name not in answered
        ]
        notes = [e.text for e in driver.find_elements("css selector", ".note")]
        assert any("300 of 400 validation images" in note for note in notes)
        select = driver.find_element("css selector", "select[data-filter=answered]")
        select.find_element("css selector", "option[value=yes]").click()
        shown = driver.find_elements("css selector", ".card:not([hidden])")
        assert [card.get_attribute("data-name") for card in shown] == answered


def test_one_page_shows_every_image_with_its_classes_and_its_map(model, images, tmp_path, call):
    """The map as bright as it is high, in a browser that loads nothing; names are text and never
    markup."""
    odd = tmp_path / "a <b> & \"c'.png"
    odd.write_bytes((images / "0.png").read_bytes())
    status, lines, _ = call(
        "predict", "--model", model, "--json", "--page", tmp_path / "page.html", odd, images
    )
    assert status == 0
    with chromium(390, 800) as driver:
        driver.get((tmp_path / "page.html").as_uri())
        shown = [
            element.text.split("\n")
            for element in driver.find_elements("css selector", "figcaption")
        ]
        assert driver.execute_script(
            "return [innerWidth, document.documentElement.scrollWidth]"
        ) == [390, 390]
        sizes = driver.execute_script(
            "return [...document.images].map(image => image.naturalWidth)"
        )
        data = driver.execute_script(
            "return [...document.querySelectorAll('.card')]"
            ".map(card => [card.dataset.name, card.dataset.predicted])"
        )
        assert driver.get_log("browser") == []
    rows = [json.loads(line) for line in lines]
    assert [text[0] for text in shown] == [row["image"] for row in rows]
    assert [text[1] for text in shown] == [row["label"] for row in rows]
    assert data == [[row["image"], row["label"]] for row in rows]
    assert len(sizes) == 8
    assert all(sizes)


def test_a_spotlight_is_bright_where_the_map_is_high_and_dim_elsewhere():
    painted = np.full((10, 10), np.nan)
    painted[:, 5:] = np.linspace(-1, 1, 50).reshape(10, 5)
    lit = spotlight(np.full((10, 10, 3), 200, np.uint8), painted)
    assert (lit[:, :5] == 40).all()  # a fifth of the image's own light
    assert (lit[painted < 0] == 40).all()
    assert lit.max() == 200
    high = painted > 0
    assert (np.diff(lit[..., 0][high][np.argsort(painted[high])].astype(int)) >= 0).all()


def test_the_command_of_the_how_to_draws_one_class_against_another(
    predictor, photograph, model, images, tmp_path, call
):
    paths = {"photo.png": images / "0.png", "overlays": tmp_path / "maps"}
    (line,) = template("--against dog", paths)
    program, tool, *options = shlex.split(line)
    assert [program, tool] == ["vit-finetune", "predict"]
    status, _, errors = call("predict", "--model", model, *options)
    assert status == 0, errors
    picture = picture_of(predictor, photograph, 0, 1)
    assert (tmp_path / "maps/0000-0.png").read_bytes() == picture


def test_what_is_drawn_of_two_classes_is_the_first_against_the_second(predictor, photograph):
    painted = predictor.paint_map(photograph, "relevance", 2, 1)
    pixels = predictor.pixels([photograph.pixels])
    maps = MapMaker(predictor.model).maps(pixels, torch.tensor([2]), torch.tensor([1]))
    values = np.unique(painted[np.isfinite(painted)])
    np.testing.assert_allclose(values, np.unique(maps["relevance"].numpy()), rtol=1e-5)


def test_the_picture_of_a_contrast_names_both_classes_and_has_one_scale_for_both():
    painted = np.full((8, 8), np.nan)
    painted[2:6, 2:4] = 2.0
    painted[2:6, 4:6] = -1.0
    figure = contrast(np.zeros((8, 8, 3), np.uint8), painted, "cat", "dog")
    axes, bar = figure.axes
    assert figure.get_suptitle() == "Yellow speaks for cat, blue for dog"
    assert [label.get_text() for label in bar.get_yticklabels()] == ["dog", "neither", "cat"]
    shown = axes.images[-1]
    assert (shown.norm.vmin, shown.norm.vmax) == (-1, 1)
    np.testing.assert_allclose(shown.get_array().filled(np.nan), painted / 2)


def test_a_contrast_of_nothing_is_drawn_as_nothing():
    shown = (
        contrast(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), "cat", "dog").axes[0].images[-1]
    )
    assert not shown.get_array().any()


UNKNOWN = "is cow, which is no class of the model; use one of: cat, dog, owl"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--class", "cow"], f"--class {UNKNOWN}"),
        (["--against", "cow"], f"--against {UNKNOWN}"),
        (
            ["--class", "owl", "--against", "owl"],
            "--class and --against are both owl; name two classes",
        ),
    ],
)
def test_a_class_that_cannot_be_drawn_is_one_line(model, images, tmp_path, call, options, error):
    folder = tmp_path / "maps"
    result = call("predict", "--model", model, "--attention", folder, *options, images)
    assert result == (1, [], [f"predict: {error}"])
    assert not folder.exists()
