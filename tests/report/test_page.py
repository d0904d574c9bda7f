"""The page to send: what it says is what was measured, and it opens anywhere."""

import base64
import re
from typing import get_args

import pytest
from markupsafe import escape
from ruamel.yaml import YAML

from tests.browser import chromium, set_screen
from vit_finetune.charts import render
from vit_finetune.params import Data, Freeze, Model, Params, Report, Runtime
from vit_finetune.report.page import (
    ATTENTION,
    DATA,
    NAMES,
    TEST,
    TRAINING,
    Picture,
    compose,
    in_yaml,
    other_versions,
    pinned_versions,
    unbroken,
    used_versions,
    validation_rows,
    version_rows,
)
from vit_finetune.report.tiles import Group, Tile
from vit_finetune.style import darken, figure_of, png
from vit_finetune.verdict import bars_in_words, verdict

COLUMNS = ("minus_random", "minus_centre", "mosaic_share", "mosaic_share_3x3", "head_shuffled")
FIGURE = figure_of(1, "picture")[0]
LIGHT = png(FIGURE)
darken(FIGURE)
DARK = png(FIGURE)
CHART = render.svg("class_balance", [{"split": "train", "class": "a", "images": 1}])
PICTURES = dict.fromkeys(ATTENTION, Picture(LIGHT, DARK))
PICTURES |= dict.fromkeys([*TEST, *TRAINING, *DATA], Picture(CHART))
LONG = "a folder/" * 9 + "<name>.png"
WHY = "attention/index.html#image=2"
GROUPS = {
    "mistakes": [Group("confident", [Tile(LIGHT, ["cat 98.1 %", "is dog"], LONG, WHY)])],
    "review": [Group("outlier: 1", [Tile(LIGHT, ["cat", "train"], "train/7")] * 6)],
    "data": [Group("samples", [Tile(LIGHT, ["cat"], "train/8")])],
}
MAPS = [
    {"map": "LeGrad", "n": "9", "verdict": "better"}
    | {f"{name}{end}": "0.5" for name in COLUMNS for end in ("", "_low", "_high")}
]

VERSIONS = used_versions({"adapt": {"torch": "2.0"}, "train": {"torch": "2.0"}}, {"torch": ["2.0"]})


@pytest.fixture
def metrics():
    return {
        "subset": {"images": {"train": 90, "val": 30, "test": 60}, "problems": 3},
        "train": {"val_accuracy": 0.8, "probe_accuracy": 0.7, "kept_epoch": 1, "epochs": "2 of 2"}
        | {"parameters_adapted": 9, "parameters_trained": 1234567}
        | {"pretrained_probe_accuracy": 0.6},
        "evaluation": {
            "accuracy": 0.75,
            "accuracy_ci95": [0.6, 0.9],
            "macro_f1": 0.7,
            "nll": 0.5,
            "ece": 0.1,
            "n": 60,
        },
        "attention": {"images": 9, "selfcheck_max_rel_err": 1e-6},
        "review": {"wrong_labels": 1234, "near_copies": 5},
    }


def page(metrics, **report):
    params = Params(
        model=Model(name="vit_<tiny>&co"),
        freeze=Freeze(trainable_blocks=2),
        report=Report(**report),
        runtime=Runtime(threads=7),
    )
    return compose(params, metrics, MAPS, PICTURES, GROUPS, VERSIONS)


def test_the_numbers_are_those_of_the_metrics_and_parameters(metrics):
    test = metrics["evaluation"] | {"accuracy": 0.12345, "accuracy_ci95": [0.1, 0.2], "n": 54321}
    text = page({**metrics, "evaluation": test})
    assert "0.1235  [0.1000,\u00a00.2000], n\u00a0=\u00a054,321" in text
    assert verdict(MAPS) in text
    assert "1,234,567 parameters trained" in text
    assert "<tr><td>model.image_size</td><td>null</td></tr>" in text
    assert "<tr><td>seed</td><td>0</td></tr>" in text
    assert "<td>torch</td><td>2.0</td><td>all stages</td><td>2.0</td>" in text
    assert "All stages ran with the versions of requirements.lock." in text
    assert "Problems of 3 images, classes or files are listed in plots/image_problems.csv." in text
    assert "Probably wrong labels: 1,234. Near-copies of other images: 5." in text
    assert "image_problems" not in page({**metrics, "subset": metrics["subset"] | {"problems": 0}})


