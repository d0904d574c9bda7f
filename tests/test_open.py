"""`vit-finetune open` shows the newest run, wherever it lies."""

import os
import subprocess
import time
import webbrowser
from pathlib import Path

import pytest

from tests.project import ROOT
from vit_finetune.core.errors import UserError
from vit_finetune.open import newest_run, run
from vit_finetune.profiles import PAGES


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_pages(folder):
    """The pages of a run."""
    (Path(folder) / "attention").mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        (Path(folder) / page).write_text("<h1>A run</h1>")
        time.sleep(0.01)  # files of one clock tick would be equally new


def test_without_a_run_it_says_what_to_run():
    with pytest.raises(UserError, match=r"no report\.html yet; run make demo .* or make repro"):
        newest_run()


def test_the_newest_of_default_and_profiles_is_found():
    write_pages(".")
    assert newest_run() == Path()
    write_pages(".run/demo")
    assert newest_run() == Path(".run/demo")
    write_pages(".run/quick")
    assert newest_run() == Path(".run/quick")
    write_pages(".")
    assert newest_run() == Path()


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hardlink", "symlink"])
def test_a_run_that_dvc_has_just_restored_is_new_though_its_file_is_old(folder, link):
    cached = folder / "cached"
    cached.write_text("<h1>An old run</h1>")
    os.utime(cached, (0, 0))
    write_pages(".run/demo")
    link(cached, "report.html")
    assert newest_run() == Path()


def test_its_pages_are_opened_and_named(folder, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open_new_tab", lambda url: opened.append(url) or True)
    write_pages(".run/demo")
    run()
    pages = [f".run/demo/{page}" for page in PAGES]
    assert opened == [(folder / page).as_uri() for page in pages]
    assert capsys.readouterr().out.splitlines() == [f"open: {page}" for page in pages]


def test_without_a_browser_or_a_page_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(webbrowser, "open_new_tab", lambda url: False)
    write_pages(".")
    Path("attention/index.html").unlink()
    run()
    assert capsys.readouterr().out.splitlines() == [
        "open: no browser was found; open report.html yourself",
        "open: attention/index.html is missing; run dvc repro",
        "open: no browser was found; open review.html yourself",
    ]


def test_make_clean_leaves_the_pages_and_the_record_of_a_profile():
    write_pages(".run/demo")
    Path(".run/demo/revision").write_text("0123")
    for left in (".run/train.lock", ".run/ranks", ".checkpoints/adapt/0/last.pt"):
        Path(left).parent.mkdir(parents=True, exist_ok=True)
        Path(left).touch()
    for sources in ("src", "stages", "tests", "benchmarks", "tools"):
        Path(sources).mkdir()
    subprocess.run(["make", "-f", ROOT / "Makefile", "clean"], check=True, capture_output=True)
    assert newest_run() == Path(".run/demo")
    assert sorted(path.name for path in Path(".run").iterdir()) == ["demo"]
    assert Path(".run/demo/revision").read_text() == "0123"
    assert not Path(".checkpoints").exists()
