"""`vit-finetune profiles NAME`: run the pipeline with the overlay profiles/NAME.yaml, as a DVC
experiment.

The experiment runs in a copy that DVC makes, so the work tree, params.yaml, dvc.lock and the
committed results stay as they are. An overlay holds only the keys that differ; params.yaml gives
the others.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from vit_finetune.comparison.runs import (
    cache_folder,
    experiments,
    flatten,
    git,
    require_repository,
)
from vit_finetune.core.environment import complete_environment
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.experiment_copies import files_below, not_in_copies
from vit_finetune.core.files import write_bytes, write_text
from vit_finetune.params import Params, check_params, read_yaml
from vit_finetune.stage import input_folders
from vit_finetune.summary import METRICS, summarise

PROFILES = Path("profiles")
RUNS = Path(".run")  # holds for each profile the pages of its last run
FOLDERS = ("VIT_DATA_DIR", "HF_HOME", "TORCH_HOME")  # variables that name folders
PAGES = ("report.html", "attention/index.html", "review.html")


def merge(values: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`values` with the overlay's keys, section by section."""
    merged = dict(values)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(values.get(key), dict)
        merged[key] = {**values[key], **value} if both else value
    return merged


def read_overlay(name: str) -> tuple[dict[str, Any], Params]:
    """{"train": {"lr": 1}, ...}, and params.yaml with these values, checked (UserError)."""
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise UserError(f"there is no {path}; known profiles: {known or 'none'}")
    overlay = read_yaml(path)
    if not isinstance(overlay, dict):
        raise UserError(f"{path} must hold sections of params.yaml with the keys that differ")
    params = check_params(merge(read_yaml("params.yaml"), overlay), f"{path} over params.yaml")
    return overlay, params


def overrides(overlay: dict[str, Any]) -> list[str]:
    """The overlay as arguments of `dvc exp run -S`.

    Raises:
        UserError: DVC would change a value on the way into params.yaml.
    """
    from dvc.utils.hydra import apply_overrides

    arguments = [f"{key}={_in_hydras_grammar(value)}" for key, value in overlay.items()]
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "params.yaml"
        shutil.copyfile("params.yaml", copy)
        apply_overrides(copy, arguments)
        arrived = flatten(read_yaml(copy))
    for key, value in overlay.items():
        if arrived[key] != value or type(arrived[key]) is not type(value):
            raise UserError(
                f"{key} is {value!r}: DVC would change it to {arrived[key]!r}; write it in "
                "params.yaml"
            )
    return arguments


def _in_hydras_grammar(value: Any) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, str):
        literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # ${ would begin an interpolation
        return QuotedString(literal, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_in_hydras_grammar, value))}]"
    return json.dumps(value)


def require_history() -> None:
    """DVC keeps an experiment with a commit of this folder, and needs a whole clone (UserError)."""
    no_commit = (
        "this folder is in no git commit, and DVC keeps a run beside one; "
        "make one: git init && git add -A && git commit -m start"
    )
    require_repository(no_commit)
    tracked = git("ls-files", "--error-unmatch", "params.yaml").returncode == 0
    committed = git("rev-parse", "--verify", "HEAD").returncode == 0
    if not tracked or not committed:
        raise UserError(no_commit)
    if git("rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        raise UserError(
            "this is a shallow clone, in which DVC cannot keep a run; git fetch --unshallow, then "
            "again"
        )


def require_tracked(params: Params) -> None:
    """UserError if a folder that the run reads has files that its copy would not have.

    Every stage checks its copy as well (`vit_finetune.stage`). But no stage runs where DVC has the
    results of a run on the same incomplete folder.
    """
    tracked = set(git("ls-files", "-z").stdout.split("\0"))
    by_dvc = {Path(name).with_suffix("") for name in tracked if name.endswith(".dvc")}
    for folder, otherwise in input_folders(params).items():
        if Path(folder).is_absolute():
            continue
        missing = []
        for name in sorted(files_below(Path(folder))):
            path = Path(folder, name)
            if path.as_posix() not in tracked and not by_dvc & {path, *path.parents}:
                missing.append(name)
        if missing:
            raise not_in_copies(folder, missing, otherwise)


