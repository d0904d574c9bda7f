"""The interactive page: what it stores is exact to the step that it states, and a real browser
shows it."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.browser import chromium, set_screen
from vit_finetune.attention import page as module
from vit_finetune.attention.gallery import Shown
from vit_finetune.attention.kept import Kept
from vit_finetune.attention.maps import MAPS
from vit_finetune.attention.pixels import PixelGrid

CLASSES = ["<b>&", "cat", "</script>", "ship"]
PREFIX = ["CLS", "REG1"]
METHODS = [
    module.Method("relevance", "Knows the class.", "better", signed=False),
    module.Method("signed", "Has a sign.", "no better", signed=True),
    module.Method("rollout", "Knows no class.", "no better", signed=False),
]
ROWS = 3
COLUMNS = 5
BLOCKS = 2
HEADS = 3
TOKENS = len(PREFIX) + ROWS * COLUMNS
DESKTOP = {"width": 1280, "height": 900}
# images of 20 x 40 pixels; the crop cuts the sides and is padded at the ends, or the other way
CROPPED_SIDES = PixelGrid((20, 40), (30, 60), (36, 50), (ROWS, COLUMNS))
CROPPED_ENDS = PixelGrid((20, 40), (30, 60), (24, 65), (ROWS, COLUMNS))


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def make_record(rng, *, label=1, **changes):
    """An image of 20 x 40 pixels under a 3 x 5 grid."""
    given = {
        "row": 0,
        "image": rng.integers(0, 256, (20, 40, 3), dtype=np.uint8),
        "file": "<cat>/1.jpg",
        "content": None,
        "label": label,
        "predicted": 1,
        "probabilities": np.array([0.1, 0.6, 0.05, 0.25]),
        "heads": np.zeros((BLOCKS, HEADS, ROWS, COLUMNS)),
        "attn": torch.zeros(0),
        "page_attn": softmax(2 * rng.normal(size=(BLOCKS, HEADS, TOKENS, TOKENS))),
        "maps": {
            "rollout": rng.random((1, ROWS, COLUMNS), dtype=np.float32),
            "relevance": rng.random((len(CLASSES), ROWS, COLUMNS), dtype=np.float32),
            "signed": rng.normal(size=(len(CLASSES), ROWS, COLUMNS)).astype(np.float32),
        },
        "rivals": [3, 0, 2],
        "contrasts": {
            name: rng.normal(size=(3, ROWS, COLUMNS)).astype(np.float32)
            for name in ("relevance", "signed")
        },
    }
    return Shown(**given | changes)


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    return [make_record(rng), make_record(rng, label=3)]


COMMON = module.Common(
    classes=CLASSES,
    prefix=PREFIX,
    methods=METHODS,
    kept=Kept(tuple(range(BLOCKS)), BLOCKS, HEADS),
    grid=CROPPED_SIDES,
)


def compose(records, common=COMMON, **changes):
    words = {
        "title": "A & <title>",
        "summary": "Better: <relevance>.",
        "facts": [("self-check", "<8e-07>")],
    }
    return module.compose(records, common, **(words | changes))


def with_common(**changes):
    return dataclasses.replace(COMMON, **changes)


# ---- without a browser


def dequantise(levels, scale):
    """Values (..., T, T) as the page's script reads them, and the step of each: the distance to the
    next level."""
    level = levels.astype(np.float32)
    unit = scale[..., None] / module.TOP_LEVEL**2
    return unit * level**2, unit * (2 * level + 1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 30), spread=st.floats(0, 40))
def test_a_stored_value_is_within_the_stated_step_of_the_true_one(seed, tokens, spread):
    attn = softmax(spread * np.random.default_rng(seed).normal(size=(2, tokens, tokens)))
    levels, scale = module.quantise(attn)
    values, steps = dequantise(levels, scale)
    assert levels.max() <= 255
    assert (np.abs(values - attn) <= steps).all()
    # the step is no empty promise
    assert (steps <= attn.max(axis=-1, keepdims=True) * 511 / 65025 * 1.01).all()


def test_attention_of_zeros_is_stored_as_zeros():
    values, _ = dequantise(*module.quantise(np.zeros((2, 3, 3), np.float32)))
    assert not values.any()


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf])
def test_attention_that_is_negative_or_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="finite and not negative"):
        module.quantise(np.array([[0.5, bad], [0.5, 0.5]]))


def test_equal_records_give_the_same_bytes(records):
    again = make_record(np.random.default_rng(0))
    assert compose(records) == compose([again, records[1]])


def smooth_features(rng):
    """Queries or keys (12, 3, 197, 64) of unit variance that change slowly over a 14 x 14 grid,
    after a CLS."""
    offset = np.arange(14)[:, None] - np.arange(14)
    blur = np.exp(-(offset**2) / (2 * 2.0**2))
    blur /= np.linalg.norm(blur, axis=1, keepdims=True)
    patches = np.kron(blur, blur) @ rng.normal(size=(12, 3, 196, 64))
    return np.concatenate([rng.normal(size=(12, 3, 1, 64)), patches], axis=2)


def test_an_image_of_a_small_vit_takes_less_than_a_megabyte_and_a_half():
    """12 x 3 x 197 x 197, as spread out as that of a pretrained ViT-Ti on CIFAR-10: 51 effective
    patches."""
    rng = np.random.default_rng(0)
    attn = softmax(2.5 * smooth_features(rng) @ smooth_features(rng).swapaxes(-1, -2) / 8)
    effective = np.exp(-(attn * np.log(attn + 1e-30)).sum(axis=-1)).mean()
    names = "abcd"
    record = make_record(
        rng,
        image=rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        page_attn=attn,
        maps={name: rng.random((10, 14, 14)) for name in names},
        probabilities=np.full(10, 0.1),
        contrasts={},
    )
    common = with_common(
        classes=list("0123456789"),
        prefix=["CLS"],
        methods=[module.Method(name, "", "better", signed=False) for name in names],
        kept=Kept(tuple(range(12)), 12, 3),
        grid=PixelGrid((32, 32), (224, 224), (224, 224), (14, 14)),
    )
    page = compose([record], common)
    image = page[page.index('"levels": "') :].split('"')[3]
    assert 40 < effective < 70
    assert len(image) < 1_500_000
    # with the maps of four methods and ten classes, and the page itself
    assert len(page) < 1_600_000


def test_names_cannot_break_out_of_the_page(records):
    page = compose(records, summary="{{title}} </script><script>")
    assert page.count("</script>") == 2
    assert "<title>A &amp; &lt;title&gt;</title>" in page
    assert "<b>&" not in page
    assert "{{title}} &lt;/script&gt;" in page


# ---- in a real browser


class Page:
    """The open page, driven as a reader would: with mouse, keyboard and the visible controls."""

    def __init__(self, driver):
        from selenium.webdriver import ActionChains, Keys

        self.driver = driver
        self.keys = Keys
        self.actions = lambda: ActionChains(driver, duration=20)

    def js(self, expression, *arguments):
        return self.driver.execute_script(f"return {expression}", *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        return self.find(selector).text

    def select(self, image, block, head):
        script = (
            "const done = arguments[3]; viewer.select(...[...arguments].slice(0, 3)).then(done)"
        )
        self.driver.execute_async_script(script, image, block, head)

    def choose(self, name, value):
        """Click the label of a radio button."""
        label = self.find(f'label:has(input[name="{name}"][value="{value}"])')
        self.actions().move_to_element(label).click().perform()

    def hover(self, row, column, inside=0.5):
        """Move the mouse into a patch: 0 is its top left corner, 0.5 its middle, 1 its bottom right
        corner."""
        stage = self.find("#stage")
        self.js("arguments[0].scrollIntoView({block: 'center'})", stage)
        x, y = place(self.js("data.box"), row, column, inside)
        across = round((x - 0.5) * stage.size["width"])
        down = round((y - 0.5) * stage.size["height"])
        self.actions().move_to_element_with_offset(stage, across, down).perform()

    def row(self):
        return np.array(self.js("shown.values")), np.array(self.js("shown.steps"))

    def shows(self, truth):
        """Whether what is drawn is the true values to the stated steps: of all tokens, or of the
        patches (ROWS, COLUMNS)."""
        values, steps = self.row()
        tokens = np.size(truth)
        return (np.abs(values[-tokens:] - np.ravel(truth)) <= steps[-tokens:]).all()

    def open_again(self, address):
        """The page at an address, as if it had been sent."""
        self.driver.get("about:blank")
        return open_page(self.driver, address)

    def click_strip(self, across, down):
        """Click at a place of the strip, from 0 to 1."""
        strip = self.find("#strip")
        self.js("arguments[0].scrollIntoView({block: 'center'})", strip)
        x = round((across - 0.5) * strip.size["width"])
        y = round((down - 0.5) * strip.size["height"])
        self.actions().move_to_element_with_offset(strip, x, y).click().perform()

    def colours(self):
        """RGBA of the canvas in the middle of every patch of the first image (ROWS * COLUMNS,
        4)."""
        script = """
            const {width, height} = canvas;
            const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            return arguments[0].map(([x, y]) => {
              const start = 4 * (Math.floor(y * height) * width + Math.floor(x * width));
              return [...pixels.slice(start, start + 4)];
            });"""
        centres = [
            place(COMMON.box, row, column) for row in range(ROWS) for column in range(COLUMNS)
        ]
        return np.array(self.driver.execute_script(script, centres))

    def press(self, *keys):
        for key in keys:
            self.actions().send_keys(getattr(self.keys, key)).perform()


def place(box, row, column, inside=0.5):
    """A point inside a patch in fractions of the stage, which shows image and grid and nothing
    more."""
    left, top, right, bottom = box
    x = left + (column + inside) / COLUMNS * (right - left)
    y = top + (row + inside) / ROWS * (bottom - top)
    across = max(right, 40) - min(left, 0)
    down = max(bottom, 20) - min(top, 0)
    return (x - min(left, 0)) / across, (y - min(top, 0)) / down


def token(row, column):
    return len(PREFIX) + row * COLUMNS + column


@pytest.fixture(scope="module")
def address(records, tmp_path_factory) -> str:
    return write_page(tmp_path_factory.mktemp("page"), compose(records))


@pytest.fixture(scope="module")
def driver() -> Iterator:
    with chromium(**DESKTOP) as driver:
        yield driver


def write_page(folder, html) -> str:
    """The address of a page in a new file."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


