"""Runs by their names in git: a commit, branch, tag or experiment of DVC, or the work tree."""

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vit_finetune.core.errors import UserError
from vit_finetune.params import parse_yaml

TABLE = "plots/predictions.csv"
COLUMNS = ("index", "file", "actual", "predicted", "confidence")
LOCK = "dvc.lock"
# the stages whose parameters the predictions depend on
STAGES = ("download", "subset", "adapt", "embed", "train", "evaluate")
WORK_TREE = "work tree"
# outputs of other stages that the predictions are computed from
INPUTS = ("models/finetuned", "data/subset")
HASH = re.compile(r"[0-9a-f]{40,64}")
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")


class Prediction(NamedTuple):
    """Attributes:
    group: of the image (`data.group`); its file if it has none.
    """

    actual: str
    predicted: str
    confidence: float
    group: str

    @property
    def right(self) -> bool:
        return self.predicted == self.actual


@dataclass(frozen=True)
class Run:
    """What git has of a run.

    Attributes:
        name: as the user gave it.
        commit: empty for the work tree.
        predictions: of each test image by its file, in the order of data/subset.
        lock: dvc.lock.
    """

    name: str
    commit: str
    predictions: dict[str, Prediction]
    lock: dict[str, Any]

    @property
    def label(self) -> str:
        """The name, with the commit where they differ."""
        short = self.commit[:7]
        return (
            self.name
            if self.commit.startswith(self.name) or not short
            else f"{self.name} ({short})"
        )

    @property
    def classes(self) -> set[str]:
        """The true classes of the test images."""
        return {prediction.actual for prediction in self.predictions.values()}

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that the predictions were computed with: {"train.lr": 0.1}.

        They come from dvc.lock, since params.yaml may have been edited after the run.
        """
        params: dict[str, Any] = {}
        for name in STAGES:
            stage = self.lock["stages"].get(name, {})
            params |= flatten(stage.get("params", {}).get("params.yaml", {}))
        return params

    def md5(self, path: str) -> str:
        """The hash of an output of a stage; empty if the run does not have it."""
        for stage in self.lock["stages"].values():
            for output in stage.get("outs", []):
                if output["path"] == path:
                    return str(output["md5"])
        return ""


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} -> {"train.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The end of a git command, with what it printed, in English."""
    return subprocess.run(
        ["git", *arguments],
        capture_output=True,
        text=True,
        errors="surrogateescape",  # names of files, as `os.fsdecode` has them
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )


def require_repository(otherwise: str) -> None:
    """UserError if git has no repository here, which `otherwise` says, or refuses to read it, which
    git says itself: such as one that belongs to another user."""
    asked = git("rev-parse", "--git-dir")
    if asked.returncode == 0:
        return
    if "not a git repository" in asked.stderr:
        raise UserError(otherwise)
    raise UserError(f"git: {' '.join(asked.stderr.split())}")


def experiments(name: str) -> dict[str, str]:
    """git's references to DVC's experiments of a name, on any commit -> their commits."""
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").stdout
    commits = {}
    for line in listed.splitlines():
        reference, commit = line.split()
        experiment = EXPERIMENT.fullmatch(reference)
        if experiment and experiment[1] == name:
            commits[reference] = commit
    return commits


def find_commit(name: str) -> str:
    """The commit of a commit, branch, tag or experiment (UserError)."""
    require_repository("this folder is in no git repository, so it has no runs but the work tree's")
    known = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    commits = set(experiments(name).values())
    if HASH.fullmatch(known.stdout.strip()):
        commits.add(known.stdout.strip())
    if len(commits) == 1:
        return commits.pop()
    if commits:
        short = ", ".join(commit[:7] for commit in sorted(commits))
        raise UserError(
            f"{len(commits)} commits or experiments are called {name}; name one by its commit: "
            f"{short}"
        )
    raise UserError(
        f"there is no commit, branch, tag or experiment {name!r}; "
        "dvc exp list --all-commits lists the experiments that are left"
    )


