"""The arrays of a split come back as they were; a broken file is one line that names it."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vit_finetune.core.arrays import (
    chunks,
    copy_rows,
    decode_names,
    encode_names,
    new_rows,
    one_of_each,
    read_split,
    write_split,
)
from vit_finetune.core.errors import UserError


def test_split_arrays_come_back_mapped_and_read_only(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    labels = np.array([1, 0])
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
    array = np.arange(40, dtype=np.uint8).reshape(8, 5)
    rows = np.array([7, 0, 3, 3, 2, 6, 1])
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


def test_one_of_each_is_a_random_row_of_each_group_and_all_rows_without_groups():
    groups = np.array([7, 7, 2, 7, 2])
    drawn = [one_of_each(groups, np.random.default_rng(seed)) for seed in range(300)]
    assert all(sorted(groups[rows]) == [2, 7] and (np.diff(rows) > 0).all() for rows in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=5)
    expected = np.array([100, 100, 150, 100, 150])
    assert (abs(counts - expected) < 4 * np.sqrt(expected)).all()
    assert one_of_each(np.array([3, 1, 2]), np.random.default_rng(0)).tolist() == [0, 1, 2]


def test_what_is_drawn_after_one_of_each_does_not_depend_on_the_groups():
    drawn = []
    for groups in (np.arange(9), np.zeros(9)):
        rng = np.random.default_rng(0)
        one_of_each(groups, rng)
        drawn.append(rng.random())
    assert drawn[0] == drawn[1] == np.random.default_rng(0).random()
