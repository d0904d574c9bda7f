"""Outputs are whole or absent, whatever ends the process; a broken file is one line that names
it."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.project import ROOT
from vit_finetune.core.arrays import (
    chunks,
    copy_rows,
    decode_names,
    encode_names,
    new_rows,
    read_split,
    write_split,
)
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
from vit_finetune.core.hashes import digest, key_of


def tree(folder):
    """Every file under a folder, with its text."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def start(script, *arguments, command=(sys.executable, "-c"), **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [*command, script, *map(str, arguments)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


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
    out, new = tmp_path / "deep" / "out", tmp_path / "new"
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
@pytest.mark.parametrize("error", [OSError, KeyError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_leaves_no_file_and_is_raised_on(tmp_path, new, fill, error):
    def fail():
        with new(tmp_path / "out") as partial:
            fill(partial)
            raise error("stop")

    with pytest.raises(error, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_an_exception_in_the_block_keeps_what_was_there_before(tmp_path, new):
    old = tmp_path / "out"
    if new is new_folder:
        old.mkdir()
        old = old / "inner"
    old.write_text("old")
    before = tree(tmp_path)
    with pytest.raises(OSError, match="stop"), new(tmp_path / "out"):
        raise OSError("stop")
    assert tree(tmp_path) == before


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


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_run_killed_in_the_middle_of_writing_leaves_no_output(tmp_path, kind):
    script = """
import sys
from vit_finetune.core.files import new_file, new_folder
with {"file": new_file, "folder": new_folder}[sys.argv[1]](sys.argv[2]) as partial:
    (partial if sys.argv[1] == "file" else partial / "inner").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""
    with start(script, kind, tmp_path / "out") as process:
        assert process.stdout.readline() == "writing\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f"out{PARTIAL}"]  # git and DVC ignore it
    again = start(script, kind, tmp_path / "out")
    assert again.communicate("go on")[0] == "writing\n"
    assert again.returncode == 0
    assert list(tree(tmp_path).values()) == ["half"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


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
    return {path.name: path.read_text() for path in Path("out").iterdir()} if Path("out").exists() else None

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
    assert folder() in (None, dict.fromkeys("abc", "old"), dict.fromkeys("abc", "new")), (n, folder())
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
from vit_finetune.core.files import new_folder, write_csv, write_json
from vit_finetune.core.process import run_stage

def arrays():
    with new_folder("out") as folder:
        write_split(folder, "train", small=np.zeros(8), large=np.zeros(1 << 20))

run_stage("writer", {
    "json": lambda: write_json("out.json", {"key": "x" * (1 << 20)}),
    "csv": lambda: write_csv("out.csv", [{"key": "x" * (1 << 20)}]),
    "npy": arrays,
}[sys.argv[1]])
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
    # .run holds the lock
    assert [path.name for path in tmp_path.iterdir() if path.name != ".run"] == []


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
ls -A | grep -v '^.run$'
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


def test_split_arrays_come_back_mapped_and_read_only(tmp_path):
    images, labels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), np.array([1, 0])
    write_split(tmp_path, "val", images=images, labels=labels)
    read = read_split(tmp_path, "val", "labels", "images")
    for array, expected in zip(read, (labels, images), strict=True):
        assert isinstance(array, np.memmap)
        assert array.dtype == expected.dtype
        assert np.array_equal(array, expected)
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


BROKEN_ARRAYS = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:9]),
    "cut in its data": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "not an array": lambda path: path.write_bytes(b"<html>" * 50),
    "a zip": lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 50),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Trap(path.with_name("trap")))),
    "objects": lambda path: np.save(path, np.array([Trap(path.with_name("trap"))], dtype=object)),
}


@pytest.mark.parametrize("kind", BROKEN_ARRAYS)
def test_a_broken_array_is_named_with_what_to_do_and_no_pickle_in_it_is_loaded(tmp_path, kind):
    write_split(tmp_path, "val", labels=np.arange(100))
    BROKEN_ARRAYS[kind](tmp_path / "val_labels.npy")
    with pytest.raises(
        UserError,
        match=rf"{tmp_path}: val is not readable \(.+\); delete {tmp_path} and run dvc repro",
    ):
        read_split(tmp_path, "val", "labels")
    assert not (tmp_path / "trap").exists()


def test_the_pickle_of_these_tests_makes_its_file_where_it_is_loaded(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "trap")))
    assert (tmp_path / "trap").exists()


def test_a_missing_array_is_named_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"val_labels\.npy is missing; run dvc repro$"):
        read_split(tmp_path, "val", "labels")


BASE = np.arange(6, dtype=np.int32).reshape(2, 3)


@pytest.mark.parametrize(
    "other",
    [
        [BASE.astype(np.int64)],
        [BASE.view(np.uint32)],
        [BASE.view(np.float32)],
        [BASE.astype(">i4")],
        [BASE.reshape(3, 2)],
        [BASE.reshape(6)],
        [BASE.reshape(1, 2, 3)],
        [BASE.T],
        [BASE + np.eye(2, 3, dtype=np.int32)],
        [BASE[:1], BASE[1:]],
        [BASE, BASE],
        [BASE, BASE[:0]],
        [BASE[:0]],
        [],
    ],
)
def test_another_dtype_shape_content_or_number_of_arrays_gives_another_digest(other):
    assert digest(*other) != digest(BASE)


def test_the_digest_depends_on_the_order_of_arrays():
    assert digest(BASE, BASE + 1) != digest(BASE + 1, BASE)


def test_the_digest_is_of_the_values_not_of_how_they_lie_in_memory(tmp_path):
    np.save(tmp_path / "base.npy", BASE)
    mapped = np.load(tmp_path / "base.npy", mmap_mode="r")
    strided = np.repeat(BASE, 2, axis=1)[:, ::2]
    for same in (BASE.copy(), np.asfortranarray(BASE), mapped, strided):
        assert digest(same) == digest(BASE)


KEYED = [
    (), ("",), ("a",), ("ab",), ("a", "b"), ("b", "a"), (["a", "b"],), (["a"], ["b"]), ([],), ({},), ({"a": 1},),
    ({"a": 2},), ({"b": 1},), (None,), (True,), (False,), (0,), (1,), (1.0,), (1.5,), ("1",), ("True",), ("null",),
    (1, 1), (11,), ("é",), ("e",),
]  # fmt: skip


def test_keys_of_different_values_differ_and_are_fit_for_a_file_name():
    keys = {key_of(*values) for values in KEYED}
    assert len(keys) == len(KEYED)
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys)


def test_the_key_of_the_same_values_is_the_same_in_another_process():
    script = """
import json, sys
from vit_finetune.core.hashes import key_of
print(*(key_of(*values) for values in json.load(sys.stdin)))
"""
    output, errors = start(script).communicate(json.dumps(KEYED))
    assert output.split() == [key_of(*values) for values in KEYED], errors


@pytest.mark.parametrize("value", [Path("a"), {1, 2}, BASE])
def test_a_value_that_is_not_plain_has_no_key(value):
    with pytest.raises(TypeError, match="not JSON serializable"):
        key_of("a", value)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_rows_that_are_appended_give_the_bytes_that_numpy_writes(tmp_path, count):
    array = np.arange(count * 6, dtype=np.int16).reshape(count, 2, 3)
    with new_rows(tmp_path / "rows.npy", (2, 3), np.int16) as append:
        for row in array:
            append(row[None])
    np.save(tmp_path / "whole.npy", array)
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_chosen_rows_are_copied_a_chunk_at_a_time_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_finetune.core.arrays.CHUNK", 25)
    array, rows = np.arange(40, dtype=np.uint8).reshape(8, 5), np.array([7, 0, 3, 3, 2, 6, 1])
    assert [len(chunk) for chunk in chunks(array, rows)] == [5, 2]
    copy_rows(tmp_path, "val", "images", array, rows)
    assert np.array_equal(read_split(tmp_path, "val", "images")[0], array[rows])


def test_names_are_packed_and_read_as_they_were(tmp_path):
    names = ["cat/a, b.jpg", "dog/\u00e9.png", "test/3"]
    write_split(tmp_path, "test", files=encode_names(names))
    assert decode_names(read_split(tmp_path, "test", "files")[0]) == names
    assert decode_names(encode_names(["two\nlines.jpg", os.fsdecode(b"\xff.jpg")])) == [
        "'two\\nlines.jpg'",
        "'\\udcff.jpg'",
    ]
    assert decode_names(encode_names([])) == []


def test_more_than_the_disk_has_is_an_error_before_anything_is_written(tmp_path, capsys):
    require_disk("download", tmp_path, 1000)
    assert capsys.readouterr().out == ""  # a few bytes are not worth a line
    require_disk("download", tmp_path, 2 * 10**9)
    assert capsys.readouterr().out.startswith("download: writes 2.0 GB; ")
    folder = tmp_path / "data/raw.partial"
    folder.mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"data/raw will take 1000000 TB, and the disk has .*B left; free some"
    ):
        require_disk("download", folder, 10**18)


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