def open_page(driver, address) -> Page:
    driver.get(address)
    driver.execute_async_script("viewer.ready.then(arguments[0])")
    return Page(driver)


@pytest.fixture
def page(driver, address) -> Iterator[Page]:
    """The page in the browser that all tests share; afterwards nothing was logged, and nothing
    loaded."""
    page = open_page(driver, address)
    yield page
    assert driver.get_log("browser") == []
    assert (
        page.js("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))")
        == []
    )


@pytest.mark.parametrize("place_of", [(0, 0, 2, (1, 3)), (1, 1, 0, (2, 0))], ids=str)
@pytest.mark.parametrize("incoming", [False, True])
def test_hovering_a_patch_shows_its_attention_within_the_stated_step(
    page, records, place_of, incoming
):
    image, block, head, at = place_of
    page.select(image, block, head)
    page.choose("direction", str(incoming).lower())
    page.hover(*at)
    matrix = records[image].page_attn[block, head]
    query = token(*at)
    truth = matrix[:, query] if incoming else matrix[query]
    _, steps = page.row()
    assert page.js("viewer.state.cursor") == query
    assert page.shows(truth)
    assert (steps <= (matrix.max(axis=-1) if incoming else matrix[query].max()) * 0.008).all()
    assert page.text("#readout").startswith(f"patch ({at[0]}, {at[1]}) → itself: ")
    stated = float(re.search(r"at most ([\d.e-]+)\.", page.text("#step"))[1])
    assert stated == pytest.approx(steps.max(), rel=0.05)


