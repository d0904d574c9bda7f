"""What a container or a shell lacks is completed; everything else is left as it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT
from vit_finetune.core import environment
from vit_finetune.core.environment import complete_environment

OWN = str(Path(sys.executable).parent)
SET = ("HOME", "USER", "MPLCONFIGDIR", "TMPDIR", "DVC_SITE_CACHE_DIR")


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A function that completes an environment of these variables in an empty folder, where no
    folder but those below it can be written, and gives what it became."""

    def complete(writable=(), **variables):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(os, "environ", dict(variables))
        can = [tmp_path, *map(Path, writable)]
        monkeypatch.setattr(
            environment, "_is_writable", lambda folder: any(map(folder.is_relative_to, can))
        )
        complete_environment()
        return os.environ

    return complete


ORDINARY = {"PATH": f"{OWN}:/usr/bin", "USER": "ada"}


def test_where_nothing_is_missing_nothing_is_set(found, tmp_path):
    before = {**ORDINARY, "HOME": str(tmp_path)}
    assert found(writable=["/tmp", "/var/tmp"], **before) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("home", ["/", "/nonexistent"])
def test_without_a_home_one_in_the_project_is_used(found, tmp_path, home):
    after = found(writable=["/tmp", "/var/tmp"], **ORDINARY, HOME=home)
    assert after["HOME"] == str(tmp_path / ".home")
    assert "MPLCONFIGDIR" not in after
    assert (tmp_path / ".home").is_dir()


def test_a_home_that_can_only_be_read_stays_with_its_downloads_and_matplotlib_writes_elsewhere(
    found, tmp_path
):
    after = found(writable=["/tmp", "/var/tmp"], **ORDINARY, HOME="/usr")
    assert after["HOME"] == "/usr"
    assert after["MPLCONFIGDIR"] == str(tmp_path / ".home/matplotlib")


def test_folders_for_temporary_files_that_cannot_be_written_are_replaced(found, tmp_path):
    after = found(**ORDINARY, HOME=str(tmp_path))
    assert after["TMPDIR"] == str(tmp_path / ".home/tmp")
    assert after["DVC_SITE_CACHE_DIR"] == str(tmp_path / ".home/dvc")
    for name in ("TMPDIR", "DVC_SITE_CACHE_DIR"):
        assert Path(after[name]).is_dir()


def test_what_the_user_has_named_is_kept(found, tmp_path):
    named = {"TMPDIR": str(tmp_path), "DVC_SITE_CACHE_DIR": "/x", "MPLCONFIGDIR": "/y"}
    after = found(**ORDINARY, **named, HOME="/usr")
    assert named.items() <= after.items()


def test_an_experiment_in_a_copy_uses_the_folder_of_its_project(monkeypatch, tmp_path):
    copy = tmp_path / "p/.dvc/tmp/exps/standalone/tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setattr(os, "environ", {**ORDINARY, "HOME": "/nonexistent"})
    complete_environment()
    assert os.environ["HOME"] == str(tmp_path / "p/.home")


COMPLETED = (sys.executable, "-m", "vit_finetune.core.environment")
DVC = (sys.executable, "-m", "dvc")
BARE = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src")}


def test_a_command_runs_with_the_programs_of_this_environment_whatever_path_says(tmp_path):
    show = "import sys; print(sys.executable)"
    done = subprocess.run(
        [*COMPLETED, "python", "-c", show],
        env=BARE,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).parent == Path(OWN)


@pytest.fixture
def start_unknown(tmp_path):
    """A function that runs a command in an empty folder, as a user without name and home."""
    unknown = ["unshare", "--user", "--map-user=54321"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*unknown, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this machine lets no user have another number")

    def start(*command):
        return subprocess.run(
            [*unknown, *command],
            env=BARE,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return start


@pytest.mark.slow
def test_dvc_runs_for_a_user_without_name_and_home(tmp_path, start_unknown):
    subprocess.run([*DVC, "init", "--no-scm"], cwd=tmp_path, check=True, capture_output=True)
    without = start_unknown(*DVC, "status")
    assert without.returncode, "DVC needs no home any more: core/environment.py can be shorter"
    done = start_unknown(*COMPLETED, *DVC, "status")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".home").is_dir()


@pytest.mark.slow
def test_the_set_up_configures_dvc_for_a_user_without_name_and_home(tmp_path, start_unknown):
    subprocess.run([*DVC, "init", "--no-scm"], cwd=tmp_path, check=True, capture_output=True)
    for name in ("tools/plots_page.py", ".dvc/plots/page.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "src").symlink_to(ROOT / "src")
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", "--directory", str(ROOT), "setup"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = [line for line in recipe.splitlines() if "plots_page.py" in line]
    done = start_unknown("sh", "-c", line.replace(".venv/bin", OWN))
    assert done.returncode == 0, done.stderr
    assert "offline.html" in (tmp_path / ".dvc/config.local").read_text()
    assert not list(tmp_path.glob("matplotlib-*")), "matplotlib found no folder for its files"
