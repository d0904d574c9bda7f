"""`python tools/reference.py`: write the tables in README.md that follow from the schemas and from dvc.yaml."""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from vit_finetune.params import SECTIONS, SEED, read_yaml, section_schema  # noqa: E402


def stage_outputs(stage: dict[str, Any]) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def rerun_by(key: str, stages: dict[str, Any]) -> list[str]:
    """Stages that a change of a key reruns, if every output changes with it: those keyed on it, and what follows."""
    found: list[str] = []
    for name, stage in stages.items():  # dvc.yaml is in data-flow order
        keyed = any(key == param or key.startswith(f"{param}.") for param in stage["params"])
        upstream = [output for earlier in found for output in stage_outputs(stages[earlier])]
        if keyed or set(upstream) & set(stage["deps"]):
            found.append(name)
    return found


def parameter_table() -> str:
    values, stages = read_yaml(ROOT / "params.yaml"), read_yaml(ROOT / "dvc.yaml")["stages"]
    lines = ["| key | default | meaning | a change reruns |", "|---|---|---|---|"]
    rows = [("seed", values["seed"], SEED["description"])]
    for section in SECTIONS:
        fields = section_schema(section).model_fields
        rows += [(f"{section}.{name}", values[section][name], field.description) for name, field in fields.items()]
    for key, value, meaning in rows:
        shown = json.dumps(value).strip('"')
        reruns = rerun_by(key, stages)
        text = "all" if reruns == list(stages) else ", ".join(reruns) or "nothing"
        lines.append(f"| `{key}` | `{shown}` | {meaning} | {text} |")
    return "\n".join(lines)


def output_table() -> str:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    lines = ["| stage | what it does | outputs |", "|---|---|---|"]
    for name, stage in stages.items():
        lines.append(f"| {name} | {stage['desc']} | {', '.join(f'`{path}`' for path in stage_outputs(stage))} |")
    return "\n".join(lines)


def replaced(text: str, name: str, table: str) -> str:
    """The text with what stands between the markers of `name` replaced."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL)


def generated(text: str) -> str:
    for name, table in (("parameters", parameter_table()), ("outputs", output_table())):
        text = replaced(text, name, table)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(generated(readme.read_text(encoding="utf-8")), encoding="utf-8")
