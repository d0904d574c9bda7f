"""What the README says follows from the code."""

import re

from tests.project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_parameters_and_outputs_are_current():
    import sys

    sys.path.insert(0, str(ROOT / "tools"))
    import reference

    assert reference.generated(README) == README, "run: python tools/reference.py"
    keys = re.findall(r"^\| `([\w.]+)` \|", README, flags=re.MULTILINE)
    assert "train.lr" in keys
    assert len(keys) == len(set(keys))


def test_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", README, flags=re.MULTILINE))
    assert {"demo", "repro", "test", "setup"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_files_and_folders_that_the_readme_names_exist():
    named = re.findall(r"`((?:profiles|pretrained|tools|benchmarks|docs|src)/[\w./-]+)`", README)
    for name in named:
        assert (ROOT / name.rstrip("/")).exists(), name


def test_the_results_are_those_of_the_committed_run():
    import json

    evaluation = json.loads((ROOT / "metrics/evaluation.json").read_text())
    train = json.loads((ROOT / "metrics/train.json").read_text())
    low, high = evaluation["accuracy_ci95"]
    assert f"{evaluation['accuracy']:.4f}" in README
    assert f"[{low:.4f}, {high:.4f}]" in README
    assert f"{train['parameters_trainable']:,}" in README