def test_the_spotlight_dims_what_is_low_and_leaves_the_highest_as_it_is(page):
    page.select(0, 1, 1)
    page.hover(0, 4)
    values = page.row()[0][len(PREFIX) :]
    *colour, alpha = page.colours()[np.argsort(values)].T
    assert not np.any(colour)  # black, over the image in its own colours
    assert (np.diff(alpha) <= 1).all()
    assert alpha[-1] == 0
    assert 60 < alpha[0] <= 204  # the strength of 0.8


@pytest.mark.parametrize("grid", [CROPPED_SIDES, CROPPED_ENDS], ids=["sides", "ends"])
def test_the_pointer_finds_each_corner_patch_up_to_its_edges(driver, records, tmp_path, grid):
    page = open_page(driver, write_page(tmp_path, compose(records, with_common(grid=grid))))
    for row, column in [(0, 0), (0, COLUMNS - 1), (ROWS - 1, 0), (ROWS - 1, COLUMNS - 1)]:
        for inside in (0.04, 0.96):
            page.hover(row, column, inside)
            assert page.js("viewer.state.cursor") == token(row, column)


@pytest.mark.parametrize(("head", "fuse"), [("mean", np.mean), ("max", np.max)])
def test_fused_heads_are_the_mean_or_the_largest_of_all_heads(page, records, head, fuse):
    page.choose("head", head)
    page.hover(1, 1)
    assert page.shows(fuse(records[0].page_attn[-1], axis=0)[token(1, 1)])


