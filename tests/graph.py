"""What the stages depend on, read from their source: shared by the tests of the graph and of the
rooms."""

import ast
import re
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from vit_finetune.params import KEYS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src/vit_finetune"
STAGES = tuple(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"])


def dvc_stage(name):
    return YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"][name]


def keys_of(name):
    """The keys of params.yaml that a name stands for: one key, or all of a section."""
    return {key for key in KEYS if key == name or key.startswith(f"{name}.")}


def keys_read(stage):
    """Keys of params.yaml that the script of a stage reads, but those of `runtime`: it writes
    `params.embed.storage` for one of a section, `params.embed` for all of it, and passes
    `stage.params` on for all of the file."""
    source = (ROOT / f"stages/{stage}.py").read_text()
    read = set()
    for section, name in re.findall(r"\bparams\.(\w+)(?:\.(\w+))?", source):
        read |= keys_of(f"{section}.{name}") or keys_of(section)
    if re.search(r"\bstage\.params\b[,)]", source):
        read |= set(KEYS)
    return read - keys_of("runtime")


def module_file(module):
    """Path of a project module relative to the root, or None for another's."""
    base = (
        ROOT / ("src" if module.split(".")[0] == "vit_finetune" else "") / Path(*module.split("."))
    )
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate.relative_to(ROOT)
    return None


def _runtime_imports(tree):
    """Import statements that run, wherever they stand: all but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from _runtime_imports(node)


@cache
def imported_modules(path):
    """Project files that a file imports, with the packages that this runs on the way."""
    names = set()
    for node in _runtime_imports(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        else:
            imported = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        for name in imported:
            parts = name.split(".")
            names |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    return frozenset(file for file in map(module_file, names) if file)


@cache
def closure(path):
    """A file and all project files that running it imports; empty files hold no code."""
    seen = set()
    todo = [Path(path)]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += imported_modules(current)
    return frozenset(file.as_posix() for file in seen if (ROOT / file).stat().st_size)


def declared_code(stage):
    """Files and folders of code that dvc.yaml names for a stage."""
    return {dep for dep in dvc_stage(stage)["deps"] if dep.startswith(("src/", "stages/"))}


def covers(dependency, file):
    """Whether a file is a dependency or lies in it."""
    return file == dependency or file.startswith(f"{dependency}/")


def room_of(path):
    """The room of a module: the folder of the package that it lies in, or the module itself at the
    top."""
    return Path(path).relative_to("src/vit_finetune").parts[0].removesuffix(".py")
