"""A copy of this project in which DVC really runs, on a configuration that takes seconds."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent

TINY = {
    "data.name": "digits",
    "subset.train_size": 60,
    "subset.val_size": 30,
    "subset.test_size": 40,
    "model.name": "local-dir:pretrained/tiny",
    "model.precision": "float32",  # the same on every machine
    "adapt.epochs": 1,
    "adapt.min_steps": 0,
    "adapt.batch_size": 20,
    "freeze.trainable_blocks": 1,
    "train.epochs": 2,
    "train.min_steps": 0,
    "train.batch_size": 20,
    "train.probe_c": 1.0,  # so that a random network predicts with some confidence
    "attention.gallery": 4,
    "attention.sample": 8,
}

TINY_MODEL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}


def save_tiny_model(folder, architecture="vit_tiny_patch16_224"):
    """A small ViT of random weights (3 blocks, 16 patches), as timm saves it."""
    import timm
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=0, **TINY_MODEL)
    # norms, biases and position embeddings start at 0 or 1: move them
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


class Project:
    """A work tree with its own git, DVC cache and parameters.

    `python` is a folder with the `python` that stages start with: the warm one of the test run, or
    this interpreter's.
    """

    python = Path(sys.executable).parent

    def __init__(self, folder):
        self.folder = folder

    @classmethod
    def create(cls, folder, model_folder):
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        for name in subprocess.run(
            listed, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0"):
            if (
                name
                and (ROOT / name).is_file()
                and not name.startswith(("metrics/", "plots/", "dvc.lock", "pretrained/"))
            ):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        for name in (
            "data/.gitignore",
            "models/.gitignore",
            "plots/.gitignore",
            "pretrained/.gitignore",
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        for name in ("tiny", "other"):
            shutil.copytree(model_folder, folder / "pretrained" / name)
        project = cls(folder)
        for command in (
            ["init", "-q"],
            ["add", "-A"],
            ["add", "-f", "pretrained"],
            ["commit", "-qm", "start"],
        ):
            project.git(*command)
        project.set(**TINY)
        return project

    def copy(self, folder):
        """A twin with its own files and cache."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Project(folder)

    def git(self, *arguments):
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def set(self, **keys):
        """Edit params.yaml: `project.set(**{"train.lr": 0.1})`."""
        yaml = YAML()
        values = yaml.load((self.folder / "params.yaml").read_text())
        for key, value in keys.items():
            *sections, name = key.split(".")
            place = values
            for section in sections:
                place = place[section]
            place[name] = value
        with (self.folder / "params.yaml").open("w") as file:
            yaml.dump(values, file)

    def start(self, *command, env=None, real=True):
        """A command as a user would type it in the activated environment, in a process group of its
        own.

        Args:
            real: stages start with a new interpreter; else with the warm one
                (tests/warm_python.py).
        """
        own = Path(sys.executable).parent
        path = os.pathsep.join(map(str, (own if real else self.python, own, os.environ["PATH"])))
        variables = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        variables.pop("PYTHONPATH", None)
        return subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=variables,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *command, env=None, real=False):
        """That command's exit status and output, when it has ended."""
        process = self.start(*command, env=env, real=real)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def processes(self, stage=None):
        """Processes that run in this project's folder, or those of a stage."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                here = process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(
                    self.folder
                )
                if here and (stage is None or process.cmdline()[1:4] == ["-m", "stages", stage]):
                    found.append(process)
        return found

    def repro(self, *arguments, env=None, real=False):
        """`dvc repro`, which must succeed: the stages that ran, in order."""
        result = self.run("dvc", "repro", *arguments, env=env, real=real)
        assert result.returncode == 0, result.stdout + result.stderr
        return stages_run(result.stdout)

    def outputs(self):
        """Bytes of every output, and of dvc.lock."""
        folders = ("data", "models", "metrics", "plots", "attention", "versions")
        files = [
            path for name in folders for path in (self.folder / name).rglob("*") if path.is_file()
        ]
        files += [self.folder / "report.html", self.folder / "dvc.lock"]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}


def stages_run(output):
    return re.findall(r"^Running stage '(\w+)'", output, flags=re.MULTILINE)