def test_a_prefix_token_is_chosen_by_its_chip_and_held_by_a_click(page, records):
    page.select(0, 0, 1)
    chip = page.find("#tokens button:nth-child(2)")
    page.actions().move_to_element(chip).perform()
    assert page.shows(records[0].page_attn[0, 1, 1])
    values, _ = page.row()
    chip.click()
    page.hover(2, 3)
    assert (page.row()[0] == values).all()
    assert page.text("#readout").startswith("REG1 → patch (2, 3): ")
    shown = float(re.search(r": ([\d.e-]+) ±", page.text("#readout"))[1])
    assert shown == pytest.approx(values[token(2, 3)], rel=0.05)
    page.press("ESCAPE")
    assert page.js("viewer.state.held") is None
    assert page.text("#readout").startswith("patch (2, 3) → itself")


def test_the_keyboard_walks_the_grid_and_stops_at_its_edge(page):
    page.js("document.getElementById('stage').focus()")
    page.press("ARROW_RIGHT")
    assert page.js("viewer.state.cursor") == token(0, 0)
    page.press("ARROW_DOWN", "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_LEFT", "ARROW_UP", "ARROW_UP")
    assert page.js("viewer.state.cursor") == token(0, 1)
    page.press("ENTER", "ARROW_DOWN")
    assert page.js("viewer.state.held") == token(0, 1)
    assert page.text("#readout").startswith("patch (0, 1) → patch (1, 1)")


def test_the_keyboard_reaches_every_control(page):
    page.js("document.querySelector('[name=gallery]').focus()")
    page.press("ARROW_RIGHT")
    page.driver.execute_async_script("setTimeout(arguments[0], 200)")
    assert "wrong" in page.text("#verdict")
    page.js("document.getElementById('block').focus()")
    page.press("ARROW_LEFT")
    assert page.text("#depth") == "0 of 0–1"


def test_a_method_shows_the_map_of_the_chosen_class(page, records):
    page.choose("views", "relevance")
    order = page.js("allOf('[name=classes]').map(radio => Number(radio.value))")
    assert order == [1, 3, 0, 2]
    page.find('#against option[value=""]').click()
    for k in [1, 2]:  # the predicted class is chosen at first
        page.choose("classes", k)
        page.hover(1, 2)
        truth = records[0].maps["relevance"][k]
        assert page.shows(truth)
        assert float(page.text("#low")) == pytest.approx(truth.min(), rel=0.01)
        assert float(page.text("#high")) == pytest.approx(truth.max(), rel=0.01)
    assert page.text("#caption") == "Knows the class."


def test_a_method_without_classes_says_so(page):
    page.choose("views", "rollout")
    assert page.find("#classes").get_property("disabled")
    assert "same for every class" in page.text("#classes legend")


def test_labels_probabilities_and_facts_are_shown_as_text(page):
    assert "✓ right" in page.text("#verdict")
    assert "predicted cat 60.0 %" in page.text("#verdict")
    assert "<cat>/1.jpg" in page.text("#verdict")
    assert "<b>&" in page.text("#classes")
    assert page.text("#summary") == "Better: <relevance>."
    page.find("#summary").click()
    assert page.text("#facts") == "self-check\n<8e-07>"
    assert page.text("h1") == "A & <title>"
    assert [label[0] for label in page.text("#gallery .row").split("\n")] == ["✓", "✗"]


def test_the_address_holds_the_view_and_opens_it_again(page, address, records):
    page.select(1, 0, 2)
    page.hover(2, 1)
    page.actions().click().perform()
    sent = page.js("location.hash")
    assert sent == f"#image=1&view=attention&block=0&head=2&token={token(2, 1)}"
    again = page.open_again(address + sent)
    assert again.shows(records[1].page_attn[0, 2, token(2, 1)])
    assert again.js("[block.value, document.querySelector('[name=head]:checked').value]") == [
        "0",
        "2",
    ]


