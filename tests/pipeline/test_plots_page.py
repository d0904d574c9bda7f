"""`dvc plots show` and `dvc plots diff` in a browser without a network, after the page was moved:
every plot has marks in it."""

import json
import re

import pytest
import vl_convert

from tests.browser import chromium
from tests.project import ROOT
from vit_finetune.charts.render import VEGA_LITE

SCREENSHOTS = ROOT / ".run" / "screenshots"
# Before the page's own scripts: keep each view that vegaEmbed makes, and what it fails with.
KEEP_VIEWS = """
window.views = {}; window.failures = {};
let embed;
Object.defineProperty(window, "vegaEmbed", {
  get: () => embed && ((id, spec) => {
    window.views[id] = null;
    return embed(id, spec).then(result => { window.views[id] = result.view; return result; },
                                error => { window.failures[id] = String(error); });
  }),
  set: value => { embed = value; },
});
"""
WAIT = """
const done = arguments[0], failures = window.failures;
function look() {
  const waiting = Object.keys(window.views).some(id => window.views[id] === null && !failures[id]);
  waiting ? setTimeout(look, 50) : done(failures);
}
look();
"""
# Marks that carry data; axes, legends and titles are marks as well, under another role.
MARKS = """
const marks = {}, ids = Object.keys(window.views);
function count(item) {
  const items = item.items || [];
  const isData = item.marktype && item.role === "mark" && item.marktype !== "group";
  return items.reduce((sum, child) => sum + count(child), isData ? items.length : 0);
}
for (const id of ids) marks[id] = window.views[id] && count(window.views[id].scenegraph().root);
return marks;
"""

# Panels of a plot that stand under or beside the header of another: [plot, what the header says,
# what is in the panel].
MISPLACED = """
const wrong = [];
for (const [id, view] of Object.entries(window.views)) {
  const panels = [], headers = [];
  (function collect(mark) {
    for (const item of mark.items || []) {
      if (mark.name === "cell") panels.push(item);
      if (mark.name === "row_header") headers.push([item, "y"]);
      if (mark.name === "column_header") headers.push([item, "x"]);
      (item.items || []).forEach(collect);
    }
  })(view.scenegraph().root);
  for (const [header, axis] of headers) for (const panel of panels) {
    if (Math.abs(panel[axis] - header[axis]) > 1) continue;
    for (const [key, value] of Object.entries(header.datum)) {
      const other = panel.datum[key];
      if (typeof value !== "string" || other === undefined || other === value) continue;
      wrong.push([id, value, other]);
    }
  }
  window.panels = (window.panels || 0) + (headers.length ? panels.length : 0);
}
return wrong;
"""


@pytest.fixture(scope="module")
def shown(finished, tmp_path_factory):
    """A project with a committed run and another one in the work tree, and the page that setup
    writes."""
    project = finished.copy(tmp_path_factory.mktemp("plots") / "p")
    assert project.run("python", "tools/plots_page.py").returncode == 0
    project.git("add", "-A")
    project.git("commit", "-qm", "first run")
    project.set(**{"train.lr": 0.01})
    project.repro()
    return project


def open_page(project, moved, *command, width=1280):
    """Write the page, move it to `moved`, and look at it there."""
    result = project.run("dvc", "plots", *command)
    assert result.returncode == 0, result.stderr
    (project.folder / "dvc_plots/index.html").rename(moved)
    with chromium(width, 1000) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": KEEP_VIEWS})
        driver.get(moved.as_uri())
        assert driver.execute_async_script(WAIT) == {}
        height = driver.execute_script("return document.documentElement.scrollHeight")
        size = {
            "width": width,
            "height": min(height, 12_000),
            "deviceScaleFactor": 1,
            "mobile": False,
        }
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(SCREENSHOTS / f"plots_{command[0]}_{width}.png"))
        pictures = driver.execute_script("return [...document.images].map(i => i.naturalWidth)")
        console = [entry["message"] for entry in driver.get_log("browser")]
        misplaced = driver.execute_script(MISPLACED)
        panels = driver.execute_script("return window.panels")
        return driver.execute_script(MARKS), pictures, console, misplaced, panels


@pytest.mark.parametrize(
    "command", [("show",), pytest.param(("diff", "HEAD"), marks=pytest.mark.slow)]
)
def test_every_plot_has_marks_in_it_without_a_network_and_the_console_is_empty(
    shown, tmp_path, command
):
    marks, pictures, console, misplaced, panels = open_page(
        shown, tmp_path / "moved.html", *command
    )
    assert console == []
    assert misplaced == []
    assert len(marks) == 12
    assert {id: count for id, count in marks.items() if not count} == {}
    revisions = 1 if command == ("show",) else 2
    assert pictures == []
    # of the class balance, both trainings, the confusion, the curves of the maps
    assert panels == 3 + 2 * 3 + revisions + 2 * revisions
    assert marks["#plots_per_class_csv"] == 2 * 10 * revisions  # precision and recall
    assert marks["#plots_class_balance_csv"] == 2 * 30 * revisions  # bars and numbers
    # the two ends of its diagonal, which is there without data
    assert marks["#plots_reliability_csv"] > 2


@pytest.mark.slow
def test_before_setup_the_page_asks_the_network_for_the_libraries(finished, tmp_path):
    project = finished.copy(tmp_path / "p")
    assert project.run("dvc", "plots", "show").returncode == 0
    with chromium(800, 600) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
        driver.get((project.folder / "dvc_plots/index.html").as_uri())
        asked = driver.execute_script(
            "return [...document.scripts].map(s => s.src).filter(s => s.startsWith('http'))"
        )
    assert [re.sub(r".*/npm/|@.*", "", url) for url in asked] == ["vega", "vega-lite", "vega-embed"]


def test_the_page_before_setup_names_the_versions_that_setup_puts_into_it():
    page = (ROOT / ".dvc/plots/page.html").read_text()
    versions = dict(re.findall(r"/(vega(?:-\w+)?)@([\d.]+)\"", page))
    assert versions["vega"] == vl_convert.get_vega_version()
    assert versions["vega-embed"] == vl_convert.get_vega_embed_version()
    assert versions["vega-lite"].startswith(f"{VEGA_LITE}.")
    assert "tools/plots_page.py" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("template", sorted((ROOT / "src/vit_finetune/charts").glob("*.json")))
def test_templates_are_written_in_the_version_that_draws_them(template):
    schema = json.loads(template.read_text())["$schema"]
    assert schema.endswith(f"/v{VEGA_LITE.split('.')[0]}.json")
