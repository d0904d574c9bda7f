"""The page: each suspect beside its nearest images, and decisions that become corrections."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.browser import chromium, set_screen
from tests.review.examples import CLASSES, made_up
from vit_finetune.core.arrays import encode_names
from vit_finetune.data.corrections import CORRECTIONS, read_corrections
from vit_finetune.review import page, suspects
from vit_finetune.review.neighbours import Nearest

FILES = ['a, "b".png', "<b>.png", "é\udcff.png", "c\nd.png"]
SHOWN = ['a, "b".png', "<b>.png", ascii("é\udcff.png"), ascii("c\nd.png")]
ROWS = (21, 22, 23, 24)  # of these files
EARLIER = [
    {"data": "other", "file": SHOWN[0], "action": "drop", "label": "", "note": 'said "so", twice'},
    {"data": "folder", "file": SHOWN[1], "action": "relabel", "label": "dog", "note": ""},
    {"data": "folder", "file": "train/40", "action": "keep", "label": "", "note": ""},
]


def example(count=4):
    files = [f"train/{row}" for row in range(51)]
    for row, file in zip(ROWS, FILES, strict=True):
        files[row] = file
    images = made_up(files=encode_names(files))
    nearest = Nearest(np.tile(np.arange(30, 35), (51, 1)), np.full((51, 5), 0.2, dtype=np.float32))
    kinds = (suspects.WRONG_LABEL, suspects.WRONG_LABEL, suspects.OTHER_PART, suspects.OUTLIER)
    found = [
        suspects.Suspect(
            kind=kinds[place % 4],
            row=ROWS[place % 4],
            score=0.9996,
            suggestion=1 if kinds[place % 4] == suspects.WRONG_LABEL else None,
            distance=0.1,
            neighbour=3,
        )
        for place in range(count)
    ]
    found.sort(key=lambda suspect: suspects.KINDS.index(suspect.kind))
    return images, suspects.Review(found, nearest, mirrored=0, not_judged=["val", "train"])


@pytest.fixture(scope="module")
def driver():
    with chromium(1280, 900) as driver:
        yield driver


@pytest.fixture
def opened(driver, tmp_path):
    path = tmp_path / "review.html"
    path.write_text(page.compose(*example(), EARLIER), encoding="utf-8")
    downloads = {"behavior": "allow", "downloadPath": str(tmp_path)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    driver.get(path.as_uri())
    driver.execute_script("localStorage.clear()")
    driver.refresh()
    yield driver
    assert driver.get_log("browser") == []


def test_parts_whose_labels_could_not_be_judged_are_named_on_the_page():
    html = page.compose(*example(), EARLIER)
    assert "No wrong labels are listed in val, train: a classifier of the features" in html


def card(driver, file):
    cards = driver.find_elements("css selector", ".card")
    return next(found for found in cards if found.get_attribute("data-file") == file)


def press(driver, file, keys):
    from selenium.webdriver import ActionChains

    driver.execute_script("arguments[0].focus()", card(driver, file))
    ActionChains(driver).send_keys(keys).perform()


def text(driver):
    return driver.execute_script("return document.getElementById('text').value")


def corrections(driver, tmp_path):
    """The file that the page would save, read as the pipeline reads it."""
    path = tmp_path / "corrections.csv"
    path.write_text(text(driver), encoding="utf-8", newline="")
    files = [*SHOWN, "train/40"]
    read = read_corrections(path, "folder", CLASSES, files)
    assert read.of_others == 1
    return {row.file: (row.action, row.label) for row in read.rows}


def test_keys_and_buttons_decide_and_any_file_name_survives(opened, tmp_path):
    assert corrections(opened, tmp_path) == {
        SHOWN[1]: ("relabel", "dog"),
        "train/40": ("keep", ""),
    }
    press(opened, SHOWN[0], "r")
    press(opened, SHOWN[1], "D")
    press(opened, SHOWN[2], "k")
    card(opened, SHOWN[3]).find_element("css selector", "[data-action=drop]").click()
    assert corrections(opened, tmp_path) == {
        "train/40": ("keep", ""),
        SHOWN[0]: ("relabel", "dog"),
        SHOWN[1]: ("drop", ""),
        SHOWN[2]: ("keep", ""),
        SHOWN[3]: ("drop", ""),
    }
    assert opened.find_element("id", "decided").text == "4 of 4 images decided"


def test_the_same_key_takes_a_decision_back_and_another_replaces_it(opened, tmp_path):
    press(opened, SHOWN[0], "dk")
    assert corrections(opened, tmp_path)[SHOWN[0]] == ("keep", "")
    press(opened, SHOWN[0], "k")
    assert SHOWN[0] not in corrections(opened, tmp_path)


def test_a_label_that_is_no_class_is_refused_and_another_class_can_be_written(opened, tmp_path):
    field = card(opened, SHOWN[2]).find_element("css selector", "input")
    relabel = card(opened, SHOWN[2]).find_element("css selector", "[data-action=relabel]")
    field.send_keys("owk")  # letters that are keys of decisions, too
    relabel.click()
    assert SHOWN[2] not in corrections(opened, tmp_path)
    field.clear()
    field.send_keys("owl")
    relabel.click()
    assert corrections(opened, tmp_path)[SHOWN[2]] == ("relabel", "owl")
    field.clear()
    field.send_keys("cat")
    assert corrections(opened, tmp_path)[SHOWN[2]] == ("relabel", "cat")


def test_decisions_outlast_the_page_and_the_saved_file_has_them(opened, tmp_path):
    press(opened, SHOWN[0], "r")
    opened.refresh()
    expected = text(opened)
    assert f'"{SHOWN[0].replace(chr(34), chr(34) * 2)}",relabel,dog,wrong label\n' in expected
    opened.find_element("id", "save").click()
    saved = tmp_path / "corrections.csv"
    for _ in range(100):
        if saved.exists():
            break
        opened.execute_async_script("setTimeout(arguments[0], 100)")
    assert saved.read_text(encoding="utf-8") == expected


def test_decisions_that_a_later_page_has_as_corrections_are_forgotten(opened, tmp_path):
    press(opened, SHOWN[0], "d")
    press(opened, SHOWN[2], "k")
    page_file = tmp_path / "review.html"
    dropped = {"data": "folder", "file": SHOWN[0], "action": "drop", "label": "", "note": ""}
    page_file.write_text(page.compose(*example(), [*EARLIER, dropped]), encoding="utf-8")
    opened.refresh()
    assert opened.find_element("id", "decided").text == "1 of 4 images decided"
    assert corrections(opened, tmp_path)[SHOWN[0]] == ("drop", "")
    page_file.write_text(page.compose(*example(), EARLIER), encoding="utf-8")
    opened.refresh()
    assert SHOWN[0] not in corrections(opened, tmp_path)
    assert corrections(opened, tmp_path)[SHOWN[2]] == ("keep", "")


def test_a_column_of_the_users_own_stays_in_the_corrections(driver, tmp_path):
    path = tmp_path / "review.html"
    rows = [{**row, "who": "Ada"} for row in EARLIER]
    path.write_text(page.compose(*example(), rows), encoding="utf-8")
    driver.get(path.as_uri())
    press(driver, SHOWN[0], "k")
    press(driver, SHOWN[1], "d")
    lines = text(driver).splitlines()
    assert lines[0] == "data,file,action,label,note,who"
    assert lines[2:] == [
        "folder,train/40,keep,,,Ada",
        'folder,"a, ""b"".png",keep,,wrong label,',
        "folder,<b>.png,drop,,wrong label,Ada",
    ]


def test_decisions_on_another_data_set_of_the_project_are_not_taken_over(opened, tmp_path):
    press(opened, SHOWN[0], "d")
    images, found = example()
    images = replace(images, name="other")
    (tmp_path / "review.html").write_text(page.compose(images, found, EARLIER), encoding="utf-8")
    opened.refresh()
    assert opened.find_element("id", "decided").text == "0 of 4 images decided"


def test_the_page_of_another_project_has_decisions_of_its_own(opened, tmp_path):
    press(opened, SHOWN[0], "d")
    other = tmp_path / "other/review.html"
    other.parent.mkdir()
    other.write_text(page.compose(*example(), EARLIER), encoding="utf-8")
    opened.get(other.as_uri())
    assert opened.find_element("id", "decided").text == "0 of 4 images decided"
    opened.back()
    assert opened.find_element("id", "decided").text == "1 of 4 images decided"


def test_it_fits_a_screen_and_a_phone_in_light_and_dark(opened):
    for width, phone in ((1280, False), (390, True)):
        set_screen(opened, width, 844, phone=phone)
        for scheme in ("light", "dark"):
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            size = "return [innerWidth, document.documentElement.scrollWidth]"
            assert opened.execute_script(size) == [width] * 2
    set_screen(opened, 1280, 900)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)])
def test_the_bar_hides_no_image_that_is_moved_to(opened, width, phone, is_open):
    set_screen(opened, width, 700, phone=phone)
    opened.execute_script("document.querySelector('details').open = arguments[0]", is_open)
    next_frames = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    opened.execute_async_script(next_frames)  # the bar is measured
    bottoms = """
    document.querySelectorAll(".card")[arguments[0]].focus();
    return [document.activeElement, document.querySelector("footer")]
        .map((element) => element.getBoundingClientRect())
    """
    for place in range(4):
        moved_to, bar = opened.execute_script(bottoms, place)
        assert moved_to["bottom"] <= bar["top"]
    set_screen(opened, 1280, 900)


def test_a_word_under_a_small_image_is_not_broken_on_a_phone(opened):
    set_screen(opened, 390, 844, phone=True)
    heights = """
    const [text] = document.querySelectorAll(".card > div > :nth-child(2) p");
    return ["cat", "automobile"].map((word) => {
      text.textContent = word;
      return text.offsetHeight;
    });
    """
    short, long = opened.execute_script(heights)
    assert short == long
    set_screen(opened, 1280, 900)


def test_a_suspect_is_beside_its_near_copy_and_the_nearest_images_with_labels_and_parts():
    images, found = example()
    (leak,) = [s for s in found.suspects if s.kind == suspects.OTHER_PART]
    shown = page.suspect_card(images, found, leak)
    assert (shown.picture.label, shown.picture.part) == (CLASSES[images.labels[leak.row]], "train")
    parts = [neighbour.part for neighbour in shown.neighbours]
    assert parts == ["test", "train", "train"]
    near_copy = images.file(leak.neighbour)
    assert shown.sentence == f"Near-copy in another part: {near_copy}, score 0.9996 (a copy has 1)"


def test_a_score_is_rounded_down_so_that_nothing_but_a_copy_has_1():
    images, found = example()
    (leak,) = [s for s in found.suspects if s.kind == suspects.OTHER_PART]
    almost = page.suspect_card(images, found, leak._replace(score=0.99999)).sentence
    assert "score 0.9999 " in almost
    assert "score 1.0000 " in page.suspect_card(images, found, leak._replace(score=1.0)).sentence


def test_a_probability_is_rounded_down():
    images, found = example()
    sentence = page.suspect_card(images, found, found.suspects[0]).sentence
    assert sentence == "cat is wrong with probability 99.9 %. Suggestion: dog"


def test_ten_thousand_suspects_are_a_page_below_30_mb_with_the_first_of_each_kind():
    images, found = example(10_000)
    # noise takes more bytes than any photograph
    noise = np.random.default_rng(0).integers(0, 256, (51, 128, 128, 3), dtype=np.uint8)
    large = SimpleNamespace(**vars(images))
    large.file = images.file
    large.image = lambda row: noise[row]
    text = page.compose(large, found, [])
    cards = text.count('<figure class="card"')
    assert cards == 3 * page.MOST
    assert len(text) / cards * page.MOST * len(suspects.KINDS) < 30e6
    assert "wrong label: the 150 with the highest score of 5,000" in text


def test_file_names_and_classes_are_text_and_never_markup():
    text = page.compose(*example(), EARLIER)
    assert "<b>.png" not in text
    assert 'data-file="a, &#34;b&#34;.png"' in text
    assert re.search(r'<script type="application/json"[^>]*>[^<]*</script>', text)


def test_a_page_without_suspects_says_so_and_runs_no_script():
    images, found = example()
    judged = found._replace(suspects=[], not_judged=[])
    text = page.compose(images, judged, EARLIER)
    assert "Nothing was found: no wrong label, no near-copy, no outlier." in text
    assert "<script" not in text


def test_a_page_without_suspects_does_not_say_that_labels_are_right_which_were_not_judged():
    images, found = example()
    text = page.compose(images, found._replace(suspects=[]), EARLIER)
    assert "Nothing was found: no near-copy, no outlier." in text
    assert "No wrong labels are listed in val, train: a classifier of the features" in text


def test_the_page_names_the_file_that_the_pipeline_reads():
    assert CORRECTIONS in page.compose(*example(), [])