@pytest.mark.parametrize(("one", "other"), [(1, 0), (1, 3), (2, 1)])
@pytest.mark.parametrize("method", ["relevance", "signed"])
def test_a_second_class_shows_what_speaks_for_the_first_rather_than_for_it(
    page, records, address, method, one, other
):
    page.choose("views", method)
    page.choose("classes", one)
    page.find(f'#against option[value="{other}"]').click()
    page.hover(1, 2)
    # stored is what speaks for the predicted class, 1
    sign, rival = (1, other) if one == 1 else (-1, one)
    truth = sign * records[0].contrasts[method][records[0].rivals.index(rival)]
    assert page.shows(truth)
    first = CLASSES[one]
    second = CLASSES[other]
    caption = (
        f"Yellow speaks for {first} rather than {second}, blue for {second} rather than {first}."
    )
    assert page.text("#caption").startswith(caption)
    red, _, blue, _ = page.colours().T
    bright = (np.abs(truth) > 0.5 * np.abs(truth).max()).ravel()
    assert ((red > blue) == (truth.ravel() > 0))[bright].all()
    sent = page.js("location.hash")
    assert sent == f"#image=0&view={method}&class={one}&against={other}"
    again = page.open_again(address + sent)
    assert again.shows(truth)
    assert again.js("document.querySelector('[name=classes]:checked').value") == str(one)
    page.find('#against option[value=""]').click()
    assert page.shows(records[0].maps[method][one])


def test_the_first_question_is_why_not_the_true_class_or_the_next_most_probable(page):
    page.choose("views", "relevance")
    assert page.js("[viewer.state.category, viewer.state.against]") == [1, 3]  # right: the next
    assert page.text("#rival").startswith("Why cat rather than")
    page.choose("gallery", 1)
    page.driver.execute_async_script("viewer.ready.then(arguments[0])")
    page.driver.execute_async_script("setTimeout(arguments[0], 100)")
    assert page.js("[record.label, viewer.state.category, viewer.state.against]") == [3, 1, 3]
    red, _, blue, _ = page.colours().T
    assert (red > blue).any()
    assert (red < blue).any()


def test_the_predicted_class_is_compared_with_its_rivals_and_others_with_it_alone(page):
    page.choose("views", "relevance")
    options = "[...document.querySelector('#against').options].map(option => option.value)"
    assert page.js(options) == ["", "3", "0", "2"]  # by probability
    page.choose("classes", 0)
    assert page.js("[viewer.state.against, document.querySelector('#against').value]") == [None, ""]
    assert page.js(options) == ["", "1"]
    page.choose("views", "rollout")
    assert not page.find("#rival").is_displayed()


def test_a_method_with_a_sign_is_drawn_in_two_colours_for_one_class(page, records):
    page.choose("views", "signed")
    page.find('#against option[value=""]').click()
    truth = records[0].maps["signed"][1]
    assert page.shows(truth)
    assert page.text("#caption").startswith("Yellow speaks for cat, blue against it. Has a sign.")
    red, _, blue, _ = page.colours().T
    bright = (np.abs(truth) > 0.5 * np.abs(truth).max()).ravel()
    assert ((red > blue) == (truth.ravel() > 0))[bright].all()
    assert page.text("#low") == f"-{page.text('#high')}"


def test_a_map_that_is_no_better_than_a_gaussian_is_marked_and_a_better_one_is_not(page):
    labels = [label.split("\n") for label in page.js("allOf('#views label').map(l => l.innerText)")]
    marked = {words[0].strip(): "no better" in words for words in labels}
    assert marked == {
        "relevance": False, "signed": True, "rollout": True, "every block and head": False,
    }  # fmt: skip
    page.choose("views", "rollout")
    assert page.text("#caption").endswith("On this run it is no better than a centred Gaussian.")


def test_values_beyond_the_brightest_are_counted(driver, records, tmp_path):
    maps = dict(records[0].maps)
    high = np.linspace(0, 0.1, ROWS * COLUMNS).reshape(1, ROWS, COLUMNS)
    high[0, 1, 1] = 1.0
    maps["rollout"] = high
    record = dataclasses.replace(records[0], maps=maps)
    page = open_page(driver, write_page(tmp_path, compose([record], start=(0, "rollout"))))
    assert page.text("#step").startswith("Values above 0.102 are drawn like it: 1 of 15 patches.")


