"""What the documents say follows from the code, and every command in them works."""

import csv
import hashlib
import json
import re
import subprocess
import sys

import pytest

from tests.documents import DOCUMENTS, blocks, commands
from tests.graph import PACKAGE
from tests.project import ROOT
from vit_finetune.params import read_yaml

sys.path.insert(0, str(ROOT / "tools"))

import reference

REFERENCE = DOCUMENTS["docs/reference.md"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
# keys of metrics that are there only if there is something to say
NOT_ALWAYS = {
    "warning",
    "head",
    "corrected",
    "groups",
    "not_tested",
    "bars",
    "group",
    "val_independent",
}
# files that a reader writes
READERS_FILES = {
    "profiles/name.yaml",
    "profiles/quick.yaml",
    "pretrained/mine.dvc",
    "pretrained/NAME",
}
# the clone, setup, tests and the pipeline itself, which CI runs
RUN_BY_CI = (
    "git clone",
    "make setup",
    "make repro",
    "make test",
    "make lint",
    "bash .ci/run",
    ". .venv/bin",
)


def locked_outputs():
    """Path and MD5 of every output of the committed run."""
    stages = read_yaml(ROOT / "dvc.lock")["stages"].values()
    return {output["path"]: output["md5"] for stage in stages for output in stage["outs"]}


def names_in(text):
    return set(re.findall(r"`(\w+)`", text))


def test_generated_tables_are_there_and_current():
    marked = []
    for document in reference.DOCUMENTS:
        text = DOCUMENTS[document]
        marked += re.findall(r"^<!-- ([^/].*) -->$", text, flags=re.MULTILINE)
        assert reference.generated(text) == text, "run: python tools/reference.py"
    assert sorted(marked) == sorted(reference.TABLES)


@pytest.mark.parametrize("path", sorted((ROOT / "metrics").glob("*.json")), ids=lambda p: p.name)
def test_every_key_of_a_metrics_file_is_documented(path):
    section = REFERENCE.split(f"### metrics/{path.name}")[1].split("###")[0]
    documented = names_in(" ".join(re.findall(r"^\| (`[^|]+) \|", section, flags=re.MULTILINE)))
    assert set(json.loads(path.read_text())) - NOT_ALWAYS == documented - NOT_ALWAYS


@pytest.mark.parametrize("path", sorted((ROOT / "plots").glob("*.csv")), ids=lambda p: p.name)
def test_every_column_of_plot_data_is_documented(path):
    (columns_cell,) = re.findall(rf"^\| `plots/{path.name}` \| (.*) \|$", REFERENCE, re.MULTILINE)
    documented = names_in(columns_cell)
    with path.open() as file:
        columns = set(next(csv.reader(file)))
    # `_low` and `_high` of a documented value are explained once, below the table
    ends = {f"{name}{end}" for name in documented for end in ("_low", "_high")}
    assert columns - (ends - documented) == documented - NOT_ALWAYS


def test_the_pictures_of_the_tutorial_are_all_shown_and_of_the_committed_run():
    shown = re.findall(r"\]\(tutorial/(\w+)\.webp\)", DOCUMENTS["docs/tutorial.md"])
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "docs/tutorial").glob("*.webp"))
    sources = json.loads((ROOT / "docs/tutorial/sources.json").read_text())
    assert set(shown) == {*sources, "tokens"}
    locked = locked_outputs()
    for outputs in sources.values():
        for path, md5 in outputs.items():
            assert locked[path] == md5, "run: python tools/pictures.py"


def test_make_targets_that_the_documents_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    text = "\n".join(DOCUMENTS.values())
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", text, flags=re.MULTILINE))
    assert {"demo", "repro", "test", "setup"} <= targets
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))


