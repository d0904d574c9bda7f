"""A git repository with runs as the pipeline leaves them: a table of predictions and dvc.lock."""

import csv
import json
import subprocess
from pathlib import Path

from vit_finetune.comparison.runs import COLUMNS, LOCK, TABLE

IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]


class Repository:
    def __init__(self, folder):
        self.folder = folder
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments):
        command = ["git", *IDENTITY, *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(self, rows, **params):
        """A run in the work tree, of rows (file, actual, predicted, confidence), or with a
        group."""
        path = self.folder / TABLE
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*COLUMNS, "group"] if rows and len(rows[0]) == 5 else COLUMNS)
            writer.writerows([index, *row] for index, row in enumerate(rows))
        stages = {"train": {"params": {"params.yaml": {"train": params}}}}
        Path(self.folder / LOCK).write_text(json.dumps({"stages": stages}))  # JSON is YAML

    def commit(self, branch):
        """The work tree on a branch of its own; returns the commit."""
        self.git("checkout", "-q", "-B", branch)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", branch)
        return self.git("rev-parse", "HEAD")

    def record(self, branch, rows, **params):
        self.write(rows, **params)
        return self.commit(branch)


def table(*answers):
    """Rows of images test/0, test/1, ..., each from `true answer`, or `true answer confidence`."""
    rows = []
    for number, answer in enumerate(answers):
        actual, predicted, *confidence = answer.split()
        rows.append((f"test/{number}", actual, predicted, *(confidence or ["0.5"])))
    return rows