def test_what_bars_do_stands_beside_the_verdict_on_the_maps(metrics):
    bars = {"bars": {"exchanged": 0}}
    text = page(metrics | {"attention": metrics["attention"] | bars})
    assert f"<p>{verdict(MAPS)}</p>\n<p>{bars_in_words(bars)}</p>" in text
    assert "bars" not in page(metrics)


@pytest.mark.parametrize("name", TRAINING)
def test_curves_are_shown_only_where_an_epoch_was_run(metrics, name):
    without = {other: picture for other, picture in PICTURES.items() if other != name}
    assert TRAINING[name] in page(metrics)
    assert TRAINING[name] not in compose(Params(), metrics, MAPS, without, GROUPS, VERSIONS)


def test_title_and_author_are_text_and_never_markup(metrics):
    text = page(metrics, title="<script>alert(1)</script>", author="A & <b>B</b> $title")
    assert "<script" not in text
    assert "<b>" not in text
    assert "<h1>&lt;script&gt;alert(1)&lt;/script&gt;</h1>" in text
    assert "A &amp; &lt;b&gt;B&lt;/b&gt; $title." in text
    assert "<h1>A Vision Transformer fine-tuned on CIFAR-10</h1>" in page(metrics)
    assert "Model: vit_&lt;tiny&gt;&amp;co." in page(metrics)


def test_only_settings_that_differ_from_the_shipped_ones_are_open(metrics):
    text = page(metrics)
    changed = re.findall(r'<tr class="changed">(.*?)</tr>', text)
    shipped = Params().model.name
    assert changed == [
        f"<td>model.name</td><td>vit_&lt;tiny&gt;&amp;co</td><td>{shipped}</td>",
        "<td>freeze.trainable_blocks</td><td>2</td><td>1</td>",
    ]
    before, folded = text.split("<details>")
    assert changed[0] in before
    assert "<td>train.lr</td>" not in before
    assert f"<summary>All {folded.count('<tr><td>') - 1} settings</summary>" in folded
    same = compose(Params(), metrics, MAPS, PICTURES, GROUPS, VERSIONS)
    assert "All settings are those that the project ships." in same
    assert 'class="changed"' not in same


def test_probes_and_trained_model_are_rows_with_their_interval(metrics):
    numbers = {"pretrained_probe_accuracy": 0.4, "probe_accuracy": 0.5, "val_accuracy": 0.9}
    images = {"images": {"train": 9, "val": 10, "test": 9}}
    changed = {"train": metrics["train"] | numbers, "subset": metrics["subset"] | images}
    text = page(metrics | changed)
    # Wilson (1927) by hand, z = 1.96
    probe = "<td>linear probe of the adapted backbone</td>"
    assert f"{probe}<td>0.5000</td><td>[0.2366,\u00a00.7634]</td>" in text
    assert "<td>trained</td><td>0.9000</td><td>[0.5958,\u00a00.9821]</td>" in text
    assert "<td>linear probe of the backbone as it was</td><td>0.4000</td>" in text


def test_a_model_that_is_a_linear_probe_is_not_called_fine_tuned(metrics):
    probe = metrics["train"] | {"kept_epoch": 0, "parameters_adapted": 0}
    text = page(metrics | {"train": probe})
    assert "<h1>A linear probe of a Vision Transformer on CIFAR-10</h1>" in text
    assert "fine-tuned" not in text


def test_a_model_with_a_kept_head_is_no_linear_probe(metrics):
    kept = metrics["train"] | {"kept_epoch": 0, "parameters_adapted": 0, "head": "kept"}
    text = page(metrics | {"train": kept})
    assert "<h1>A Vision Transformer fine-tuned on CIFAR-10</h1>" in text
    assert "<td>kept head of the backbone as it was</td>" in text
    assert "<td>trained</td>" not in text


