"""`vit-finetune`: it lists every tool of the package, and starts each as `python -m` does."""

import os
import re
import subprocess
import sys

import pytest

from tests.graph import PACKAGE
from tests.project import ROOT
from vit_finetune.__main__ import TOOLS

NAMES = [name for tools in TOOLS.values() for name in tools]


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_every_module_that_can_be_started_is_a_tool():
    startable = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text("utf-8")
    }
    assert startable - {"__main__"} == set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_its_help_says_what_each_tool_is_for(arguments):
    done = start("vit_finetune", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for tools in TOOLS.values():
        for name, purpose in tools.items():
            assert re.search(rf"^  {name} +{purpose}$", done.stdout, flags=re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("name", ["params", "profiles", "summary", "open"])
def test_a_tool_is_started_as_its_module_and_is_called_by_its_name(name):
    tool = start("vit_finetune", name, "--help")
    module = start(f"vit_finetune.{name}", "--help")
    assert (tool.returncode, tool.stderr) == (0, "")
    assert tool.stdout == module.stdout
    assert tool.stdout.startswith(f"usage: vit-finetune {name} [-h]")


def test_every_parser_is_called_by_the_name_of_its_tool():
    for name in NAMES:
        source = (PACKAGE / f"{name}.py").read_text("utf-8")
        assert f'prog="vit-finetune {name}"' in source


def test_arguments_and_the_exit_status_are_those_of_the_tool():
    done = start("vit_finetune", "profiles", "a", "b")
    assert done.returncode == 2
    assert done.stderr.endswith("vit-finetune profiles: error: unrecognized arguments: b\n")
    done = start("vit_finetune", "profiles", "absent")
    assert done.returncode == 1
    assert done.stderr.startswith("profile: there is no profiles/absent.yaml; known profiles: demo")


def test_a_name_that_is_no_tool_is_answered_with_those_there_are():
    done = start("vit_finetune", "train")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"vit-finetune: train is not a tool; the tools are {', '.join(NAMES)}\n"


def test_its_version_is_that_of_the_project():
    written = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert start("vit_finetune", "--version").stdout == f"vit-finetune {written[1]}\n"
