"""`python -m vit_finetune.profiles NAME`: run the pipeline with the overlay profiles/NAME.yaml, as
a DVC experiment.

The experiment runs in a copy that DVC makes, so the work tree, params.yaml, dvc.lock and the
committed results stay as they are. Only the differing keys stand in an overlay; params.yaml gives
the others.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import write_bytes, write_text
from vit_finetune.params import check_params, read_yaml
from vit_finetune.report.headline import collect_warnings, headline, table

PROFILES, RUNS = Path("profiles"), Path(".run")
RUNNING = "profile-{}-running"  # the experiment's name until it has succeeded
FOLDERS = ("VIT_DATA_DIR", "HF_HOME", "TORCH_HOME")
PAGES = ("report.html", "attention/index.html")


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


def overrides(overlay: dict[str, Any]) -> list[str]:
    """The overlay as arguments of `dvc exp run -S`, in Hydra's grammar.

    Raises:
        UserError: a value would not arrive as it is in the overlay.
    """
    from dvc.utils.hydra import apply_overrides

    words = [f"{key}={_hydra(value)}" for key, value in overlay.items()]
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "params.yaml"
        for word, (key, value) in zip(words, overlay.items(), strict=True):
            shutil.copyfile("params.yaml", copy)
            apply_overrides(copy, [word])
            arrived = dict(flatten(read_yaml(copy)))[key]
            if arrived != value or type(arrived) is not type(value):
                raise UserError(
                    f"{key} is {value!r}: DVC would change it to {arrived!r}; write it in params.yaml"
                )
    return words


def _hydra(value: Any) -> str:
    """A value in Hydra's grammar, where backslashes count only before a quote, before `${` and at
    the end."""
    if isinstance(value, str):
        literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
        return "'" + re.sub(r"(\\+)$", r"\1\1", re.sub(r"(\\*)'", r"\1\1\\'", literal)) + "'"
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    return json.dumps(value)


def require_history() -> None:
    """DVC keeps an experiment beside a commit of this folder, in a whole clone (UserError
    without)."""
    if (
        git("ls-files", "--error-unmatch", "params.yaml").returncode
        or git("rev-parse", "--verify", "HEAD").returncode
    ):
        raise UserError(
            "this folder is in no git commit, and DVC keeps a run beside one; "
            "make one: git init && git add -A && git commit -m start"
        )
    if git("rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        raise UserError(
            "this is a shallow clone, in which DVC cannot keep a run; git fetch --unshallow, then again"
        )


def require_ascii_cache() -> None:
    """DVC fails to copy a project whose cache has a path with other characters than ASCII
    (UserError)."""
    if str(Path.cwd()).isascii():
        return
    cache = subprocess.run(
        ["dvc", "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not str(Path(cache).resolve()).isascii():
        raise UserError(
            f"DVC cannot run a profile while its cache lies in {cache}, whose path is not plain ASCII; "
            "move the project, or name another cache: dvc cache dir --local /a/path"
        )


def absolute_folders() -> dict[str, str]:
    """The folders that variables name, as seen from anywhere: the run has another working
    directory."""
    named = {name: os.environ.get(name) for name in FOLDERS}
    return {
        name: str(Path(folder).expanduser().resolve()) for name, folder in named.items() if folder
    }


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)


def experiments(name: str) -> dict[str, str]:
    """References under which DVC keeps experiments of that name, of any commit, and what they refer
    to."""
    lines = git(
        "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps"
    ).stdout.splitlines()
    return {ref: sha for ref, sha in map(str.split, lines) if ref.endswith(f"/{name}")}


def require_free(name: str) -> None:
    """UserError if there is an experiment of that name that this tool did not make."""
    made = RUNS / name / "revision"
    own = made.read_text("utf-8").split() if made.is_file() else []
    if any(sha not in own for sha in experiments(name).values()):
        raise UserError(
            f"there is an experiment {name} that this profile did not make; keep it under another name first: "
            f"dvc exp rename {name} NEW-NAME"
        )


def run(name: str) -> None:
    """Run a profile, then print its headline numbers and where to look."""
    words = [word for override in overrides(read_overlay(name)) for word in ("-S", override)]
    require_history()
    require_ascii_cache()
    require_free(name)
    if git("status", "--porcelain", "--untracked-files=no").stdout:
        print(f"{name}: your uncommitted changes to tracked files are part of this run", flush=True)
    running = RUNNING.format(name)
    for ref in experiments(running):
        git("update-ref", "-d", ref)
    command = ["dvc", "exp", "run", "--temp", "-n", running, *words]
    done = subprocess.run(command, check=False, env={**os.environ, **absolute_folders()})
    if done.returncode or not experiments(running):
        raise UserError("the run failed; DVC's and the stages' lines above say why")
    for ref in experiments(name):
        git("update-ref", "-d", ref)
    subprocess.run(["dvc", "exp", "rename", "-q", running, name], check=True)
    write_text(RUNS / name / "revision", "\n".join(experiments(name).values()) + "\n")
    report(name)


def report(name: str) -> None:
    """Fetch the pages of an experiment, and print its headline numbers and what to do with it."""
    import dvc.api

    # the project may be a folder of a larger repository
    prefix = git("rev-parse", "--show-prefix").stdout.strip()
    metrics = {
        kind: json.loads(dvc.api.read(f"{prefix}metrics/{kind}.json", rev=name))
        for kind in ("train", "evaluation", "attention")
    }
    for page in PAGES:
        write_bytes(RUNS / name / page, dvc.api.read(f"{prefix}{page}", rev=name, mode="rb"))
    commands = {
        "open": ", ".join(str(RUNS / name / page) for page in PAGES),
        "how it differs": f"dvc params diff HEAD {name}",
        "plots, side by side": f"dvc plots diff HEAD {name}",
        "into the work tree": f"dvc exp apply {name}",
    }
    signs = "".join(f"warning: {sign}\n" for sign in collect_warnings(metrics))
    print(f"\n{table(headline(metrics))}\n{signs}\n{table(list(commands.items()))}")


if __name__ == "__main__":
    with readable_errors("profile"):
        run(sys.argv[1] if len(sys.argv) > 1 else "demo")
