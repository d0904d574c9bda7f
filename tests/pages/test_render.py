"""What every page promises: one file, its own text and nothing of its data as markup."""

import re

import pytest
from markupsafe import escape

from tests.browser import chromium
from tests.graph import PACKAGE
from vit_finetune.pages import render as module
from vit_finetune.pages.cards import Card
from vit_finetune.pages.render import data_uri, render
from vit_finetune.prediction.page import DrawnMap, predictions_page

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'
STYLES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.css"))


def card(name, predicted="cat"):
    return Card(
        image=SVG,
        alt=name,
        caption=name,
        classes=[{"label": predicted, "probability": 0.5}],
        data={"name": name, "predicted": predicted},
    )


def page(*cards, against=None):
    return predictions_page(cards, DrawnMap("rollout", against))


@pytest.mark.parametrize(
    "name", ["</script><b>", "\"'`onload=x", "{{ 7 * 7 }}{% raw %}", "a\nb\tc\u2028d", "&lt;"]
)
def test_a_name_is_text_wherever_it_stands(name):
    text = page(card(name), card("other", predicted=name), against=name)
    # caption, alt and data-name of one card; class, data-predicted and filter of the other; against
    assert text.count(str(escape(name))) >= 7
    assert name not in text.replace(str(escape(name)), "")


def test_a_name_that_is_not_utf8_shows_its_bytes():
    assert r"b\udcff.png" in page(card("b\udcff.png"))


def test_equal_arguments_give_the_same_page():
    assert page(card("a"), card("b")) == page(card("a"), card("b"))


def test_data_of_a_script_cannot_end_it_and_has_no_nan(tmp_path, monkeypatch):
    (tmp_path / "t.html").write_text("<script>{{ data | tojson }}</script>")
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    data = {"b": "</script>\udcff", "a": "<!--"}
    escaped = r'{"b": "\u003c/script\u003e\udcff", "a": "\u003c!--"}'
    assert render("t.html", data=data) == f"<script>{escaped}</script>"
    with pytest.raises(ValueError, match="JSON"):
        render("t.html", data=float("nan"))


def test_an_image_is_its_bytes_under_its_media_type():
    assert data_uri(b"\x89PNG\r\n\x1a\n").startswith("data:image/png;base64,iVBORw0KGgo=")
    assert data_uri(b"\xff\xd8\xff\xe0") == "data:image/jpeg;base64,/9j/4A=="
    assert data_uri(SVG).startswith("data:image/svg+xml;base64,PHN2Zy")
    with pytest.raises(ValueError, match="must be PNG, JPEG or SVG, but it starts with b'GIF89a'"):
        data_uri(b"GIF89a")


def test_a_browser_knows_every_declaration_of_every_style_sheet():
    script = "return arguments[0].filter(([name, value]) => !CSS.supports(name, value))"
    with chromium(400, 400) as driver:
        for name in STYLES:
            text = (PACKAGE / name).read_text(encoding="utf-8")
            # deno fmt gives each declaration, selector, brace and comment a line
            selectors = re.findall(r"^.*[{,]$|^ *}$|^ *$|^ */[*].*", text, flags=re.MULTILINE)
            declarations = re.findall(
                r"^ +([\w-]+): (.+?)(?: !important)?;$", text, flags=re.MULTILINE
            )
            assert len(declarations) + len(selectors) == text.count("\n") + 1, name
            assert driver.execute_script(script, declarations) == []
