"""Edited copies of the project's params.yaml, and what reading them gives."""

from operator import attrgetter
from pathlib import Path

import pytest

from tests.project import ROOT
from vit_finetune.core.errors import UserError
from vit_finetune.params import read_params, read_yaml

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
VALUES = read_yaml(ROOT / "params.yaml")


def changed(*edits, text=TEXT):
    """The project's file with `name: text` in place of a key or a whole section; None takes it
    out."""
    lines = text.splitlines()
    for key, value in edits:
        section, _, name = key.rpartition(".")
        start = lines.index(f"{section}:") + 1 if section else 0
        indent = "  " if section else ""
        at = next(i for i in range(start, len(lines)) if lines[i].startswith(f"{indent}{name}:"))
        end = at + 1
        while end < len(lines) and lines[end].startswith(f"{indent}  "):
            end += 1
        lines[at:end] = [] if value is None else [f"{indent}{name}: {value}".rstrip()]
    return "\n".join(lines) + "\n"


def read(text):
    """What the stages read when params.yaml holds this text (str or bytes)."""
    Path("params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_params()


def complaint(text):
    """What the UserError says when params.yaml holds this text."""
    with pytest.raises(UserError, match=r"^params\.yaml") as caught:
        read(text)
    return str(caught.value)


def value_of(params, key):
    """Of `seed`, or of `section.name`."""
    return attrgetter(key)(params)