def read_run(name: str) -> Run:
    """The run of a commit, branch, tag or experiment.

    Raises:
        UserError: there is none, it has no table of predictions, or the table is damaged.
    """
    commit = find_commit(name)
    texts = []
    for path in (TABLE, LOCK):
        command = ["git", "show", f"{commit}:./{path}"]
        shown = subprocess.run(command, capture_output=True, check=False)
        if shown.returncode:
            raise UserError(
                f"{name} has no {path}; name a commit or experiment with the results of a run"
            )
        texts.append(_decode(shown.stdout, f"{path} of {name}"))
    return _parse_run(name, commit, *texts)


def read_work_tree() -> Run:
    """The run in the work tree; UserError as of `read_run`."""
    texts = []
    for path in (TABLE, LOCK):
        if not Path(path).is_file():
            raise UserError(f"the {WORK_TREE} has no {path}; run dvc repro")
        texts.append(_decode(Path(path).read_bytes(), f"{path} of the {WORK_TREE}"))
    return _parse_run(WORK_TREE, "", *texts)


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{source} is not UTF-8 text; compute it again: dvc repro") from None


def _parse_run(name: str, commit: str, table: str, lock: str) -> Run:
    for path, text in ((TABLE, table), (LOCK, lock)):
        if re.search(r"^<<<<<<< ", text, flags=re.MULTILINE):
            raise UserError(
                f"{path} of {name} has the marks of a merge that is not settled; settle "
                "params.yaml, then: git checkout --ours dvc.lock metrics plots && dvc repro"
            )
    predictions = _parse_table(table, f"{TABLE} of {name}")
    locked = parse_yaml(lock, f"{LOCK} of {name}")
    stages = locked.get("stages") if isinstance(locked, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(one, dict) for one in stages.values()):
        raise UserError(f"{LOCK} of {name} has no stages; run dvc repro")
    run = Run(name, commit, predictions, locked)
    for dependency in stages.get("evaluate", {}).get("deps", []):
        path = dependency["path"]
        if path in INPUTS and dependency["md5"] != run.md5(path):
            raise UserError(f"{TABLE} of {name} is older than its {path}; run dvc repro")
    return run


def _parse_table(text: str, source: str) -> dict[str, Prediction]:
    reader = csv.DictReader(io.StringIO(text))
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
    if missing:
        raise UserError(f"{source} has no column {', '.join(missing)}; compute it again: dvc repro")
    predictions: dict[str, Prediction] = {}
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{source} is damaged ({error}); compute it again: dvc repro") from None
    for number, row in enumerate(rows, start=2):
        file = row["file"]
        if file in predictions:
            raise UserError(f"{file} stands twice in {source}; compute it again: dvc repro")
        try:
            confidence = float(row["confidence"])
        except (TypeError, ValueError):
            confidence = math.nan
        if not 0 <= confidence <= 1:
            raise UserError(f"row {number} of {source} is broken; compute it again: dvc repro")
        group = row.get("group") or file
        predictions[file] = Prediction(row["actual"], row["predicted"], confidence, group)
    if not predictions:
        raise UserError(f"{source} has no images; compute it again: dvc repro")
    return predictions


def cache_folder() -> Path:
    """The folder of DVC's cache."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode:
        reason = shown.stderr.strip().splitlines()[-1:]
        raise UserError(f"DVC does not name its cache: {' '.join(reason)}")
    return Path(shown.stdout.strip()).resolve()


def cached_files(run: Run, path: str, cache: Path) -> dict[str, Path]:
    """The files of a folder that a stage wrote, in DVC's cache: {"config.json": ...}; empty if any
    of them is not there."""
    listing = _in_cache(cache, run.md5(path))
    if not listing.is_file():
        return {}
    files = {
        entry["relpath"]: _in_cache(cache, entry["md5"])
        for entry in json.loads(listing.read_text(encoding="utf-8"))
    }
    return files if all(file.is_file() for file in files.values()) else {}


def _in_cache(cache: Path, md5: str) -> Path:
    return cache / "files/md5" / md5[:2] / md5[2:]
