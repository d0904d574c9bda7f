"""Outputs are whole or absent, whatever ends the process; a broken file is one line that names
it."""

import os
import resource
import shutil
import subprocess
import sys

import pytest

from tests.project import ROOT
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import (
    PARTIAL,
    new_file,
    new_folder,
    read_csv,
    read_json,
    readable_size,
    replace_folder,
    require_disk,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)


def tree(folder):
    """Every file under a folder, with its text."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def start(script, *arguments, command=(sys.executable, "-c"), **options):
    return subprocess.Popen(
        [*command, script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_new_file_appears_whole_with_its_folders(tmp_path):
    with new_file(tmp_path / "a" / "b.txt") as partial:
        partial.write_text("half")
        assert not (tmp_path / "a" / "b.txt").exists()
        partial.write_text("whole")
    assert tree(tmp_path) == {"a/b.txt": "whole"}


def test_a_new_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with new_folder(tmp_path / "out") as partial:
        (partial / "new").write_text("new")
        assert tree(tmp_path / "out") == {"old": "old"}
    assert tree(tmp_path) == {"out/new": "new"}


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_takes_the_place_of_another_one_or_of_none(tmp_path, before):
    out = tmp_path / "deep" / "out"
    new = tmp_path / "new"
    for folder in (out, new) if before else (new,):
        folder.mkdir(parents=True)
        (folder / folder.name).write_text("text")
    replace_folder(out, new)
    assert tree(tmp_path) == {"deep/out/new": "text"}


def test_bytes_and_text_are_written_as_they_are(tmp_path):
    write_bytes(tmp_path / "a" / "bytes", b"\x00\r\n")
    write_text(tmp_path / "a" / "text", "é\r\n")
    assert (tmp_path / "a" / "bytes").read_bytes() == b"\x00\r\n"
    assert (tmp_path / "a" / "text").read_bytes() == "é\r\n".encode()


def fill_file(partial):
    partial.write_text("half")


def fill_folder(partial):
    (partial / "half").write_text("half")


BOTH = pytest.mark.parametrize(("new", "fill"), [(new_file, fill_file), (new_folder, fill_folder)])


@BOTH
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [True, False])
def test_an_exception_in_the_block_is_raised_on_and_leaves_what_was_there_before(
    tmp_path, new, fill, error, before
):
    if before:
        with new(tmp_path / "out") as partial:
            fill(partial)
    expected = tree(tmp_path)
    with pytest.raises(error, match="stop"), new(tmp_path / "out") as partial:  # noqa: PT012
        fill(partial)
        raise error("stop")
    assert tree(tmp_path) == expected
    assert not list(tmp_path.glob(f"*{PARTIAL}"))


@BOTH
def test_what_a_killed_run_left_does_not_get_into_the_next_one(tmp_path, new, fill):
    partial = tmp_path / f"out{PARTIAL}"
    if new is new_folder:
        partial.mkdir()
        partial = partial / "stale"
    partial.write_text("stale")
    with new(tmp_path / "out") as fresh:
        assert "stale" not in tree(tmp_path).values()
        fill(fresh)
    assert set(tree(tmp_path).values()) == {"half"}


def test_a_block_that_writes_nothing_is_an_error_even_if_a_killed_run_left_a_file(tmp_path):
    (tmp_path / f"out{PARTIAL}").write_text("stale")
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_killed_at_any_moment_leaves_the_old_output_the_new_one_or_none(tmp_path):
    """A child is killed before its n-th change of the file system, for every n until one gets
    through."""
    script = """
import os, shutil, signal, sys
from pathlib import Path
from vit_finetune.core.files import new_file, new_folder


CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
remaining = None


def kill_at_zero(event, arguments):
    global remaining
    writes = event == "open" and arguments[2] & os.O_WRONLY
    if remaining is not None and writes and ".partial" not in str(arguments[0]):
        os._exit(3)  # an output that is written in place is half-written for a while
    if remaining is not None and (event in CHANGES or writes):
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        remaining -= 1

sys.addaudithook(kill_at_zero)


def write(text):
    with new_folder("out") as partial:
        for name in "abc":
            (partial / name).write_text(text)
    with new_file("deep/file") as partial:
        partial.write_text(text)


def folder():
    if not Path("out").exists():
        return None
    return {path.name: path.read_text() for path in Path("out").iterdir()}

n, seen = 0, set()
while True:
    shutil.rmtree("out", ignore_errors=True)
    shutil.rmtree("deep", ignore_errors=True)
    write("old")
    child = os.fork()
    if child == 0:
        remaining = n
        write("new")
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    texts = (None, dict.fromkeys("abc", "old"), dict.fromkeys("abc", "new"))
    assert folder() in texts, (n, folder())
    assert Path("deep/file").read_text() in ("old", "new")
    seen.add(str(folder() and folder()["a"]))
    write("next")
    assert folder() == dict.fromkeys("abc", "next")
    assert sorted(str(path) for path in Path().rglob("*.partial")) == []
    if status == 0:
        break
    n += 1
