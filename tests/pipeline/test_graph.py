"""dvc.yaml names exactly the rooms that each stage uses, and rooms import only downwards."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter

import pytest

from tests.graph import (
    PACKAGE,
    ROOT,
    STAGES,
    closure,
    covers,
    declared_code,
    dvc_stage,
    imported_modules,
    keys_of,
    keys_read,
    module_file,
    room_of,
)
from vit_finetune.params import SECTIONS

# Refuses values, which DVC compares: no dependency, except of the report, which writes the shipped
# values.
SCHEMAS = "src/vit_finetune/params.py"

ROOMS = {  # room: the rooms that it may import
    "command_line": set(),
    "core": set(),
    "params": {"core"},
    "stage": {"core", "params"},
    "calibration": set(),
    "intervals": set(),
    "pages": set(),
    "style": set(),
    "charts": set(),
    "verdict": {"intervals"},
    "data": {"core", "params", "style"},
    "model": {"core"},
    "activations": {"core", "model"},
    "training": {"core", "params", "calibration", "intervals", "model", "activations"},
    "evaluation": {"core", "calibration", "intervals", "style", "model", "activations"},
    "attention": {"core", "intervals", "pages", "style", "verdict", "model"},
    "review": {"core", "data", "pages", "style"},
    "report": {"core", "params", "intervals", "pages", "style", "verdict"},
    "prediction": {"core", "data", "model", "pages", "style", "verdict", "attention"},
    "classifier_page": {"core", "pages"},
    "comparison": {
        "command_line",
        "core",
        "params",
        "intervals",
        "data",
        "attention",
        "pages",
        "prediction",
    },
}
# read to stop or to warn before the work, not to compute
CHECKED_EARLY = {"adapt": keys_of("freeze")}
OWN = {"vit_finetune", "stages", "tests"}  # packages of this project
# for the command line; they may import any room
TOOLS = {
    "__main__",
    "predict",
    "export",
    "keep",
    "publish",
    "profiles",
    "summary",
    "open",
    "compare",
    "mistakes",
    "own_images",
}
MODULES = sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_imports_lies_in_what_it_names_and_nothing_is_named_for_nothing(stage):
    code = closure(f"stages/{stage}.py") | {"stages/__init__.py"}
    if stage != "report":
        code -= {SCHEMAS}
    declared = declared_code(stage)
    assert [
        file
        for file in sorted(code)
        if not any(covers(dependency, file) for dependency in declared)
    ] == []
    assert [name for name in sorted(declared) if not any(covers(name, file) for file in code)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_are_sorted(stage):
    deps = dvc_stage(stage)["deps"]
    assert deps == sorted(deps)


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to("src/vit_finetune").as_posix()
)
def test_rooms_import_only_downwards(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ROOMS or room in TOOLS, f"{room} is a new room: say in ROOMS what it may import"
    allowed = {room, "__init__"} | ({*ROOMS, *TOOLS} if room in TOOLS else ROOMS[room])
    for file in imported_modules(path):
        assert file.parts[0] == "src", f"{path} imports {file}"
        assert room_of(file) in allowed, f"{path} imports {file}"


def test_no_modules_import_each_other_in_a_circle():
    packages = {path for path in MODULES if path.name == "__init__.py"}
    graph = {path: imported_modules(path) - packages - {path} for path in MODULES}
    assert len([*TopologicalSorter(graph).static_order()]) >= len(MODULES) - len(packages)


SCRIPTS = sorted(
    path.relative_to(ROOT)
    for folder in ("benchmarks", "tools")
    for path in (ROOT / folder).rglob("*.py")
)


def names_used(tree):
    """Module and name of each import from the project, and of each attribute of a module that is
    imported so."""
    used = []
    sources = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OWN:
            for alias in node.names:
                used.append((node.module, alias.name))
                sources[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            source = sources.get(node.value.id)
            if source and module_file(source):
                used.append((source, node.attr))
    return used


@cache
def names_defined(module):
    """Names at the top of a module, what it imports included."""
    path = module_file(module)
    assert path, f"there is no module {module}"
    names = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            parts = ast.walk(node)
            names |= {part.id for part in parts if isinstance(part, ast.Name)}
    return names


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_what_benchmarks_and_tools_use_of_the_project_is_there(path):
    """No stage and no other test imports most of them."""
    for module, name in names_used(ast.parse((ROOT / path).read_text())):
        there = name in names_defined(module) or module_file(f"{module}.{name}")
        assert there, f"{path}: {module} has no {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_never_import_each_other(stage):
    others = {f"stages/{name}.py" for name in STAGES if name != stage}
    assert not others & closure(f"stages/{stage}.py")


def test_stages_and_tools_that_need_no_tensors_never_import_torch():
    names = [
        "stages.__main__",
        "stages.subset",
        "stages.review",
        "stages.report",
        "vit_finetune.profiles",
        "vit_finetune.summary",
        "vit_finetune.mistakes",
        "vit_finetune.open",
        "vit_finetune.__main__",
    ]
    script = "import importlib, sys; sys.path.insert(0, 'src')\n" + "\n".join(
        f"importlib.import_module({name!r}); assert 'torch' not in sys.modules, {name!r}"
        for name in names
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_runtime_parameters_key_no_stage_and_every_other_section_keys_one():
    keyed = {key.split(".")[0] for stage in STAGES for key in dvc_stage(stage)["params"]}
    assert keyed == {"seed", *SECTIONS} - {"runtime"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_keyed_on_exactly_what_its_script_reads(stage):
    keyed = [key for name in dvc_stage(stage)["params"] for key in keys_of(name)]
    assert sorted(keyed) == sorted(keys_read(stage) - CHECKED_EARLY.get(stage, set()))


def test_the_schemas_that_no_stage_depends_on_compute_nothing():
    """They hold fields and their configuration, no property, method or validator."""
    tree = ast.parse((ROOT / SCHEMAS).read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {"Params", "Training"} <= {node.name for node in classes}
    for node in classes:
        _, *statements = node.body  # after the docstring
        for statement in statements:
            is_field = isinstance(statement, ast.AnnAssign)
            assert is_field or ast.unparse(statement).startswith("model_config"), node.name


@pytest.mark.parametrize("stage", STAGES)
def test_json_and_csv_are_in_git_and_outs_leave_the_run_cache_on(stage):
    definition = dvc_stage(stage)
    for kind in ("metrics", "plots"):
        for entry in definition.get(kind, []):
            path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            assert (options.get("cache") is False) == path.endswith((".json", ".csv")), path
    # cache: false there disables the run-cache
    assert all(isinstance(out, str) for out in definition.get("outs", []))