def anchors(path):
    """What a link to a heading of a document may end with, as GitHub forms it."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_links_that_a_document_names_exist(document):
    text = DOCUMENTS[document]
    folders = "profiles|pretrained|tools|benchmarks|docs|src|stages|tests"
    for name in set(re.findall(rf"`((?:{folders})/[\w./-]+)`", text)) - READERS_FILES:
        assert (ROOT / name).exists(), name
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        target = (ROOT / document).parent / file if file else ROOT / document
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_functions_and_classes_that_a_document_names_are_where_it_says():
    text = "\n".join([*DOCUMENTS.values(), CONTRIBUTING])
    # "`name` in `file`", "`one`, `two` and `three` in `file`"
    claims = re.findall(r"((?:`\w+`(?:, | and |; )*)+)\s+in\s+`(src/[\w/]+\.py)`", text)
    assert len(claims) > 20
    for names, file in claims:
        code = (ROOT / file).read_text("utf-8")
        for name in names_in(names):
            assert re.search(rf"^(def |class )?{name}\b", code, flags=re.MULTILINE), (name, file)


def test_contributing_has_a_line_for_each_room():
    rooms = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(re.findall(r"^\| `(\w+/)` \|", CONTRIBUTING, flags=re.MULTILINE))


def test_the_tutorial_reads_the_attention_of_the_committed_run():
    with (ROOT / "plots/attention_blocks.csv").open() as file:
        rows = list(csv.DictReader(file))
    tutorial = " ".join(DOCUMENTS["docs/tutorial.md"].split())
    for column, block, digits in [
        ("prefix_mass", 0, 3),
        ("prefix_mass", 11, 3),
        ("distance", 0, 0),
        ("distance", 11, 0),
        ("distance_change", 8, 1),
    ]:
        mean = float(rows[block][column])
        low = float(rows[block][f"{column}_low"])
        high = float(rows[block][f"{column}_high"])
        assert f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" in tutorial, column
    assert all(float(row["distance_change"]) for row in rows)
    assert "All blocks were adapted" in tutorial


def test_the_tutorial_reads_the_accuracies_of_the_committed_run():
    tutorial = " ".join(DOCUMENTS["docs/tutorial.md"].split())
    trained = json.loads((ROOT / "metrics/train.json").read_text())
    with (ROOT / "plots/adaptation.csv").open() as file:
        *_, adapted = csv.DictReader(file)
    with (ROOT / "plots/per_class.csv").open() as file:
        lowest, second, *_ = sorted(csv.DictReader(file), key=lambda row: float(row["f1"]))
    f1 = [f"{row['class']} ({float(row['f1']):.3f})" for row in (lowest, second)]
    for sentence in [
        f"the probe of the pretrained backbone, is {trained['pretrained_probe_accuracy']:.3f}, "
        f"and that of the last epoch {float(adapted['val_accuracy']):.3f}",
        f"validation accuracy of {trained['probe_accuracy']:.3f}, "
        f"the last epoch {trained['val_accuracy']:.3f}",
        f"{trained['parameters_trained']:,} parameters are trained",
        f"{f1[0].capitalize()} and {f1[1]} have the lowest F1",
    ]:
        assert sentence in tutorial, sentence


def test_metrics_and_plot_data_in_git_are_those_that_the_lock_names():
    command = ["git", "ls-files", "metrics", "plots"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    in_git = [path for path in listed.stdout.splitlines() if path.endswith((".json", ".csv"))]
    assert len(in_git) == 17
    locked = locked_outputs()
    for path in in_git:
        md5 = hashlib.md5((ROOT / path).read_bytes()).hexdigest()
        assert md5 == locked[path], f"{path}: run dvc repro"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_there_is_no_command_that_no_test_runs(document):
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    run_by_tests = re.findall(r'template\(\s*"([^"]+)"', tests)
    for block in blocks(DOCUMENTS[document], "bash"):
        assert sum(command in block for command in run_by_tests) == 1, block
    for block in blocks(DOCUMENTS[document], "", "text", "console", "shell"):
        assert not re.search(r"^\$|\b(dvc|git|make|pip|python|sbatch|torchrun) [\w-]+", block), (
            block
        )


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("document", [name for name, text in DOCUMENTS.items() if commands(text)])
def test_every_command_works_as_it_is_written(finished, tmp_path, document):
    """In order, in a committed project."""
    text = DOCUMENTS[document]
    project = finished.copy(tmp_path / "p")
    (project.folder / "profiles/demo.yaml").write_text("train:\n  lr: 0.004\n")
    for name, profile in re.findall(
        r"`(profiles/\w+\.yaml)`:\n\n```yaml\n(.*?)```", text, re.DOTALL
    ):
        (project.folder / name).write_text(profile)
    project.git("add", "-A")
    project.git("commit", "-qm", "first run")
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@example.org")
    for command in commands(text):
        if command.startswith(RUN_BY_CI):
            continue
        if command.startswith("make demo"):  # a reader starts it in a fresh clone
            project.git("restore", ".")
            profile = command.partition("PROFILE=")[2]
            command = f"PYTHONPATH=src python -m vit_finetune.profiles {profile}"
        # the code of this checkout, whatever is installed
        command = re.sub(r"\bvit-finetune ", "PYTHONPATH=src python -m vit_finetune ", command)
        # with a part of the test images, each seed would draw others and none might be in common
        command = command.replace("-S seed=$seed", "-S seed=$seed -S subset.test_size=all")
        result = project.run("sh", "-c", command)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
