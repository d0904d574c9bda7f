"""A profile runs as an experiment that leaves everything as it was."""

import json
import os
import shutil

import pytest

from tests.project import ROOT, Project
from vit_finetune.comparison.runs import flatten
from vit_finetune.core.errors import UserError
from vit_finetune.params import read_yaml
from vit_finetune.profiles import absolute_folders, merge, overrides, read_overlay

OVERLAY = """\
train:
  lr: 0.004
attention:
  fusion: max
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_model_folder):
    """A committed project whose default is the tiny configuration, with one profile."""
    project = Project.create(tmp_path_factory.mktemp("profiles") / "p", tiny_model_folder)
    (project.folder / "profiles" / "other.yaml").write_text(OVERLAY)
    project.git("add", "-A")
    project.git("commit", "-qm", "tiny")
    return project


RUN = """
import runpy, sys
sys.path.insert(0, "src")
runpy.run_module("vit_finetune.profiles", run_name="__main__")
"""


def profile(project, name):
    return project.run("python", "-c", RUN, name)


@pytest.mark.slow
def test_a_profile_runs_beside_the_work_tree_and_again(project):
    tree = project.git("status", "--porcelain", "--untracked-files=all")
    params = (project.folder / "params.yaml").read_bytes()
    first = profile(project, "other")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "test accuracy" in first.stdout
    for page in ("report.html", "attention/index.html", "review.html"):
        assert (project.folder / ".run" / "other" / page).stat().st_size > 10_000
    assert project.git("status", "--porcelain", "--untracked-files=all") == tree == ""
    assert (project.folder / "params.yaml").read_bytes() == params
    assert not (project.folder / "metrics").exists()

    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    assert "other" in json.dumps(shown)
    differing = json.loads(project.run("dvc", "params", "diff", "HEAD", "other", "--json").stdout)
    lr = read_yaml(project.folder / "params.yaml")["train"]["lr"]
    assert differing == {
        "params.yaml": {
            "train.lr": {"old": lr, "new": 0.004, "diff": pytest.approx(0.004 - lr)},
            "attention.fusion": {"old": "mean", "new": "max"},
        }
    }

    # the name is taken: it is replaced, and nothing is computed again
    second = profile(project, "other")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Running stage" not in second.stdout

    applied = project.run("dvc", "exp", "apply", "other")
    assert applied.returncode == 0, applied.stderr
    assert (project.folder / "metrics" / "evaluation.json").is_file()
    assert project.repro() == []


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            "train:\n  learning_rate: 1\n",
            "bad.yaml over params.yaml: train.learning_rate is not a known",
        ),
        ("training:\n  lr: 1\n", r"training is not a known key; did you mean train\?"),
        ("train: 3\n", "train is 3: it must hold"),
        ("- train\n", "must hold sections"),
        ("", "must hold sections"),
        ("train: {lr: yes}\n", "train.lr is 'yes'"),
    ],
)
def test_an_overlay_that_does_not_fit_params_yaml_is_an_error_before_any_work(
    tmp_path, monkeypatch, overlay, message
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/bad.yaml").write_text(overlay)
    with pytest.raises(UserError, match=message):
        read_overlay("bad")


VALUES = (
    *("José", "日本", "C:\\data", "C:\\\\data", "ends in \\", "\\'", "\\\\]\\\\\n", "$"),
    *("${oc.env:HOME}", "\\${x}", "a'b", 'a"b', "x=y", "a: b", " spaces ", "null", "true", "1e-4"),
    *("[a, b]", "{a}", "tab\there"),
)


def test_every_value_of_an_overlay_arrives_as_it_is(project, monkeypatch):
    from dvc.utils.hydra import apply_overrides

    monkeypatch.chdir(project.folder)
    original = (project.folder / "params.yaml").read_text()
    overlay = {
        "seed": 3,
        "freeze.parameters": ["blocks.*.attn.*", "!*.bias", *VALUES],
        "train.lr": 1e-05,
        "runtime.threads": None,
        "train.grad_clip": 1.0,
        "adapt.flip": False,
    }
    for title, author in zip(VALUES, reversed(VALUES), strict=True):
        if VALUES.index(title) > VALUES.index(author):
            break
        overlay |= {"report.title": title, "report.author": author}
        apply_overrides("params.yaml", overrides(overlay))
        arrived = flatten(read_yaml("params.yaml"))
        (project.folder / "params.yaml").write_text(original)
        assert {key: arrived[key] for key in overlay} == overlay


def test_a_value_that_would_be_changed_on_the_way_is_refused(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    message = r"^report.title is 'next\\x85line': DVC would change it to 'next line'; write it in"
    with pytest.raises(UserError, match=message):
        overrides({"report.title": "next\x85line"})


@pytest.mark.slow
def test_an_experiment_of_the_users_own_is_never_replaced(project):
    head = project.git("rev-parse", "HEAD").strip()
    ref = f"refs/exps/{head[:2]}/{head[2:]}/other"
    made = project.git("for-each-ref", "--format=%(objectname)", ref).strip()
    project.git("update-ref", ref, head)  # as if the user had kept a run under this name
    result = profile(project, "other")
    assert result.returncode == 1
    assert result.stderr == (
        "profile: there is an experiment other that this profile did not make; keep it under "
        "another name first: dvc exp rename other NEW-NAME\n"
    )
    assert project.git("rev-parse", ref).strip() == head
    project.git("update-ref", *(["-d", ref] if not made else [ref, made]))


def test_a_name_that_a_branch_has_is_refused(project):
    """DVC would read the branch in the place of the experiment."""
    project.git("branch", "other")
    result = profile(project, "other")
    project.git("branch", "-D", "other")
    assert result.returncode == 1
    assert result.stderr.startswith("profile: there is a branch or tag other, which DVC would")


@pytest.mark.slow
def test_a_profile_that_fails_leaves_the_run_it_made_before(project):
    if not project.git("for-each-ref", "refs/exps"):
        assert profile(project, "other").returncode == 0
    before = project.git("for-each-ref", "refs/exps")
    overlay = project.folder / "profiles/other.yaml"
    overlay.write_text("model:\n  name: local-dir:pretrained/absent\n")
    result = profile(project, "other")
    overlay.write_text(OVERLAY)
    assert result.returncode == 1
    assert result.stderr.endswith(
        "profile: the run failed; DVC's and the stages' lines above say why\n"
    )
    assert project.git("for-each-ref", "refs/exps") == before


def test_a_shallow_clone_is_refused_before_any_stage_runs(project, tmp_path):
    project.git("commit", "--allow-empty", "-qm", "second")
    project.git("clone", "-q", "--depth", "1", project.folder.as_uri(), str(tmp_path / "shallow"))
    project.git("reset", "-q", "--soft", "HEAD~1")
    result = profile(Project(tmp_path / "shallow"), "other")
    assert result.returncode == 1
    assert "this is a shallow clone" in result.stderr
    assert "git fetch --unshallow" in result.stderr
    assert "Running stage" not in result.stdout


def test_a_cache_whose_path_is_not_ascii_is_refused_before_any_stage_runs(project, tmp_path):
    elsewhere = project.copy(tmp_path / "é")
    result = profile(elsewhere, "other")
    assert result.returncode == 1
    assert "profile: DVC cannot run a profile while its cache lies in " in result.stderr
    assert "dvc cache dir --local /a/path" in result.stderr
    assert "Running stage" not in result.stdout


@pytest.mark.slow
def test_the_project_may_be_a_folder_of_a_larger_repository(project, tmp_path):
    part = Project(tmp_path / "larger" / "part")
    part.folder.parent.mkdir()
    part.git = Project(part.folder.parent).git
    part.git("init", "-q")
    project.git("worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    shutil.copytree(tmp_path / "tree", part.folder, ignore=shutil.ignore_patterns(".git"))
    part.git("add", "-A")
    part.git("add", "-f", "part/pretrained")
    part.git("commit", "-qm", "all")
    result = profile(part, "other")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test accuracy" in result.stdout
    assert (part.folder / ".run/other/report.html").stat().st_size > 10_000


def test_files_that_the_copy_would_not_have_are_refused_before_any_stage_runs(project, tmp_path):
    """Also where DVC has the results of a run without them, so that no stage would run."""
    twin = project.copy(tmp_path / "p")
    (twin.folder / "profiles/mine.yaml").write_text("data:\n  name: folder\n")
    for name in ("cat", "dog", "emu"):
        (twin.folder / "data/images" / name).mkdir(parents=True)
        (twin.folder / "data/images" / name / "1.png").touch()
    (twin.folder / "data/images/dog.dvc").touch()  # stands for what `dvc add` writes
    twin.git("add", "-f", "data/images/cat/1.png", "data/images/dog.dvc")
    result = profile(twin, "mine")
    assert result.returncode == 1
    assert result.stderr.startswith(
        "profile: 1 files of data/images are not in the copy that DVC makes for such a run, such "
        "as emu/1.png: it copies what is tracked"
    )
    assert "Running stage" not in result.stdout


def test_a_folder_that_git_refuses_to_read_is_told_in_gits_own_words(project, tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    twin = project.copy(tmp_path / "p")
    for path in (twin.folder, twin.folder / ".git"):
        os.chown(path, 54321, 54321)
    result = profile(twin, "other")
    assert result.returncode == 1
    assert result.stderr.startswith("profile: git: fatal: detected dubious ownership in repository")
    assert result.stderr.endswith(f"git config --global --add safe.directory {twin.folder}\n")
    assert result.stderr.count("\n") == 1


def test_an_unknown_profile_lists_the_known_ones(project):
    result = profile(project, "nosuch")
    assert result.returncode == 1
    known = "demo, demo-random, full, other, photos, small, textbook"
    assert result.stderr == f"profile: there is no profiles/nosuch.yaml; known profiles: {known}\n"


def test_a_folder_without_a_commit_is_told_how_to_make_one(tmp_path, tiny_model_folder):
    project = Project.create(tmp_path / "p", tiny_model_folder)
    shutil.rmtree(project.folder / ".git")
    (project.folder / "profiles" / "other.yaml").write_text(OVERLAY)
    without_git = profile(project, "other")
    project.git("init", "-q")
    for result in (without_git, profile(project, "other")):
        assert result.returncode == 1
        assert "git init && git add -A && git commit -m start" in result.stderr
        assert "Traceback" not in result.stderr


def test_overlays_are_merged_and_flattened_by_section():
    values = {"seed": 0, "train": {"lr": 1, "epochs": 2}}
    assert merge(values, {"train": {"lr": 3}}) == {"seed": 0, "train": {"lr": 3, "epochs": 2}}
    assert flatten({"seed": 1, "train": {"lr": 3}}) == {"seed": 1, "train.lr": 3}
    assert values == {"seed": 0, "train": {"lr": 1, "epochs": 2}}


def test_every_shipped_profile_is_in_order(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in (ROOT / "profiles").glob("*.yaml"):
        overlay, _ = read_overlay(path.stem)
        assert overlay


def test_a_folder_that_a_variable_names_is_the_same_one_from_the_copy(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIT_DATA_DIR", "here/cifar")
    monkeypatch.setenv("HF_HOME", "~/hub")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    assert absolute_folders() == {
        "VIT_DATA_DIR": str(tmp_path / "here/cifar"),
        "HF_HOME": str(tmp_path / "home/hub"),
    }