def require_ascii_cache() -> None:
    """DVC cannot copy a project if the path of its cache has other characters than ASCII
    (UserError)."""
    if str(Path.cwd()).isascii():
        return
    cache = cache_folder()
    if not str(cache).isascii():
        raise UserError(
            f"DVC cannot run a profile while its cache lies in {cache}, whose path is not plain "
            "ASCII; move the project, or name another cache: dvc cache dir --local /a/path"
        )


def forget_experiments(name: str) -> None:
    for reference in experiments(name):
        git("update-ref", "-d", reference)


def require_free(name: str) -> None:
    """UserError if there is a branch or tag of that name, which git and DVC would take for the
    experiment, or an experiment that this tool did not make."""
    if git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").stdout:
        raise UserError(
            f"there is a branch or tag {name}, which DVC would take for the experiment of that "
            "name; rename the branch, or the profile's file"
        )
    record = RUNS / name / "revision"
    made_here = record.read_text("utf-8").split() if record.is_file() else []
    if not set(experiments(name).values()) <= set(made_here):
        raise UserError(
            f"there is an experiment {name} that this profile did not make; keep it under another "
            f"name first: dvc exp rename {name} NEW-NAME"
        )


def absolute_folders() -> dict[str, str]:
    """The variables that name folders, as absolute paths: the run has another working directory."""
    folders = {}
    for name in FOLDERS:
        if os.environ.get(name):
            folders[name] = str(Path(os.environ[name]).expanduser().resolve())
    return folders


def run_experiment(name: str, arguments: list[str]) -> None:
    """`dvc exp run`. An earlier experiment of that name stays until this one has succeeded.

    Raises:
        UserError: the run failed.
    """
    running = f"profile-{name}-running"
    forget_experiments(running)
    command = ["dvc", "exp", "run", "--temp", "-n", running]
    for argument in arguments:
        command += ["-S", argument]
    done = subprocess.run(command, check=False, env={**os.environ, **absolute_folders()})
    if done.returncode or not experiments(running):
        raise UserError("the run failed; DVC's and the stages' lines above say why")
    forget_experiments(name)
    subprocess.run(["dvc", "exp", "rename", "-q", running, name], check=True)
    write_text(RUNS / name / "revision", "\n".join(experiments(name).values()) + "\n")


def fetch_results(name: str) -> dict[str, dict[str, Any]]:
    """Copy the pages of an experiment into its folder in RUNS. Returns its metrics, by name."""
    import dvc.api

    (revision,) = experiments(name).values()
    # the project may be a folder of a larger repository
    prefix = git("rev-parse", "--show-prefix").stdout.strip()
    for page in PAGES:
        content = dvc.api.read(f"{prefix}{page}", rev=revision, mode="rb")
        write_bytes(RUNS / name / page, content)
    return {
        metric: json.loads(dvc.api.read(f"{prefix}metrics/{metric}.json", rev=revision))
        for metric in METRICS
    }


def run(name: str) -> None:
    """Run a profile, then print its headline numbers and where to look."""
    overlay, params = read_overlay(name)
    arguments = overrides(flatten(overlay))
    require_history()
    require_tracked(params)
    require_ascii_cache()
    require_free(name)
    if git("status", "--porcelain", "--untracked-files=no").stdout:
        print(f"{name}: your uncommitted changes to tracked files are part of this run", flush=True)
    run_experiment(name, arguments)
    metrics = fetch_results(name)
    where = [
        ("open", ", ".join(str(RUNS / name / page) for page in PAGES)),
        ("how it differs", f"dvc params diff HEAD {name}"),
        ("plots, side by side", f"dvc plots diff HEAD {name}"),
        ("mistakes, a page", f"vit-finetune mistakes mistakes.html {name}"),
        ("image by image", f"vit-finetune compare OTHER-RUN {name}"),
        ("into the work tree", f"dvc exp apply {name}"),
    ]
    print(summarise(metrics, where))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vit-finetune profiles", description=__doc__)
    parser.add_argument("name", nargs="?", default="demo", metavar="NAME", help="(%(default)s)")
    return parser


if __name__ == "__main__":
    args = make_parser().parse_args()
    with readable_errors("profile"):
        complete_environment()
        run(args.name)
