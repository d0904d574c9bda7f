"""In a container: what the documents tell to type, and what the Dockerfile needs."""

import re
import shutil
import subprocess

import pytest

from tests.documents import template
from tests.project import ROOT, stages_run

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_documents_build_and_run_the_image_as_its_dockerfile_needs_it(tmp_path):
    """Docker is a script here that writes down how it was called."""
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    docker.chmod(0o755)
    lines = template("docker build", {})
    path = f"{tmp_path}:/usr/bin:/bin"
    subprocess.run(["sh", "-ec", "\n".join(lines)], cwd=ROOT, env={"PATH": path}, check=True)
    build, run = (tmp_path / "calls").read_text().splitlines()
    assert build == "build -t vit ."
    (folder,) = re.findall("^WORKDIR (.+)$", DOCKERFILE, re.MULTILINE)
    assert f"--volume vit:{folder} vit make demo" in run
    assert run in " ".join(DOCKERFILE.split())


def test_the_image_has_the_committed_files_the_same_lock_and_no_root():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored == ["*", "!.git"]
    assert re.findall("^COPY (.+)$", DOCKERFILE, re.MULTILINE) == [".git /clone/.git"]
    assert "make setup" in DOCKERFILE
    assert re.findall("^USER (.+)$", DOCKERFILE, re.MULTILINE)[-1] != "root"
    assert "pip install" not in DOCKERFILE


@pytest.mark.slow
def test_dvc_runs_in_a_container_after_what_the_documents_tell_to_set(finished, tmp_path):
    unknown = ["unshare", "--user", "--map-user=54321"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*unknown, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this machine lets no user have another number")
    project = finished.copy(tmp_path / "p")
    lines = template("export HOME=", {})
    bare = ("env", "--unset=HOME", "--unset=USER", "--unset=LOGNAME")
    lost = project.run(*unknown, *bare, "dvc", "repro")
    assert lost.returncode, "DVC needs no home any more: the documents can say less"
    done = project.run(*unknown, *bare, "sh", "-ec", "\n".join(lines))
    assert done.returncode == 0, done.stderr
    assert stages_run(done.stdout) == []
