"""`compare`: two runs image by image, several runs by their spread, and what it refuses."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys

import pytest
from scipy.stats import binomtest

from tests.comparison.recorded_runs import Repository, table
from tests.project import ROOT
from vit_finetune.comparison.runs import LOCK, TABLE

FIRST = table(*["cat cat"] * 10, *["cat dog"] * 7, *["dog dog"] * 3)
SECOND = table(*["cat dog"] * 1, *["cat cat"] * 15, *["cat dog"] * 1, *["dog dog"] * 2, "dog cat")
# gained 6 cats, lost 1 cat and 1 dog
OTHER_CLASSES = [(file, f"no {actual}", *rest) for file, actual, *rest in FIRST]
OTHER_IMAGES = [(f"val/{number}", *row[1:]) for number, row in enumerate(FIRST)]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """The runs `first` and `second`, each on a branch; `second` is checked out."""
    monkeypatch.chdir(tmp_path)
    repository = Repository(tmp_path)
    repository.record("first", FIRST, lr=0.1, epochs=2)
    repository.record("second", SECOND, lr=0.2, epochs=2, mixup=None)
    return repository


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a module as `python -m` does, in this process: output, or what it ends with."""

    def run(module, *arguments):
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process must not end by it
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        monkeypatch.delitem(sys.modules, f"vit_finetune.{module}", raising=False)
        try:
            runpy.run_module(f"vit_finetune.{module}", run_name="__main__")
        except SystemExit as end:
            return str(end)
        return capsys.readouterr().out

    return run


@pytest.fixture
def compare(call):
    return lambda *arguments: call("compare", *arguments)


@pytest.fixture
def compared(compare):
    return lambda *arguments: json.loads(compare("--json", *arguments))


def test_two_runs_are_counted_image_by_image(repository, compared):
    result = compared("first", "second")
    counts = [result[key] for key in ("images", "both_right", "gained", "lost", "both_wrong")]
    assert counts == [20, 11, 6, 2, 1]
    assert [run["accuracy"] for run in result["runs"]] == [0.65, 0.85]
    assert result["difference"] == pytest.approx(0.2)
    assert result["p"] == pytest.approx(binomtest(2, 8).pvalue, abs=1e-12)
    assert [row["class"] for row in result["classes"]] == ["cat", "dog"]
    cat, dog = result["classes"]
    assert (cat["gained"], cat["lost"], cat["p"]) == (6, 1, pytest.approx(2 * 0.125))  # Holm
    assert (dog["gained"], dog["lost"], dog["p"]) == (0, 1, 1)
    assert result["params"] == {"train.lr": [0.1, 0.2], "train.mixup": ["absent", None]}
    assert result["warnings"] == []


def test_the_text_has_the_numbers_of_the_json(repository, compare, compared):
    text = compare("first", "second")
    result = compared("first", "second")
    low, high = result["interval"]
    assert f"+0.2000  [{low:+.4f}, {high:+.4f}] (Tango 1998)" in text
    assert "The difference may be chance." in text
    assert re.search(r"^p, exact McNemar test +0\.29$", text, re.MULTILINE)
    assert re.search(r"^cat +17 +6 +1 +0\.25$", text, re.MULTILINE)
    assert re.search(r"^train.lr +0\.1 +0\.2$", text, re.MULTILINE)
    assert re.search(r"^train.mixup +absent +null$", text, re.MULTILINE)


def test_a_difference_beyond_chance_is_called_so_and_equal_runs_equal(repository, compare):
    repository.record("worse", table(*["cat dog"] * 17, *["dog dog"] * 3))
    assert "B is less accurate than A, and chance alone would seldom make it so." in compare(
        "first", "worse"
    )
    text = compare("first", "first")
    assert "A and B are equally accurate on these images." in text
    assert "none: fewer than 6 images changed" in text
    assert "All parameters are the same." in text


def test_every_kind_of_name_leads_to_its_run_and_one_alone_meets_the_work_tree(
    repository, compared
):
    first = repository.git("rev-parse", "first")
    repository.git("tag", "-a", "v1", "-m", "tagged", "first")
    repository.git("update-ref", f"refs/exps/{first[:2]}/{first[2:]}/gentle-owl", first)
    repository.git("checkout", "-q", "--detach", "second")
    for name in ("first", "v1", "gentle-owl", first, first[:8], "HEAD~1"):
        result = compared(name, "HEAD")
        assert result["runs"][0] == {"name": name, "commit": first, "accuracy": 0.65}
        assert result["gained"] == 6
    repository.write(FIRST, lr=0.3)
    result = compared("second")
    assert result["runs"][1] == {"name": "work tree", "commit": "", "accuracy": 0.65}
    assert result["params"]["train.lr"] == [0.2, 0.3]


