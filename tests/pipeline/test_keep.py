"""Real DVC: a run is kept, and another one starts from it."""

import csv
import json

import pytest

pytestmark = pytest.mark.slow


def rows(project, name):
    with (project.folder / f"plots/{name}.csv").open() as file:
        return list(csv.DictReader(file))


def metrics(project, name):
    return json.loads((project.folder / f"metrics/{name}.json").read_text())


@pytest.fixture(scope="module")
def kept(finished, tmp_path_factory):
    """A copy of the finished project whose model was kept, and the next run starts from it."""
    project = finished.copy(tmp_path_factory.mktemp("kept") / "p")
    done = project.run("python", "-c", RUN, "first")
    assert done.returncode == 0, done.stderr
    project.set(**{"model.name": "local-dir:pretrained/first"})
    return project


RUN = """
import runpy, sys
sys.path.insert(0, "src")
runpy.run_module("vit_finetune.keep", run_name="__main__")
"""


def test_a_run_that_starts_from_a_kept_model_starts_with_its_head_and_its_accuracy(
    kept, finished, tmp_path
):
    project = kept.copy(tmp_path / "p")
    done = project.run("dvc", "repro")
    assert done.returncode == 0, done.stderr
    says = "adapt: starts with the head of local-dir:pretrained/first, which knows the same 10 "
    assert says in done.stdout
    before = metrics(finished, "train")
    after = metrics(project, "train")
    assert after["head"] == "kept"
    assert "head" not in before
    # the same images: each stage starts where the first run ended
    assert float(rows(project, "adaptation")[0]["val_accuracy"]) == before["val_accuracy"]
    assert after["pretrained_probe_accuracy"] == before["val_accuracy"]
    assert "kept head" in (project.folder / "report.html").read_text()
    # and a forced run gives the same bytes
    outputs = project.outputs()
    assert project.repro("--force", "--single-item", "adapt", "train") == ["adapt", "train"]
    assert project.outputs() == outputs


def test_without_adaptation_and_training_the_kept_model_answers_as_before(kept, finished, tmp_path):
    """Its temperature is fitted anew, to the same validation images: it stays what it was."""
    project = kept.copy(tmp_path / "p")
    project.set(**{"adapt.epochs": 0, "train.lr": 1e-12})
    project.repro("evaluate")
    pairs = zip(rows(finished, "predictions"), rows(project, "predictions"), strict=True)
    assert all(first["predicted"] == second["predicted"] for first, second in pairs)


def test_for_other_classes_the_head_is_not_used_and_that_is_said(kept, tmp_path):
    project = kept.copy(tmp_path / "p")
    config = project.folder / "pretrained/first/config.json"
    facts = json.loads(config.read_text())
    facts["label_names"][3] = "three"
    config.write_text(json.dumps(facts))
    done = project.run("dvc", "repro", "adapt")
    assert done.returncode == 0, done.stderr
    assert (
        "adapt: the head of local-dir:pretrained/first is not used: it knows 10 other classes, "
        "such as 0, 1, 2, three; a linear probe is the start"
    ) in done.stdout
    assert (
        json.loads((project.folder / "models/adapted/adapted.json").read_text())["kept_head"]
        is False
    )
