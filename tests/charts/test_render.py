"""Charts say what the tables say, and are drawn the same everywhere."""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert
from dvc_render import VegaRenderer

from tests.pictures import class_names, probabilities
from tests.project import ROOT
from vit_finetune.charts import render
from vit_finetune.data.dataset import balance_rows, class_counts
from vit_finetune.evaluation.measures import per_class, reliability, selective

TEMPLATES = sorted(path.stem for path in (ROOT / "src/vit_finetune/charts").glob("*.json"))


def history(accuracies, losses):
    rows = enumerate(zip(accuracies, losses, strict=True))
    same = {"train_loss": 1.0, "train_accuracy": 0.5, "lr": 0.1}
    return [same | {"epoch": e, "val_accuracy": a, "val_loss": x} for e, (a, x) in rows]


def curves(maps):
    points = [{"fraction": f, "probability": 0.5, "low": 0.4, "high": 0.6} for f in (0, 0.5, 1)]
    panels = ("deletion", "insertion")
    return [{"curve": c, "map": m} | point for c in panels for m in maps for point in points]


def tables(k):
    """Rows for each template that the report uses, of a data set with `k` classes."""
    labels = np.random.default_rng(k).integers(k, size=500)
    classes = class_names(k)
    shares = probabilities(labels, k)
    predicted = shares.argmax(axis=1)
    block = {"effective_patches": 9, "corner_share": 0.1, "prefix_mass": 0.2, "distance": 5}
    return {
        "history": history([0.5, 0.9, 0.8], [3, 2, 1]),
        "class_balance": balance_rows(class_counts({"train": labels, "val": labels[:9]}, classes)),
        "confusion": cells(labels, predicted, classes),
        "per_class": per_class(labels, predicted, classes),
        "reliability": reliability(labels, shares, 10),
        "selective": selective(labels, predicted, shares.max(axis=1)),
        "attention_curves": curves(["rollout", "random", "centre"]),
        "attention_blocks": [{"block": b, "distance_change": 1, "n": 9} | block for b in range(3)],
    }


def cells(labels, predicted, classes):
    return [
        {"actual": classes[a], "predicted": classes[p]}
        for a, p in zip(labels, predicted, strict=True)
    ]


def scene_of(name, rows):
    return vl_convert.vegalite_to_scenegraph(
        render.filled(name, rows), vl_version=render.VEGA_LITE, config=render.LOOK
    )


def drawn(name, rows):
    """(mark type, role, item) of all that the chart draws."""
    scene = scene_of(name, rows)

    def visit(mark):
        for item in mark["items"]:
            yield mark["marktype"], mark["role"], item
            for child in item.get("items", []):
                yield from visit(child)

    return list(visit(scene["scenegraph"]))


def points_beyond_their_panel(scene):
    """Texts that say which points of a chart stand partly outside of the panel that they are in."""
    beyond = []

    def visit(mark, panel):
        for item in mark["items"]:
            inner = item if mark["marktype"] == "group" and item.get("width") else panel
            if (mark["marktype"], mark["role"]) == ("symbol", "mark"):
                radius = math.sqrt(item["size"]) / 2
                for place, length in (("x", "width"), ("y", "height")):
                    if not radius <= item[place] <= panel[length] - radius:
                        beyond.append(f"{place} = {item[place]} of {panel[length]}")
            for child in item.get("items", []):
                visit(child, inner)

    visit(scene["scenegraph"], None)
    return beyond


def marks(items, kind):
    return [item for mark, role, item in items if (mark, role) == (kind, "mark")]