def test_without_contrasts_there_is_no_second_class(driver, records, tmp_path):
    without = [dataclasses.replace(record, contrasts={}, rivals=[]) for record in records]
    page = open_page(driver, write_page(tmp_path, compose(without)))
    page.choose("views", "relevance")
    assert not page.find("#rival").is_displayed()


@pytest.mark.parametrize(
    "wrong",
    ["image=7", "image=-1", "block=x&head=9", "view=none", "token=99", "class=<b>"],
)
def test_an_address_that_asks_for_what_is_not_there_opens_the_page_as_usual(page, address, wrong):
    state = page.open_again(f"{address}#{wrong}").js("viewer.state")
    assert (state["image"], state["view"], state["block"], state["head"], state["held"]) == (
        0, "attention", BLOCKS - 1, "mean", None,
    )  # fmt: skip


def test_a_click_on_the_strip_opens_a_head_of_a_block(page, records):
    page.click_strip(0.5 / BLOCKS, 2.5 / HEADS)
    assert page.js("[viewer.state.block, viewer.state.head]") == [0, 2]
    assert page.shows(records[0].page_attn[0, 2, page.js("viewer.state.cursor")])


def test_the_strip_shows_every_head_of_every_block_for_the_chosen_token(page, records):
    page.hover(1, 1)
    size = page.js("[strip.width, strip.height]")
    assert size == [BLOCKS * (COLUMNS + 1) - 1, HEADS * (ROWS + 1) - 1]
    pixels = page.js(
        "[...strip.getContext('2d').getImageData(0, 0, strip.width, strip.height).data]"
    )
    light = np.array(pixels).reshape(size[1], size[0], 4)[..., :3].sum(axis=-1)
    for block, head in np.ndindex(BLOCKS, HEADS):
        top = head * (ROWS + 1)
        left = block * (COLUMNS + 1)
        drawn = light[top : top + ROWS, left : left + COLUMNS].ravel()
        truth = records[0].page_attn[block, head, token(1, 1), len(PREFIX) :]
        assert (np.diff(drawn[np.argsort(truth)]) >= -3).all()


def test_the_page_opens_on_the_image_and_the_map_that_it_is_given(driver, records, tmp_path):
    page = open_page(driver, write_page(tmp_path, compose(records, start=(1, "relevance"))))
    assert page.js("[viewer.state.image, viewer.state.view]") == [1, "relevance"]
    assert page.js("document.querySelector('[name=gallery]:checked').value") == "1"


def test_every_map_has_a_thumbnail_that_opens_it(page):
    names = page.js("allOf('#views [data-view]').map(canvas => canvas.dataset.view)")
    assert names == [method.name for method in METHODS]
    pixels = "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
    colours = page.js(f"allOf('#views canvas').map(canvas => new Set({pixels}).size)")
    assert min(colours) > 9
    page.find("#views canvas[data-view=rollout]").click()
    assert page.js("viewer.state.view") == "rollout"


@pytest.mark.parametrize(("width", "height"), [(1024, 768), (1440, 900), (1920, 1080), (390, 844)])
def test_the_first_screen_holds_the_whole_image(driver, tmp_path, width, height):
    """A square image, every map that there is, and the summary of the committed run."""
    rng = np.random.default_rng(0)
    methods = [module.Method(one.name, one.description, "no better", one.signed) for one in MAPS]
    maps = {one.name: rng.random((len(CLASSES), ROWS, COLUMNS)) for one in MAPS}
    image = np.zeros((32, 32, 3), np.uint8)
    record = make_record(rng, image=image, maps=maps, contrasts={}, rivals=[])
    grid = PixelGrid((32, 32), (240, 240), (240, 240), (ROWS, COLUMNS))
    html = compose(
        [record],
        with_common(methods=methods, grid=grid),
        title="What the model attends to",
        summary="Attention maps that are better than a centred Gaussian: relevance, LeGrad, "
        "gradient rollout. No better: effective gradient, last block, rollout.",
        start=(0, "relevance"),
    )
    set_screen(driver, width, height, phone=width < 500)
    try:
        page = open_page(driver, write_page(tmp_path, html))
        area = page.js("document.getElementById('stage').getBoundingClientRect()")
    finally:
        set_screen(driver, **DESKTOP)
    assert area["width"] == pytest.approx(area["height"], abs=1)
    assert area["height"] >= 288
    assert area["bottom"] <= height