def test_a_run_without_mistakes_says_so_once_and_draws_none(metrics):
    text = page({**metrics, "evaluation": metrics["evaluation"] | {"accuracy": 1.0, "n": 360}})
    assert text.count("All 360 test images are classified correctly.") == 1
    assert LONG not in text


def test_a_mistake_has_its_whole_name_and_leads_to_its_maps(metrics):
    text = page(metrics)
    name = escape(LONG)
    assert f'<span class="file" title="{name}">{name}</span>\n<a href="{WHY}">See why</a>' in text
    assert f'alt="{name}: cat 98.1 %, is dog"' in text
    assert text.count("See why</a>") == 1


def test_the_contents_lead_to_every_section_and_what_matters_comes_first(metrics):
    text = page(metrics)
    links = re.findall(r'href="#([^"]+)"', text)
    sections = re.findall(r'<section id="([^"]+)"', text)
    assert links == sections
    assert sections[:4] == ["test-results", "mistakes", "training", "where-the-model-looks"]


def test_warnings_of_the_stages_are_shown_as_text(metrics):
    text = page({**metrics, "train": metrics["train"] | {"warning": "the loss of <train> rose"}})
    assert "Warning: the loss of &lt;train&gt; rose" in text
    assert "Warning" not in page(metrics)


def test_every_picture_is_inside_the_page_over_its_caption(metrics):
    text = page(metrics)
    found = [
        (kind, base64.b64decode(data))
        for kind, data in re.findall('(src|srcset)="data:image/[^;]+;base64,([^"]+)"', text)
    ]
    tiles = sum(len(group.tiles) for groups in GROUPS.values() for group in groups)
    assert found.count(("src", LIGHT)) == len(ATTENTION) + tiles
    assert found.count(("srcset", DARK)) == len(ATTENTION)
    assert found.count(("src", CHART)) == len([*TEST, *TRAINING, *DATA])
    for caption in (*TEST.values(), *ATTENTION.values(), *TRAINING.values(), *DATA.values()):
        assert f"<figcaption>{escape(caption)}</figcaption>" in text


def test_every_data_set_has_a_name_for_the_title():
    assert set(NAMES) == set(get_args(Data.model_fields["name"].annotation))


def test_versions_are_those_that_each_stage_ran_with_beside_those_of_the_lock():
    recorded = {
        "adapt": {"torch": "2.9.0", "numpy": "2.1.0", "timm": "1.0"},
        "train": {"torch": "2.10.0", "numpy": "2.1.0", "timm": "1.0"},
        "evaluate": {"torch": "2.10.0", "numpy": "2.1.0", "timm": "1.0"},
    }
    pins = {"torch": ["2.9.0"], "numpy": ["2.0.0", "2.1.0"]}
    used = used_versions(recorded, pins)
    assert version_rows(used)[1:] == [
        ["numpy", "2.1.0", "all stages", "2.0.0 or 2.1.0"],
        ["timm", "1.0", "all stages", "missing"],
        ["torch", "2.10.0", "train, evaluate", "2.9.0"],
        ["torch", "2.9.0", "adapt", "2.9.0"],
    ]
    assert other_versions(used) == (
        "Not all versions are those of requirements.lock: "
        "timm 1.0 (all stages) is missing there; torch 2.10.0 (train, evaluate) is 2.9.0 there."
    )


def test_a_lock_pins_a_package_once_or_for_each_range_of_python():
    lock = (
        "numpy==2.1.0 ; python_version < '3.12' \\\n    --hash=sha256:aa\n"
        "numpy==2.2.0 ; python_version >= '3.12' \\\n    --hash=sha256:bb\n"
        "torch==2.15.0 \\\n    # via x==1\n"
    )
    assert pinned_versions(lock) == {"numpy": ["2.1.0", "2.2.0"], "torch": ["2.15.0"]}


