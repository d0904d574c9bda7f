"""params.yaml: read whole and checked whole, before any work starts.

Each section's schema is a module of its own, named like the section. A stage imports the sections
that it uses, so they are the code it depends on. The others are imported by name here, to check
that the file is in order: they can stop a stage but never change what it computes, and a new key in
one does not rerun the others' stages.
"""

import difflib
import importlib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from vit_finetune.core.errors import UserError
from vit_finetune.params.base import Section

if TYPE_CHECKING:
    from vit_finetune.params.runtime import Runtime

SECTIONS = (
    "data",
    "subset",
    "model",
    "adapt",
    "embed",
    "freeze",
    "train",
    "evaluate",
    "attention",
    "report",
    "runtime",
)
MAX_SEED = 2**32 - 1  # what numpy and scikit-learn take
SEED = {
    "type": "integer",
    "minimum": 0,
    "maximum": MAX_SEED,
    "description": "where all random numbers start from",
}

SectionT = TypeVar("SectionT", bound=Section)


class Params:
    """A params.yaml that passed every check. `runtime` is no stage's dependency: it changes how
    fast, not what."""

    def __init__(self, seed: int, sections: dict[str, Section]) -> None:
        self.seed = seed
        self.runtime = cast("Runtime", sections["runtime"])
        self._sections = sections

    def section(self, schema: type[SectionT]) -> SectionT:
        """The block that a schema describes, e.g. `params.section(Train).lr`."""
        section = self._sections[schema.__name__.lower()]
        assert isinstance(section, schema)
        return section

    def tracked(self) -> dict[str, dict[str, Any]]:
        """Every section but `runtime` as plain values."""
        return {
            name: block.model_dump() for name, block in self._sections.items() if name != "runtime"
        }


def read_params(path: str | Path = "params.yaml") -> Params:
    """Read and check the whole file.

    Raises:
        UserError: one line for each thing wrong: the key, what it is, what is allowed.
    """
    return check_params(read_yaml(path), str(path))


def read_yaml(path: str | Path) -> Any:
    """Plain values of a YAML 1.2 file, read as DVC reads it: `1e-4` is a number, `yes` is a word
    (UserError)."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is not here; run from the root of the project") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text from byte {error.start} on; save it as UTF-8"
        ) from None
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = place + (error.problem or error.context or "unreadable")
        if "'\\t'" in reason:
            reason += "; indent with spaces, not tabs"
    # an odd tag, date or depth also gets KeyError, RecursionError, ... out of the parser
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    raise UserError(f"{path} is not valid YAML: {_one_line(reason)}")


def check_params(values: Any, source: str = "params.yaml") -> Params:
    """Check plain values against every section's schema and the rules between sections
    (UserError)."""
    known = ["seed", *SECTIONS]
    if not isinstance(values, dict):
        raise UserError(
            f"{source} is {'empty' if values is None else _show(values)}: it must hold {', '.join(known)}"
        )
    problems = [_unknown("", key, known) for key in values if key not in known]
    seed = values.get("seed")
    if "seed" not in values:
        problems.append(f"seed is missing; it is: {SEED['description']}")
    elif type(seed) is not int or not 0 <= seed <= MAX_SEED:
        problems.append(_wrong("seed", seed, SEED))
    sections: dict[str, Section] = {}
    for name in SECTIONS:
        schema = section_schema(name)
        fields = list(schema.model_fields)
        block = values.get(name)
        if not isinstance(block, dict):
            found = f"is {_show(block)}" if name in values else "is missing"
            problems.append(f"{name} {found}: it must hold {', '.join(fields)}")
            continue
        problems += [_unknown(f"{name}.", key, fields) for key in block if key not in fields]
        try:
            sections[name] = schema.model_validate(
                {key: block[key] for key in fields if key in block}
            )
        except ValidationError as error:
            rules = schema.model_json_schema()["properties"]
            # a union has several
            for key in dict.fromkeys(str(detail["loc"][0]) for detail in error.errors()):
                if key in block:
                    problems.append(_wrong(f"{name}.{key}", block[key], rules[key]))
                else:
                    problems.append(f"{name}.{key} is missing; it is: {rules[key]['description']}")
    if not problems:
        problems = importlib.import_module("vit_finetune.params.rules").broken(sections)
    if problems:
        raise UserError("\n".join(f"{source}: {problem}" for problem in problems))
    return Params(cast(int, seed), sections)


def section_schema(name: str) -> type[Section]:
    """The schema class of a section: `train` -> vit_finetune.params.train.Train."""
    return getattr(importlib.import_module(f"vit_finetune.params.{name}"), name.capitalize())


def _unknown(prefix: str, key: Any, known: list[str]) -> str:
    name = key if isinstance(key, str) and re.fullmatch(r"[\w.-]{1,40}", key) else _show(key)
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
    return f"{prefix}{name} is not a known key; {hint}"


def _wrong(key: str, value: Any, rule: dict[str, Any]) -> str:
    """What is there and what is allowed, by the key's JSON schema."""
    kinds = {option["type"] for option in rule.get("anyOf", [rule])}
    text = ", which is text" if isinstance(value, str) and kinds - {"string", "null"} else ""
    return f"{key} is {_show(value)}{text}: use {_allowed(rule)}"


def _allowed(rule: dict[str, Any]) -> str:
    """A JSON schema in words: "a number above 0, up to 10, or `null`"."""
    if "anyOf" in rule:
        return ", or ".join(_allowed(option) for option in rule["anyOf"])
    if rule["type"] in ("integer", "number"):
        most = " to" if "minimum" in rule else ", at most"
        words = {
            "minimum": " from",
            "exclusiveMinimum": " above",
            "maximum": most,
            "exclusiveMaximum": ", below",
        }
        limits = "".join(f"{word} {rule[name]}" for name, word in words.items() if name in rule)
        return f"a {'whole ' if rule['type'] == 'integer' else ''}number{limits}"
    if rule["type"] == "array":
        return "a list of texts"
    fixed = {
        "boolean": ["true", "false"],
        "null": ["null"],
        "string": [rule["const"]] if "const" in rule else None,
    }
    options = [f"`{option}`" for option in rule.get("enum") or fixed[rule["type"]] or []]
    return (
        " or ".join(filter(None, [", ".join(options[:-1]), *options[-1:]]))
        or "text that is not empty"
    )


def _show(value: Any) -> str:
    """A value of a YAML file, short and on one line."""
    if isinstance(value, dict):
        return "a block of keys"
    if isinstance(value, list | tuple | set):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 256:
        return "a huge number"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    return _one_line(repr(value) if isinstance(value, str) else str(value))


def _one_line(text: str) -> str:
    """Printable and not endless, whatever was in the file."""
    plain = (
        " ".join(text.split()).encode("unicode_escape").decode() if not text.isprintable() else text
    )
    return plain if len(plain) <= 200 else plain[:200] + "..."