def test_only_images_that_both_have_are_compared_by_file_and_the_others_are_counted(
    repository, compared
):
    """The place in the table does not matter."""
    repository.record("fewer", [*reversed(SECOND[:-5]), ("test/new", "owl", "owl", "0.5")])
    result = compared("first", "fewer")
    assert (result["images"], result["gained"], result["lost"]) == (15, 5, 1)
    assert result["warnings"] == [
        "test images of first that not every run has are left out: 5",
        "test images of fewer that not every run has are left out: 1",
        "first has no test images of the classes owl",
        "fewer has no test images of the classes dog",
    ]


def test_images_with_other_labels_are_left_out_and_counted(repository, compared):
    """As corrections of test images leave them."""
    corrected = [(FIRST[0][0], "dog", *FIRST[0][2:]), *FIRST[1:]]
    repository.record("corrected", corrected)
    for names in (["second", "corrected"], ["second", "first", "corrected"]):
        result = compared(*names)
        assert result["images"] == 19
        (warning,) = result["warnings"]
        assert warning.startswith(
            "test images whose true class is not the same in every run are left out: 1, such as "
            "test/0: cat in second, "
        )


def test_images_in_groups_are_tested_by_groups(repository, compare, compared):
    """Ten images of one film are gained together: that may be chance."""
    answers = ["cat dog"] * 10 + ["cat cat"] * 10
    for name, groups in (("film", [0] * 10 + [*range(1, 11)]), ("alone", [*range(20)])):
        rows = [(*row, group) for row, group in zip(table(*answers), groups, strict=True)]
        repository.record(f"worse-{name}", rows)
        better = [
            (*row, group) for row, group in zip(table(*["cat cat"] * 20), groups, strict=True)
        ]
        repository.record(f"better-{name}", better)
    alone = compared("worse-alone", "better-alone")
    film = compared("worse-film", "better-film")
    assert (alone["groups"], film["groups"]) == (20, 11)
    assert alone["p"] == pytest.approx(2 / 2**10)
    assert film["p"] == 1
    assert film["classes"][0]["p"] == 1
    assert film["interval"][0] < 0 < alone["interval"][0]
    assert compared("worse-film", "better-alone")["groups"] == 11
    text = compare("worse-film", "better-film")
    assert "20 test images are in both, in 11 groups." in text
    assert "p, exact sign-flip test of groups" in text
    assert "The difference may be chance." in text


def test_stages_that_ran_with_other_libraries_are_named(repository, compared):
    def lock(**versions):
        stages = {}
        for stage, md5 in versions.items():
            stages[stage] = {"outs": [{"path": f"versions/{stage}.json", "md5": md5}]}
        (repository.folder / LOCK).write_text(json.dumps({"stages": stages}))

    lock(adapt="1", train="2")
    repository.commit("one")
    lock(adapt="1", train="3")
    (warning,) = compared("one")["warnings"]
    assert warning.startswith("train ran with other versions of libraries (dvc.lock); ")
    lock(adapt="1", train="2")
    assert compared("one")["warnings"] == []


def test_three_runs_have_a_mean_a_spread_and_images_that_flip(repository, compare, compared):
    repository.record("third", FIRST[:19] + SECOND[19:], lr=0.1, epochs=2)
    result = compared("first", "second", "third")
    assert result["mean"] == pytest.approx((0.65 + 0.85 + 0.6) / 3)
    assert result["standard_deviation"] == pytest.approx(0.1322876)
    assert result["flipped"] == 8 / 20
    assert result["params"]["train.lr"] == [0.1, 0.2, 0.1]
    text = compare("first", "second", "third")
    assert re.search(r"^standard deviation +0\.1323$", text, re.MULTILINE)
    assert "0.4000, right in some runs and wrong in others" in text
    assert compare("first", "second", "third", "--page", "x.html") == (
        "compare: --page shows two runs side by side, and 3 are named"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            OTHER_CLASSES,
            "all 20 test images have another true class, such as test/0: cat in first, no cat in "
            "bad; compare runs of the same data",
        ),
        (
            OTHER_IMAGES,
            "the runs have no test image in common (test/0 in first, val/0 in bad); compare runs "
            "of the same data",
        ),
        ([*FIRST, FIRST[3]], f"test/3 stands twice in {TABLE} of bad; compute it again: dvc repro"),
        ([], f"{TABLE} of bad has no images; compute it again: dvc repro"),
        (
            [("test/0", "cat", "owl", "nan")],
            f"row 2 of {TABLE} of bad is broken; compute it again: dvc repro",
        ),
        (
            [*FIRST, ("test/20", "cat")],
            f"row 22 of {TABLE} of bad is broken; compute it again: dvc repro",
        ),
    ],
)
def test_a_table_of_other_images_or_a_damaged_one_is_one_line(repository, compare, rows, message):
    repository.record("bad", rows)
    assert compare("first", "bad") == f"compare: {message}"


def test_a_table_with_a_missing_column_is_one_line(repository, compare):
    text = (repository.folder / TABLE).read_text()
    (repository.folder / TABLE).write_text(text.replace("file,", "path,", 1))
    assert compare("first") == (
        f"compare: {TABLE} of work tree has no column file; compute it again: dvc repro"
    )