print(n, sorted(seen))
"""
    process = start(script, cwd=tmp_path)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    killed, seen = output.split(maxsplit=1)
    assert int(killed) >= 12
    assert seen == "['None', 'new', 'old']\n"


WRITERS = """
import sys
import numpy as np
from pathlib import Path
from vit_finetune.core.arrays import write_split
from vit_finetune.core.errors import readable_errors
from vit_finetune.core.files import new_folder, write_csv, write_json

def arrays():
    with new_folder("out") as folder:
        write_split(folder, "train", small=np.zeros(8), large=np.zeros(1 << 20))

with readable_errors("writer"):
    {
        "json": lambda: write_json("out.json", {"key": "x" * (1 << 20)}),
        "csv": lambda: write_csv("out.csv", [{"key": "x" * (1 << 20)}]),
        "npy": arrays,
    }[sys.argv[1]]()
"""


@pytest.mark.parametrize("kind", ["json", "csv", "npy"])
def test_a_file_over_the_size_limit_of_the_system_is_one_line_and_leaves_no_file(tmp_path, kind):
    limit = 256 * 1024
    process = start(
        WRITERS,
        kind,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, errors = process.communicate()
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert errors.startswith("writer: ")
    assert (
        "File too large" in errors or "out.partial/train_large.npy could not be written" in errors
    )
    assert list(tmp_path.iterdir()) == []


def own_mounts():
    """Whether this user may mount a small disk in a namespace of their own."""
    tools = shutil.which("unshare") and shutil.which("mount")
    trial = "mount -t tmpfs -o size=64k tmpfs /mnt"
    return (
        tools
        and subprocess.run(["unshare", "-m", "sh", "-c", trial], capture_output=True).returncode
        == 0
    )


@pytest.mark.parametrize("kind", ["json", "csv", "npy"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [("size=64k", "No space left on device|is the disk full"), ("ro", "Read-only file system")],
)
def test_a_full_or_read_only_disk_is_one_line_and_leaves_no_file(tmp_path, kind, options, reason):
    if not own_mounts():
        pytest.skip("needs the right to mount a file system of its own (unshare -m)")
    script = f"""
mount -t tmpfs -o {options} tmpfs . && cd "$PWD" || exit 99
"{sys.executable}" -c "$1" {kind}
status=$?
ls -A
exit $status
"""
    process = start(script, "sh", WRITERS, command=("unshare", "-m", "sh", "-c"), cwd=tmp_path)
    left, errors = process.communicate()
    assert process.returncode == 1, errors
    assert left == ""
    assert len(errors.splitlines()) == 1
    assert errors.startswith("writer: ")
    assert any(part in errors for part in reason.split("|")), errors


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_folder_without_permission_is_an_error_of_the_system(tmp_path, new):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="out"), new(tmp_path / "out") as partial:
            partial.write_text("half")
        assert list(tmp_path.iterdir()) == []
    finally:
        tmp_path.chmod(0o700)


def test_json_comes_back_as_it_was_and_ends_in_a_newline(tmp_path):
    values = {"b": [1, 2.5, None], "a": {"é": "✓"}}
    write_json(tmp_path / "out.json", values)
    assert list(read_json(tmp_path / "out.json").items()) == list(values.items())
    assert (tmp_path / "out.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_nan_and_infinity_and_leaves_no_file(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "out.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"<html>", b'{"a": "\xff"}'])
def test_a_broken_json_file_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "out.json").write_bytes(content)
    with pytest.raises(
        UserError, match=r"out\.json is not readable \(.+\); delete it and run dvc repro"
    ):
        read_json(tmp_path / "out.json")


def test_a_missing_json_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"out\.json is missing; run dvc repro$"):
        read_json(tmp_path / "out.json")


def test_csv_comes_back_with_the_columns_in_order(tmp_path):
    write_csv(tmp_path / "out.csv", [{"b": 1, "a": "x, y"}, {"b": 0.5, "a": ""}])
    assert (tmp_path / "out.csv").read_bytes() == b'b,a\n1,"x, y"\n0.5,\n'
    assert read_csv(tmp_path / "out.csv") == [{"b": "1", "a": "x, y"}, {"b": "0.5", "a": ""}]


def test_more_than_the_disk_has_is_an_error_before_anything_is_written(tmp_path):
    assert require_disk(tmp_path, 1000) is None  # a few bytes are not worth a line
    assert require_disk(tmp_path, 2 * 10**9).startswith("writes 2.0 GB; ")
    folder = tmp_path / "data/raw.partial"
    folder.mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"data/raw will take 1000000 TB, and the disk has .*B left; free some"
    ):
        require_disk(folder, 10**18)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (61_440, "61.4 kB"),
        (250 * 10**6, "250 MB"),
        (3_140_000_000, "3.1 GB"),
        (2 * 10**15, "2000 TB"),
    ],
)
def test_sizes_are_given_in_the_unit_that_suits_them(size, text):
    assert readable_size(size) == text


def test_rows_of_a_table_are_written_as_they_come(tmp_path):
    def rows():
        for number in range(3):
            yield {"a": number}

    write_csv(tmp_path / "t.csv", rows())
    assert (tmp_path / "t.csv").read_text() == "a\n0\n1\n2\n"
    write_csv(tmp_path / "t.csv", iter([]), ["a", "b"])
    assert (tmp_path / "t.csv").read_text() == "a,b\n"
