"""The pages of `compare` and `mistakes`: their images, the order of these, and their maps."""

import re
import runpy
import shutil
import sys

import numpy as np
import pytest

from tests.browser import chromium
from tests.comparison.recorded_runs import table
from vit_finetune.comparison.images import PageImages, StoredImages
from vit_finetune.comparison.page import flips, flips_page
from vit_finetune.comparison.runs import TABLE, Prediction, Run, read_run
from vit_finetune.mistakes import confidence_band, mistakes_page, order_by_confidence


def run_of(name, rows):
    predictions = {
        file: Prediction(actual, predicted, float(confidence), file)
        for file, actual, predicted, confidence in rows
    }
    return Run(name, "", predictions, {"stages": {}})


def images_of(files):
    pixels = np.random.default_rng(0).integers(256, size=(len(files), 8, 8, 3), dtype=np.uint8)
    rows = {file: row for row, file in enumerate(files)}
    return PageImages(files, StoredImages(pixels, None, rows), {}, [])


A = run_of("a<b>", table("cat cat .6", "cat dog .9", "dog dog .5", "dog cat .8", "owl owl .7"))
B = run_of("b", table("cat dog .7", "cat cat .9", "dog owl .6", "dog owl .5", "owl owl .9"))
SHOWN = "return [...document.querySelectorAll('.card')].filter(c => c.checkVisibility()).length"


def captions(text):
    return re.findall(r'<figcaption>\s*<p class="soft">(.*?)</p>', text)


def test_images_gained_and_lost_are_shown_the_surest_first():
    files = flips(A, B, list(A.predictions))
    text = flips_page(A, B, [("p", "0.5")], images_of(files))
    assert captions(text) == [
        "gained: test/1, true class cat",
        "lost: test/0, true class cat",
        "lost: test/2, true class dog",
    ]
    assert re.findall(r"data-kind=.*", text)[0] == (
        'data-kind="gained" data-pair="cat taken for dog" data-maps="no">'
    )
    assert "<span>A: dog</span>" in text
    assert "90.0 %" in text
    assert "A: a&lt;b&gt;." in text
    assert "<b>" not in text


def test_without_a_flip_the_page_says_so_and_has_no_filter():
    text = flips_page(A, A, [], None)
    assert "No image is right in one run and wrong in the other." in text
    assert "<script" not in text
    assert captions(text) == []


def test_four_hundred_flips_are_filtered_in_a_page_as_wide_as_a_phone(tmp_path):
    a = run_of("a", table(*["cat cat .6", "dog owl .9"] * 200))
    b = run_of("b", table(*["cat dog .6", "dog dog .9"] * 200))
    text = flips_page(a, b, [], images_of(flips(a, b, list(a.predictions))))
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    with chromium(390, 800) as driver:
        driver.get((tmp_path / "page.html").as_uri())
        assert driver.execute_script(SHOWN) == 400
        driver.find_element("css selector", 'option[value="cat taken for dog"]').click()
        assert driver.execute_script(SHOWN) == 200
        driver.find_element("css selector", 'option[value="gained"]').click()
        assert driver.execute_script(SHOWN) == 0
        width = "return document.documentElement.scrollWidth"
        assert driver.execute_script(width) == 390
        assert driver.get_log("browser") == []


def test_mistakes_are_shown_the_surest_first_with_what_filters_look_at():
    text = mistakes_page(A, images_of(order_by_confidence(A, include_right=False)))
    assert "2 of 5 test images are classified wrongly." in text
    assert captions(text) == ["test/1, true class cat", "test/3, true class dog"]
    pair = 'data-pair="cat taken for dog" data-confidence="0.9 to 1.0"'
    assert pair in text
    every = mistakes_page(A, images_of(order_by_confidence(A, include_right=True)))
    assert len(captions(every)) == 5
    assert every.count('data-pair="right"') == 3


@pytest.mark.parametrize(
    ("confidence", "band"),
    [(0, "0.0 to 0.1"), (0.099, "0.0 to 0.1"), (0.3, "0.3 to 0.4"), (1, "0.9 to 1.0")],
)
def test_a_confidence_lies_in_its_band(confidence, band):
    assert confidence_band(confidence) == band


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    """A run of the pipeline in a commit. In the work tree the answers of three right images and
    one wrong one are changed."""
    project = finished.copy(tmp_path / "p")
    project.git("add", "-A")
    project.git("commit", "-qm", "run")
    monkeypatch.chdir(project.folder)
    run = read_run("HEAD")
    right = [file for file, prediction in run.predictions.items() if prediction.right]
    wrong = [file for file, prediction in run.predictions.items() if not prediction.right]
    lines = (project.folder / TABLE).read_text().splitlines()
    for number, line in enumerate(lines):
        index, file, actual, predicted, confidence = line.split(",")
        if file in wrong[:1]:
            predicted = actual
        if file in right[:3]:
            predicted = str((int(actual) + 1) % 10)
        lines[number] = ",".join([index, file, actual, predicted, confidence])
    (project.folder / TABLE).write_text("\n".join(lines) + "\n")
    return project


def call(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.delitem(sys.modules, f"vit_finetune.{module}", raising=False)
    runpy.run_module(f"vit_finetune.{module}", run_name="__main__")


@pytest.mark.slow
def test_pages_have_maps_of_the_models_in_the_cache_and_say_what_they_leave_out(
    project, monkeypatch, capsys
):
    def page(module, *arguments):
        call(monkeypatch, module, *arguments)
        return (project.folder / "page.html").read_text()

    text = page("compare", "HEAD", "--page", "page.html", "--maps", "2", "--images", "3")
    assert re.findall(r' data-maps="(\w+)"', text) == ["yes", "yes", "no"]
    assert "1 more images are left out: see --images." in text
    assert "1 images are shown without maps: see --maps." in text
    text = page("mistakes", "page.html", "--maps", "1", "--images", "2", "HEAD")
    assert len(re.findall(": what speaks for", text)) == 1
    assert "page.html shows 2 of 40 test images of HEAD (" in capsys.readouterr().out

    model = read_run("HEAD").md5("models/finetuned")
    cache = project.folder / ".dvc/cache/files/md5"
    (cache / model[:2] / model[2:]).unlink()
    text = page("compare", "HEAD", "--page", "page.html")
    assert set(re.findall(r' data-maps="(\w+)"', text)) == {"no"}
    assert "No maps: models/finetuned of HEAD, work tree is not in DVC&#39;s cache." in text
    shutil.rmtree(cache)
    with pytest.raises(SystemExit, match="is not in DVC's cache, so there is no image to show"):
        page("compare", "HEAD", "--page", "page.html")
