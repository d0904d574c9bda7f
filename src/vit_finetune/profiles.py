"""`python -m vit_finetune.profiles NAME`: run the pipeline with the overlay profiles/NAME.yaml, as a DVC experiment.

The experiment runs in a copy that DVC makes, so the work tree, params.yaml, dvc.lock and the committed results stay
as they are. Only the differing keys stand in an overlay; params.yaml gives the others.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.params import check_params, read_yaml
from vit_finetune.report.headline import headline, table

PROFILES, PAGES = Path("profiles"), Path(".run")
FOLDERS = ("VIT_DATA_DIR", "HF_HOME", "TORCH_HOME")


def flatten(overlay: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"train": {"lr": 1}} -> ("train.lr", 1)."""
    for key, value in overlay.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def merge(values: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`values` with the overlay's keys, section by section."""
    merged = dict(values)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(values.get(key), dict)
        merged[key] = {**values[key], **value} if both else value
    return merged


def read_overlay(name: str) -> dict[str, Any]:
    """The overlay by its keys, checked together with params.yaml (UserError)."""
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise UserError(f"there is no {path}; known profiles: {known or 'none'}")
    overlay = read_yaml(path)
    if not isinstance(overlay, dict):
        raise UserError(f"{path} must hold sections of params.yaml with the keys that differ")
    check_params(merge(read_yaml("params.yaml"), overlay), f"{path} over params.yaml")
    return dict(flatten(overlay))


def require_history() -> None:
    """DVC keeps an experiment beside a commit (UserError if there is none)."""
    if git("rev-parse", "--verify", "--quiet", "HEAD").returncode:
        raise UserError(
            "this folder has no git commit, which DVC needs to keep a run beside; "
            "make one: git init && git add -A && git commit -m start"
        )


def absolute_folders() -> dict[str, str]:
    """The folders that variables name, as seen from anywhere: the run has another working directory."""
    named = {name: os.environ.get(name) for name in FOLDERS}
    return {name: str(Path(folder).expanduser().resolve()) for name, folder in named.items() if folder}


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)


def forget(name: str) -> None:
    """Remove earlier experiments of that name, of this commit and of others; their stages stay in the run-cache."""
    for ref in experiment_refs(name):
        git("update-ref", "-d", ref)


def run(name: str) -> None:
    """Run a profile, then print its headline numbers and where to look."""
    overlay = read_overlay(name)
    require_history()
    forget(name)
    if git("status", "--porcelain", "--untracked-files=no").stdout:
        print(f"{name}: your uncommitted changes to tracked files are part of this run", flush=True)
    settings = [word for key, value in overlay.items() for word in ("-S", f"{key}={json.dumps(value)}")]
    command = ["dvc", "exp", "run", "--temp", "-n", name, *settings]
    done = subprocess.run(command, check=False, env={**os.environ, **absolute_folders()})
    if done.returncode:
        raise UserError("the run failed; the line above that begins with a stage's name says why")
    print("\n" + table(headline(read_metrics(name))))
    for page in ("report.html", "attention/index.html"):
        target = PAGES / name / page
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dvc", "get", "-q", "-f", ".", page, "--rev", name, "-o", target], check=True)
    commands = {
        "open": f"{PAGES / name / 'report.html'}, {PAGES / name / 'attention/index.html'}",
        "how it differs": f"dvc params diff HEAD {name}",
        "plots, side by side": f"dvc plots diff HEAD {name}",
        "into the work tree": f"dvc exp apply {name}",
    }
    print("\n" + table(list(commands.items())))


def read_metrics(name: str) -> dict[str, dict[str, Any]]:
    """Metrics of an experiment by file name: {"train": ..., "evaluation": ..., "attention": ...}."""
    ref = experiment_refs(name)[0]
    return {
        kind: json.loads(git("show", f"{ref}:metrics/{kind}.json").stdout)
        for kind in ("train", "evaluation", "attention")
    }


def experiment_refs(name: str) -> list[str]:
    """The git references under which DVC keeps experiments of that name."""
    refs = git("for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    return [ref for ref in refs if ref.endswith(f"/{name}")]


if __name__ == "__main__":
    with readable_errors("profile"):
        run(sys.argv[1] if len(sys.argv) > 1 else "demo")