def texts(items, role):
    return [item["text"] for mark, its_role, item in items if (mark, its_role) == ("text", role)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_dvc_fills_a_template_from_a_table_and_leaves_no_anchor(name):
    row = {"rev": "workspace", "map": "rollout", "score": 1, "score_low": 0, "score_high": 2}
    axes = {"x": "score", "y": "map"} if name == "intervals" else {}
    path = str(ROOT / f"src/vit_finetune/charts/{name}.json")
    content = VegaRenderer([row], name, template=path, **axes).get_filled_template()
    assert "<DVC_METRIC" not in str(content)
    vl_convert.vegalite_to_vega(content, vl_version=render.VEGA_LITE)


EXTREMES = {
    "review": [{"kind": kind, "part": "train"} for kind in ("copy", "outlier", "outlier")],
    "history": history([0.0, 1.0, 0.5], [3, 2, 1]),
    "per_class": [
        {"class": name, "precision": value, "recall": value, "support": 1}
        for name, value in (("a", 0.0), ("b", 1.0))
    ],
    "reliability": [
        {"lower": v, "upper": v, "confidence": v, "accuracy": v, "count": 1} for v in (0.0, 1.0)
    ],
    "selective": [{"fraction": f, "accuracy": a} for f, a in ((0.5, 1.0), (1.0, 0.0))],
    "attention_curves": [
        {"curve": "deletion", "map": "rollout", "fraction": v, "probability": v} for v in (0.0, 1.0)
    ],
    "attention_blocks": [
        {"block": b, "distance": d, "distance_change": 0} for b, d in ((0, 0), (3, 10))
    ],
}


@pytest.mark.parametrize("name", EXTREMES)
def test_every_point_stands_whole_in_its_panel_also_at_the_ends_of_the_scales(name):
    scene = scene_of(name, EXTREMES[name])
    assert marks(drawn(name, EXTREMES[name]), "symbol")
    assert points_beyond_their_panel(scene) == []


def test_training_and_validation_have_strokes_of_their_own_in_the_legend():
    items = drawn("history", history([0.5, 0.9], [2, 1]))
    symbols = [item for _, role, item in items if role == "legend-symbol"]
    strokes = [tuple(item["strokeDash"]) for item in symbols]
    assert len(strokes) == len(set(strokes)) == 2
    lines = {tuple(item["strokeDash"]) for item in marks(items, "line")}
    assert set(strokes) == lines


@pytest.mark.parametrize("k", [2, 100])
def test_charts_fit_a_page_for_few_and_many_classes_and_any_name(k):
    for name, rows in tables(k).items():
        picture = ElementTree.fromstring(render.svg(name, rows))
        assert 300 < float(picture.get("width")) < 900, name
        assert float(picture.get("height")) < 2100, name


def test_all_text_follows_the_colour_scheme_but_numbers_on_coloured_cells():
    for name, rows in tables(3).items():
        picture = render.svg(name, rows).decode()
        fills = set(re.findall(r'<text [^>]*fill="([^"]+)"', picture))
        assert fills - {"white", "black"} == {render.INK}
        assert (fills == {render.INK}) == (name != "confusion")
        others = re.sub(r"<text [^>]*>", "", picture.replace(render.DARK, ""))
        assert render.INK not in others  # or it would change with the text


SCRIPT = """
import hashlib, json, sys
from vit_finetune.charts import render
for name, rows in json.load(sys.stdin).items():
    print(hashlib.md5(render.svg(name, rows)).hexdigest())
print(hashlib.md5(render.png(name, rows)).hexdigest())  # of the last one
assert not {"torch", "matplotlib.pyplot"} & set(sys.modules), "neither is needed"
"""


def test_the_bytes_of_a_chart_are_the_same_in_every_process_with_whatever_fonts(tmp_path):
    fonts = tmp_path / "fonts.conf"
    fonts.write_text(f"<fontconfig><dir>{tmp_path}</dir></fontconfig>")
    plain = {"PYTHONPATH": str(ROOT / "src")}
    given = {name: tables(3)[name] for name in ("history", "reliability", "confusion")}
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | plain | changes,
            input=json.dumps(given),
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for changes in ({}, {"FONTCONFIG_FILE": str(fonts), "PYTHONHASHSEED": "7"})
    }
    assert len(outputs) == 1
    expected = [hashlib.md5(render.svg(name, rows)).hexdigest() for name, rows in given.items()]
    assert outputs.pop().split()[:-1] == expected


def test_counted_predictions_give_the_same_picture_as_one_row_for_each():
    rows = cells([0, 1, 1, 1, 2], [0, 1, 0, 1, 1], "abc")
    few = render.counted(rows, ["actual", "predicted"])
    assert len(few) == 4
    assert render.svg("confusion", few) == render.svg("confusion", rows)


def test_confusion_has_true_classes_as_rows_and_a_number_in_each_cell():
    labels = np.repeat([0, 0, 1], [6, 2, 9])
    predicted = np.repeat([0, 1, 1], [6, 2, 9])
    items = drawn("confusion", cells(labels, predicted, ["a", "b"]))
    written = {(t["x"] > 240, t["y"] > 240): t["text"] for t in marks(items, "text")}
    assert written == {(False, False): 6, (True, False): 2, (True, True): 9}
    shades = {item["fill"] for item in marks(items, "rect") if item.get("opacity") != 0}
    assert len(shades) == 3
    assert {"predicted class", "true class"} <= set(texts(items, "axis-title"))


