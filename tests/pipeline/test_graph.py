"""dvc.yaml declares exactly the code that each stage runs, and imports only point down."""

from pathlib import Path

import pytest

from tests.graph import ROOT, STAGES, closure, declared_code, dvc_stage, imported_modules, package_data
from vit_finetune.params import SECTIONS

LAYERS = {
    0: "params files runtime datasets split images families freezing attention relevance metrics figures viewer",
    1: "backbone embedding ranks",
    2: "fit faithfulness",
    3: "analysis",
    4: "gallery summary",
    5: "export predict profiles report",
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names.split()}
MODULES = sorted((ROOT / "src/vit_finetune").rglob("*.py"))


def module_name(path):
    return Path(path).relative_to("src/vit_finetune").parts[0].removesuffix(".py")


@pytest.mark.parametrize("stage", STAGES)
def test_declared_code_is_exactly_what_the_stage_imports(stage):
    code = closure(f"stages/{stage}.py") | {"stages/__init__.py"}
    assert declared_code(stage) == code | package_data(code)


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_are_in_order_so_that_a_missing_one_is_seen(stage):
    deps = dvc_stage(stage)["deps"]
    assert deps == sorted(deps)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT / "src/vit_finetune").as_posix())
def test_imports_only_point_down(path):
    own = module_name(path.relative_to(ROOT).as_posix())
    if own == "__init__":
        return
    for file in imported_modules(path.relative_to(ROOT)):
        assert file.parts[0] != "stages", f"{own} imports {file}"
        other = module_name(file)
        if other not in (own, "__init__"):
            assert LAYER_OF[other] < LAYER_OF[own], f"{own} imports {other}"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_never_import_each_other(stage):
    others = {f"stages/{name}.py" for name in STAGES if name != stage}
    assert not others & closure(f"stages/{stage}.py")


@pytest.mark.parametrize("stage", ["subset", "report"])
def test_stages_without_tensors_never_import_torch(stage, tmp_path):
    import subprocess
    import sys

    code = f"import stages.{stage}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_runtime_parameters_are_in_no_stage_and_every_other_section_is():
    keyed = {key.split(".")[0] for stage in STAGES for key in dvc_stage(stage)["params"]}
    assert keyed == {"seed", *SECTIONS} - {"runtime"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_keyed_on_the_sections_whose_schema_it_reads(stage):
    schemas = {
        Path(file).stem
        for file in imported_modules(Path(f"stages/{stage}.py"))
        if file.as_posix().startswith("src/vit_finetune/params/") and file.stem not in ("__init__", "base")
    }
    source = (ROOT / f"stages/{stage}.py").read_text()
    if "params.seed" in source:
        schemas.add("seed")
    if "params.tracked()" in source:
        schemas |= set(SECTIONS) - {"runtime"}
    assert {key.split(".")[0] for key in dvc_stage(stage)["params"]} == schemas


@pytest.mark.parametrize("stage", STAGES)
def test_json_and_csv_are_in_git_and_outs_leave_the_run_cache_on(stage):
    definition = dvc_stage(stage)
    for kind in ("metrics", "plots"):
        for entry in definition.get(kind, []):
            path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            assert (options.get("cache") is False) == path.endswith((".json", ".csv")), path
    assert all(isinstance(out, str) for out in definition.get("outs", []))  # cache: false there disables the run-cache
