"""What the documents say follows from the code, and every command in them works."""

import ast
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

README = DOCUMENTS["README.md"]
REFERENCE = DOCUMENTS["docs/reference.md"]


def test_generated_tables_are_current():
    for name in reference.DOCUMENTS:
        assert reference.generated(DOCUMENTS[name]) == DOCUMENTS[name], (
            "run: python tools/reference.py"
        )
    keys = re.findall(r"^\| `([\w.]+)` \| `", REFERENCE, flags=re.MULTILINE)
    assert "train.lr" in keys
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "metrics").glob("*.json")), ids=lambda path: path.name
)
def test_every_key_of_a_metrics_file_is_documented(path):
    section = REFERENCE.split(f"### metrics/{path.name}")[1].split("###")[0]
    keys = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(json.loads(path.read_text())) | {"warning"} == set(
        re.findall(r"`(\w+)`", " ".join(keys))
    ) | {"warning"}


@pytest.mark.parametrize("path", sorted((ROOT / "plots").glob("*.csv")), ids=lambda path: path.name)
def test_every_column_of_plot_data_is_documented(path):
    lines = REFERENCE.split("### plots/")[1].splitlines()
    row = next(line for line in lines if line.startswith("| ") and f"`plots/{path.name}`" in line)
    with path.open() as file:
        columns = next(csv.reader(file))
    documented = re.findall(r"`(\w+)`", row.split("|")[2])
    ends = {f"{name}{end}" for name in columns for end in ("_low", "_high")}
    assert {name for name in columns if name not in ends or name in documented} == set(documented)


def test_the_pictures_of_the_tutorial_are_all_shown_and_of_the_committed_run():
    shown = re.findall(r"\]\(tutorial/(\w+)\.webp\)", DOCUMENTS["docs/tutorial.md"])
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "docs/tutorial").glob("*.webp"))
    sources = json.loads((ROOT / "docs/tutorial/sources.json").read_text())
    assert set(shown) == {*sources, "tokens"}
    stages = read_yaml(ROOT / "dvc.lock")["stages"].values()
    locked = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    for of_picture in sources.values():
        for path, md5 in of_picture.items():
            assert locked[path] == md5, "run: python tools/pictures.py"


def test_every_output_of_the_pipeline_is_described():
    for stage in read_yaml(ROOT / "dvc.yaml")["stages"].values():
        for output in reference.stage_outputs(stage):
            assert f"`{output}`" in REFERENCE, output


def test_make_targets_that_the_documents_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(
        re.findall(r"(?:^|`)make ([a-z]+)", "\n".join(DOCUMENTS.values()), flags=re.MULTILINE)
    )
    assert {"demo", "repro", "test", "setup"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_links_that_a_document_names_exist(document):
    text = DOCUMENTS[document]
    for name in re.findall(
        r"`((?:profiles|pretrained|tools|benchmarks|docs|src|stages|tests)/[\w./-]+)`", text
    ):
        # the reader writes them
        if name not in ("profiles/name.yaml", "profiles/quick.yaml", "pretrained/mine.dvc"):
            assert (ROOT / name.rstrip("/")).exists(), name
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / document).parent / target).exists(), target


def names_defined_in(path):
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def test_functions_and_classes_that_a_document_names_are_where_it_says():
    found = 0
    for document, text in [
        *DOCUMENTS.items(),
        ("CONTRIBUTING.md", (ROOT / "CONTRIBUTING.md").read_text("utf-8")),
    ]:
        for names, file in re.findall(
            r"((?:`\w+`(?:, | and |; )*)+) in\s+`(src/[\w/]+\.py)`", text
        ):
            for name in re.findall(r"`(\w+)`", names):
                found += 1
                assert name in names_defined_in(ROOT / file), f"{document}: {name} in {file}"
    assert found > 20


def test_the_readme_and_contributing_have_a_line_for_each_room():
    rooms = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= set(re.findall(r"^  (\w+/) ", README, flags=re.MULTILINE))
    table = re.findall(
        r"^\| `(\w+/)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), flags=re.MULTILINE
    )
    assert rooms == set(table)


def test_the_results_are_those_of_the_committed_run():
    evaluation = json.loads((ROOT / "metrics/evaluation.json").read_text())
    train = json.loads((ROOT / "metrics/train.json").read_text())
    low, high = evaluation["accuracy_ci95"]
    assert f"{evaluation['accuracy']:.4f}" in README
    assert f"[{low:.4f}, {high:.4f}]" in README
    assert f"{train['parameters_trained']:,}" in README


def test_the_tutorial_reads_the_attention_of_the_committed_run():
    with (ROOT / "plots/attention_blocks.csv").open() as file:
        blocks = list(csv.DictReader(file))
    tutorial = " ".join(DOCUMENTS["docs/tutorial.md"].split())
    for key, block, digits in (
        ("prefix_mass", 0, 3), ("prefix_mass", 11, 3), ("distance", 0, 0), ("distance", 11, 0),
        ("distance_change", 8, 1),
    ):  # fmt: skip
        mean, low, high = (
            f"{float(blocks[block][f'{key}{end}']):.{digits}f}" for end in ("", "_low", "_high")
        )
        assert f"{mean} [{low}, {high}]" in tutorial, key
    assert all(float(row["distance_change"]) for row in blocks)
    assert "All blocks were adapted" in tutorial


def test_metrics_and_plot_data_in_git_are_those_that_the_lock_names():
    stages = read_yaml(ROOT / "dvc.lock")["stages"]
    outputs = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    listed = subprocess.run(
        ["git", "ls-files", "metrics", "plots"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    in_git = [path for path in listed.stdout.splitlines() if path.endswith((".json", ".csv"))]
    assert len(in_git) == 14
    for path in in_git:
        assert hashlib.md5((ROOT / path).read_bytes()).hexdigest() == outputs[path], (
            f"{path}: run dvc repro"
        )


def test_there_is_no_command_that_no_test_runs():
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    run = re.findall(r'template\(\s*"([^"]+)"', tests)
    for name, text in DOCUMENTS.items():
        for block in blocks(text, "bash"):
            assert sum(command in block for command in run) == 1, f"{name}: {block}"
        for block in blocks(text, "", "text", "console", "shell"):
            assert not re.search(
                r"^\$|\b(dvc|git|make|pip|python|sbatch|torchrun) [\w-]+", block
            ), f"{name}: {block}"


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("document", [name for name, text in DOCUMENTS.items() if commands(text)])
def test_every_command_works_as_it_is_written(finished, tmp_path, document):
    """In order, in a committed project. Setup, tests and the demo themselves are what CI runs."""
    project = finished.copy(tmp_path / "p")
    (project.folder / "profiles/demo.yaml").write_text("train:\n  lr: 0.004\n")
    for name, profile in re.findall(
        r"`(profiles/\w+\.yaml)`:\n\n```yaml\n(.*?)```", DOCUMENTS[document], re.DOTALL
    ):
        (project.folder / name).write_text(profile)
    project.git("add", "-A")
    project.git("commit", "-qm", "first run")
    for name, value in (("user.name", "Test"), ("user.email", "test@example.org")):
        project.git("config", name, value)
    for line in commands(DOCUMENTS[document]):
        if line.startswith(
            ("make setup", "make repro", "make test", "make lint", "bash .ci/run", ". .venv")
        ):
            continue
        if line.startswith("make demo"):  # a reader starts it in a fresh clone
            project.git("restore", ".")
            line = f"PYTHONPATH=src python -m vit_finetune.profiles {line.partition('PROFILE=')[2]}"
        result = project.run("sh", "-c", line)
        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