def test_confusion_has_the_same_classes_on_both_axes_though_one_is_never_predicted():
    items = drawn("confusion", cells([0, 1, 2], [0, 2, 2], "abc"))
    assert sorted(texts(items, "axis-label")) == sorted("abc" * 2)


@pytest.mark.parametrize("k", [25, 37, 100])
def test_class_names_of_the_confusion_never_touch_and_numbers_are_left_out_of_many(k):
    items = drawn("confusion", tables(k)["confusion"])
    labels = [t for mark, role, t in items if role == "axis-label" and "class" in t["text"]]
    down = sorted(t["y"] for t in labels if t["angle"] == 0 and t["opacity"])
    assert all(low - high >= labels[0]["fontSize"] for high, low in pairwise(down))
    assert len(down) > 20
    assert bool(marks(items, "text")) == (k <= 25)


def test_training_and_validation_are_lines_of_their_own_from_the_texts_of_a_csv():
    rows = history([0.5, 0.9, 0.8], [1, 1, 1])
    rows = [{key: str(value) for key, value in row.items()} for row in rows]
    dashes = {tuple(item["strokeDash"]) for item in marks(drawn("history", rows), "line")}
    assert len(dashes) == 2


def test_class_balance_has_a_panel_for_each_split_with_the_number_of_images():
    rows = balance_rows({"train": {"a": 50, "b": 40}, "val": {"a": 5, "b": 0}})
    items = drawn("class_balance", rows)
    assert texts(items, "title-text") == ["train", "val"]
    assert texts(items, "mark") == ["50", "40", "5", "0"]
    assert [bar["width"] for bar in marks(items, "rect")] == pytest.approx([190, 152, 190, 0])


def test_precision_and_recall_have_marks_of_their_own_shape():
    row = {"class": "a", "precision": 1.0, "recall": 0.5, "support": 9}
    points = marks(drawn("per_class", [row]), "symbol")
    assert [point["shape"] for point in points] == ["circle", "cross"]
    # the scale ends 8 pixels before the edges of a panel of 460
    assert [point["x"] for point in points] == pytest.approx([8, 452])


def test_reliability_shows_accuracy_with_its_interval_and_how_many_images_a_bin_has():
    row = {"lower": 0.5, "upper": 1, "confidence": 0.8, "accuracy": 0.5, "count": 7}
    items = drawn("reliability", [row | {"accuracy_low": 0.25, "accuracy_high": 0.75}])
    (point,) = marks(items, "symbol")
    (interval,) = marks(items, "rule")
    (bar,) = marks(items, "rect")
    # the scales end 8 pixels before the edges of a panel of 330 x 260
    assert (point["x"], point["y"]) == pytest.approx((8 + 0.8 * 314, 130))
    assert sorted([interval["y"], interval["y2"]]) == pytest.approx([69, 191])
    assert bar["height"] == pytest.approx(260)
    assert bar["width"] == pytest.approx(165, abs=1)


def test_each_map_has_a_colour_and_a_shape_of_its_own_and_baselines_are_grey_dashes():
    items = drawn("attention_curves", curves(["a", "b", "new", "random", "centre"]))
    looks = {(item["stroke"], tuple(item["strokeDash"])) for item in marks(items, "line")}
    assert {dash for colour, dash in looks if colour == "#767676"} == {(4, 3)}
    assert {dash for colour, dash in looks if colour != "#767676"} == {(1, 0)}
    points = {(item["fill"], item["shape"]) for item in marks(items, "symbol")}
    assert len(points) == 5
    assert len({shape for _, shape in points}) == 5
    assert len({colour for colour, _ in points}) == 4
    legend = [(item["fill"], item["shape"]) for _, role, item in items if role == "legend-symbol"]
    assert set(legend) == points
    assert texts(items, "title-text")[-2:] == [
        "deletion: lower is better",
        "insertion: higher is better",
    ]


def test_the_distance_of_the_pretrained_model_is_that_of_the_fine_tuned_less_the_change():
    items = drawn("attention_blocks", tables(2)["attention_blocks"])
    assert len(texts(items, "title-text")) == 4
    heights = {item["shape"]: 142 - item["y"] for item in marks(items, "symbol")[-6:]}
    assert heights["square"] == pytest.approx(heights["circle"] * 4 / 5)


def test_a_class_without_test_images_has_no_mark_at_zero():
    rows = [
        {"class": "tested", "precision": "0.5", "recall": "0.6", "f1": "0.5", "support": "9"},
        {"class": "untested", "precision": "0.0", "recall": "", "f1": "", "support": "0"},
    ]
    drawn = render.svg("per_class", rows).decode()
    assert ">tested<" in drawn
    assert "untested" not in drawn