def test_it_fits_a_screen_and_a_phone_and_asks_the_network_for_nothing(metrics, tmp_path):
    (tmp_path / "report.html").write_text(page(metrics, title="A" * 200), encoding="utf-8")
    with chromium(1280, 900) as driver:
        for width in (1280, 390):
            set_screen(driver, width, 900)
            driver.get((tmp_path / "report.html").as_uri())
            assert (
                driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
                == [width] * 2
            )
            sizes = driver.execute_script(
                "return [...document.querySelectorAll('.wide img')]"
                ".map(i => [i.naturalWidth, i.clientWidth])"
            )
            assert len(sizes) == len(PICTURES)
            # letters stay legible
            assert all(shown >= min(natural, 500) > 0 for natural, shown in sizes)
            tiles = driver.execute_script(
                "return [...document.querySelectorAll('.tiles img')].map(i => i.clientWidth)"
            )
            assert min(tiles) >= 100
            loaded = driver.execute_script(
                "return performance.getEntriesByType('resource').map(e => e.name)"
            )
            assert [name for name in loaded if not name.startswith("data:")] == []
        assert driver.get_log("browser") == []


def test_on_a_phone_no_number_breaks_and_a_table_that_scrolls_says_so(metrics, tmp_path):
    (tmp_path / "report.html").write_text(page(metrics), encoding="utf-8")
    with chromium(390, 844) as driver:
        driver.get((tmp_path / "report.html").as_uri())
        lines = driver.execute_script("""
            return [...document.querySelectorAll("dd, td")].flatMap((cell) => {
              const node = cell.firstChild;
              return [...(node?.textContent ?? "").matchAll(/\\[.*?\\]|n\\s=\\s[\\d,]+/g)]
                .map((found) => {
                  const range = document.createRange();
                  range.setStart(node, found.index);
                  range.setEnd(node, found.index + found[0].length);
                  return range.getClientRects().length;
                });
            })""")
        assert len(lines) > 5
        assert set(lines) == {1}
        scrolls = driver.execute_script("""
            return [...document.querySelectorAll("section > div:has(> table)")].map((box) => [
              box.scrollWidth > box.clientWidth,
              box.previousElementSibling?.checkVisibility() === true &&
                box.previousElementSibling.className.includes("scrolls"),
            ])""")
        assert [True, True] in scrolls
        assert all(scrolling == says for scrolling, says in scrolls)


def test_pictures_follow_the_colour_scheme(metrics, tmp_path):
    (tmp_path / "report.html").write_text(page(metrics), encoding="utf-8")
    script = "return document.querySelector('source').parentElement.lastElementChild.currentSrc"
    with chromium(900, 900) as driver:
        for scheme, picture in (("light", LIGHT), ("dark", DARK)):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            driver.get((tmp_path / "report.html").as_uri())
            shown = driver.execute_script(script)
            assert base64.b64decode(shown.partition(",")[2]) == picture


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (1, "1"), (False, "false"), (True, "true"), (None, "null"), (0.0, "0.0"),
        (1.0, "1.0"), (1e-05, "1e-05"), ("all", "all"), ("José", "José"),
        (["blocks.*.attn.*", "!*.bias"], '["blocks.*.attn.*", "!*.bias"]'),
    ],
)  # fmt: skip
def test_a_parameter_of_any_type_reads_as_in_params_yaml(value, shown):
    assert in_yaml(value) == shown
    assert YAML(typ="safe").load(shown) == value
    assert type(YAML(typ="safe").load(shown)) is type(value)


def test_intervals_of_validation_accuracies_count_groups_however_few():
    train = {
        "parameters_adapted": 0,
        "kept_epoch": 3,
        "pretrained_probe_accuracy": 0.5,
        "val_accuracy": 0.75,
    }
    images = validation_rows(train, 20)
    assert images[0][1] == "validation accuracy (n = 20)"
    assert images[2][1:] == ["0.7500", unbroken("[0.5313, 0.8881]")]  # Wilson by hand, z = 1.96
    groups = validation_rows(train | {"val_independent": 0.0238}, 20)
    assert groups[0][1] == "validation accuracy (n = 20, which count as 0.0238 independent ones)"
    low, high = map(float, groups[2][2].replace("\u00a0", " ").strip("[]").split(", "))
    assert low < 0.05
    assert high > 0.95