def test_a_phone_shows_all_without_scrolling_sideways_and_a_tap_holds_a_patch(driver, address):
    """On the touch screen of a phone, which the same browser plays."""
    set_screen(driver, 390, 844, scale=2, phone=True)
    try:
        page = open_page(driver, address)
        assert page.js("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        for row in ("gallery", "views"):  # wider than the screen, and the chosen one is in sight
            label = page.find(f"label:has([name={row}]:checked)")
            area = page.js("arguments[0].getBoundingClientRect()", label)
            assert 0 <= area["left"] < area["right"] <= 390
        stage = page.find("#stage")
        page.js("arguments[0].scrollIntoView({block: 'center'})", stage)
        area = page.js("arguments[0].getBoundingClientRect()", stage)
        middle = {"x": area["x"] + area["width"] / 2, "y": area["y"] + area["height"] / 2}
        for event, points in (("touchStart", [middle]), ("touchEnd", [])):
            touch = {"type": event, "touchPoints": points}
            driver.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
        assert page.js("viewer.state.held") == token(1, 2)
    finally:
        set_screen(driver, **DESKTOP)


def test_a_page_of_a_few_blocks_and_the_mean_over_heads_says_so_and_works(
    driver, records, tmp_path
):
    small = [
        dataclasses.replace(one, page_attn=one.page_attn.mean(axis=1, keepdims=True))
        for one in records
    ]
    kept = Kept((0, 11), 12, HEADS, each_head=False)
    address = write_page(tmp_path, compose(small, with_common(kept=kept)))
    page = open_page(driver, f"{address}#image=0&view=attention&block=1&head=max")
    missing = "the page holds of 12 blocks only 0, 11 and the mean over each block's 3 heads alone."
    assert page.text("#note").endswith(missing)
    assert page.text("#head .row") == "mean"
    assert page.text("#depth") == "11 of 0–11"
    page.hover(1, 1)
    assert page.shows(small[0].page_attn[1, 0, token(1, 1)])
    page.click_strip(0.25, 0.5)
    assert page.text("#depth") == "0 of 0–11"
    assert page.js("viewer.state.head") == "mean"
    assert driver.get_log("browser") == []


def test_bars_that_were_added_to_the_image_carry_no_map_and_set_no_scale(driver, records, tmp_path):
    """The first of three rows of patches lies on a bar, and there the map is the highest."""
    _left, top, _right, bottom = COMMON.box
    high = records[0].maps["relevance"].copy()
    high[:, 0] = 99
    record = dataclasses.replace(
        records[0],
        maps={**records[0].maps, "relevance": high},
        content=(round(top + (bottom - top) / ROWS), 0, round(bottom), 40),
    )
    page = open_page(driver, write_page(tmp_path, compose([record])))
    page.choose("views", "relevance")
    page.find('#against option[value=""]').click()
    colours = page.colours().reshape(ROWS, COLUMNS, 4)
    assert (colours[0] == (128, 128, 128, 255)).all()
    assert not (colours[1:] == (128, 128, 128, 255)).all(axis=-1).any()
    truth = record.maps["relevance"][1, 1:]
    assert float(page.text("#high")) == pytest.approx(truth.max(), abs=99 / 255 + 0.01)
    assert colours[1:, :, 3].ravel()[truth.argmax()] == 0  # nothing covers the brightest patch


def test_what_was_cut_away_is_dimmed(page):
    canvas = """(() => {
      const {width, height} = canvas;
      return canvas.getContext("2d").getImageData(2, height >> 1, 1, 1).data[3];
    })()"""
    page.choose("views", "relevance")
    assert page.js("grid.left") > 0.05
    assert page.js(canvas) == round(255 * 0.8 * 0.8)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["relevance", "signed", "rollout", "attention"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_tool_finds_no_fault_in_contrast_names_and_keyboard(driver, address, view, scheme):
    """axe-core, with all its rules."""
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
    try:
        driver.get("about:blank")
        open_page(driver, f"{address}#view={view}")
        found = axe.run(driver)
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    faults = [
        (fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found["violations"]
    ]
    assert faults == []
    assert len(found["passes"]) > 15
