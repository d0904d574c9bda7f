"""Cards of images in a browser: a filter over their data, and arrow keys from one to the next."""

import pytest

from tests.browser import chromium
from tests.pages.test_render import card, page

NAMES = ["a/cat 1.png", "a/Dog 2.png", 'b/cat "3".png', "b/owl\n4.png", "c/cat 5.png"]
PREDICTED = ["cat", "dog", "cat", "<owl>", "cat"]


@pytest.fixture(scope="module")
def driver():
    with chromium(900, 800) as driver:  # two columns
        yield driver


@pytest.fixture
def opened(driver, tmp_path):
    cards = map(card, NAMES, PREDICTED)
    (tmp_path / "page.html").write_text(page(*cards), encoding="utf-8")
    driver.get((tmp_path / "page.html").as_uri())
    yield driver
    assert driver.get_log("browser") == []


def shown(driver):
    script = "return [...document.querySelectorAll('.card')].filter(c => c.checkVisibility())"
    return [element.get_attribute("data-name") for element in driver.execute_script(script)]


def focused(driver):
    return driver.execute_script("return document.activeElement.getAttribute('data-name')")


def press(driver, *keys):
    from selenium.webdriver import ActionChains, Keys

    for key in keys:
        ActionChains(driver).send_keys(getattr(Keys, key)).perform()


def choose(driver, value):
    driver.find_element("css selector", f'select option[value="{value}"]').click()


def search(driver, text):
    field = driver.find_element("css selector", "input[type=search]")
    field.clear()
    field.send_keys(text)


def test_the_filter_shows_the_cards_of_a_class_whose_name_has_the_text(opened):
    count = opened.find_element("css selector", ".filter output")
    assert shown(opened) == NAMES
    choose(opened, "cat")
    assert shown(opened) == [NAMES[0], NAMES[2], NAMES[4]]
    search(opened, '"3"')
    assert shown(opened) == [NAMES[2]]
    assert count.text == "1 of 5 shown"
    choose(opened, "<owl>")
    assert shown(opened) == []
    choose(opened, "")
    search(opened, "DOG")
    assert shown(opened) == [NAMES[1]]


def test_the_classes_to_choose_from_are_those_that_occur(opened):
    options = opened.find_elements("css selector", "select option")
    assert [option.text for option in options] == ["all", "<owl>", "cat", "dog"]


def test_arrow_keys_move_over_the_shown_cards_and_stop_at_the_ends(opened):
    press(opened, "ARROW_RIGHT")
    assert focused(opened) == NAMES[0]
    moves = {"ARROW_RIGHT": 1, "ARROW_DOWN": 3, "ARROW_LEFT": 2, "ARROW_UP": 0}
    for key, place in moves.items():
        press(opened, key)
        assert focused(opened) == NAMES[place]
    press(opened, "ARROW_LEFT")
    assert focused(opened) == NAMES[0]
    choose(opened, "cat")
    search(opened, "cat")
    press(opened, "TAB", "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
    assert focused(opened) == NAMES[4]


def test_a_single_image_needs_no_filter_and_no_script():
    text = page(card("a"))
    assert "<script" not in text
    assert "script-src 'none'" in text
    assert "filter" not in text.split("</head>")[1]