def test_a_table_with_the_marks_of_a_merge_is_one_line(repository, compare):
    repository.git("checkout", "-q", "-B", "ours", "first")
    repository.record("ours", table(*["cat owl"] * 20))
    with pytest.raises(subprocess.CalledProcessError):
        repository.git("merge", "second")
    assert compare("first") == (
        f"compare: {TABLE} of work tree has the marks of a merge that is not settled; settle "
        "params.yaml, then: git checkout --ours dvc.lock metrics plots && dvc repro"
    )


def test_a_table_that_is_older_than_the_model_or_the_images_is_one_line(repository, compare):
    """As `dvc repro train` leaves it, or a run that was stopped."""
    path = repository.folder / LOCK
    lock = json.loads(path.read_text())
    lock["stages"]["train"]["outs"] = [{"path": "models/finetuned", "md5": "new"}]
    lock["stages"]["evaluate"] = {"deps": [{"path": "models/finetuned", "md5": "new"}]}
    path.write_text(json.dumps(lock))
    assert "accuracy of A" in compare("first")
    lock["stages"]["evaluate"]["deps"][0]["md5"] = "old"
    path.write_text(json.dumps(lock))
    assert compare("first") == (
        f"compare: {TABLE} of work tree is older than its models/finetuned; run dvc repro"
    )


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        (TABLE, b"index,file\xe9", f"{TABLE} of the work tree is not UTF-8 text; compute it again"),
        (TABLE, b'index,file,actual,predicted,confidence\n"' + b"x" * 200_000, "is damaged (field"),
        (LOCK, b"", f"{LOCK} of work tree has no stages; run dvc repro"),
        (LOCK, b"stages: [1]", f"{LOCK} of work tree has no stages; run dvc repro"),
    ],
    ids=["not UTF-8", "endless field", "empty lock", "no lock"],
)
def test_a_damaged_file_is_one_line(repository, compare, path, data, message):
    (repository.folder / path).write_bytes(data)
    (line,) = compare("first").splitlines()
    assert message in line


def test_few_changed_images_whose_interval_excludes_0_are_not_called_a_difference(
    repository, compare
):
    repository.record("right", table(*["cat cat"] * 200))
    repository.record("wrong", table(*["cat owl"] * 4, *["cat cat"] * 196))
    text = compare("wrong", "right")
    assert "the interval is only approximate, and the test is exact" in text


def test_a_folder_or_no_name_is_no_page_and_a_reader_may_leave_early(repository):
    command = [sys.executable, "-m", "vit_finetune.compare", "first", "second"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for page in (".", ""):
        done = subprocess.run([*command, "--page", page], capture_output=True, env=variables)
        assert done.returncode == 2
        assert b"is not the name of a file" in done.stderr
    shell = f"{' '.join(command)} | true"
    done = subprocess.run(shell, shell=True, capture_output=True, env=variables)
    assert done.stderr == b""


def test_a_name_without_a_run_is_one_line(repository, compare):
    first = repository.git("rev-parse", "first")
    reference = f"refs/exps/{first[:2]}/{first[2:]}/gone"
    repository.git("update-ref", reference, first)
    repository.git("update-ref", "-d", reference)  # as `dvc exp remove` does
    assert compare("first", "gone") == (
        "compare: there is no commit, branch, tag or experiment 'gone'; dvc exp list --all-commits "
        "lists the experiments that are left"
    )
    for name in ("first", "second"):
        commit = repository.git("rev-parse", name)
        repository.git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/twin", commit)
    assert compare("twin").startswith(
        "compare: 2 commits or experiments are called twin; name one by its"
    )
    repository.git("branch", "twin", "HEAD")
    assert compare("twin").startswith("compare: 2 commits or experiments are called twin;")
    assert compare("^HEAD").startswith("compare: there is no commit, branch, tag or experiment")
    for path in (LOCK, TABLE):
        repository.git("rm", "-q", "--cached", path)
        repository.git("commit", "-q", "-m", "without")
        assert compare("HEAD") == (
            f"compare: HEAD has no {path}; name a commit or experiment with the results of a run"
        )
    (repository.folder / TABLE).unlink()
    assert compare("first") == f"compare: the work tree has no {TABLE}; run dvc repro"


def test_a_folder_outside_of_git_is_one_line(tmp_path, monkeypatch, compare):
    monkeypatch.chdir(tmp_path)
    assert compare("main") == (
        "compare: this folder is in no git repository, so it has no runs but the work tree's"
    )


def test_the_committed_run_is_compared_without_torch_and_dvc_which_take_seconds_to_load():
    script = (
        "import runpy, sys; sys.path.insert(0, 'src'); sys.argv = ['compare', 'HEAD']\n"
        "runpy.run_module('vit_finetune.compare', run_name='__main__')\n"
        "assert not {'torch', 'dvc', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "10,000 test images are in both." in done.stdout
