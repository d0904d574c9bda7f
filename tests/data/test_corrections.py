"""data/corrections.csv: rows for this data set are read, others counted, mistakes are one line."""

import csv
import os
import re

import pytest

from tests.project import ROOT
from vit_finetune.core.arrays import decode_names, encode_names
from vit_finetune.core.errors import UserError
from vit_finetune.data.corrections import COLUMNS, CORRECTIONS, Correction, read_corrections

CLASSES = ["cat", "dog, wild"]
FILES = ["cat/1.png", "cat/2.png", "dog, wild/1.png"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "corrections.csv"


def write(path, *rows, encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def read(path, files=FILES):
    return read_corrections(path, "pets", CLASSES, files)


def error_of(path):
    with pytest.raises(UserError, match=r".") as caught:
        read(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message.replace(str(path), "FILE")


def test_the_file_as_shipped_corrects_nothing():
    assert (ROOT / CORRECTIONS).read_text() == ",".join(COLUMNS) + "\n"
    corrections = read(ROOT / CORRECTIONS)
    assert (corrections.rows, corrections.of_others) == ([], 0)


def test_rows_for_this_data_set_are_read_in_their_order_and_those_for_others_are_counted(path):
    write(
        path,
        ("pets", "dog, wild/1.png", "relabel", "cat", "a, kitten"),
        ("cifar10", "test/5", "no action", "no class", "not looked at"),
        ("pets", "cat/1.png", "drop", "", ""),
        ("pets", "cat/2.png", "keep", "", "looked at"),
    )
    corrections = read(path)
    assert corrections.of_others == 1
    assert corrections.rows == [
        Correction("dog, wild/1.png", "relabel", "cat"),
        Correction("cat/1.png", "drop", ""),
        Correction("cat/2.png", "keep", ""),
    ]


def test_any_file_name_survives_the_table(path):
    odd = ['a,b".png', "line\nbreak.png", os.fsdecode(b"caf\xe9.png"), " space.png", "'.png", "猫"]
    files = decode_names(encode_names(odd))
    write(path, *(("pets", file, "drop", "", "") for file in files))
    assert [row.file for row in read(path, files).rows] == files


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_that_a_spreadsheet_saved_is_read(path, newline):
    lines = [",".join(COLUMNS), "pets,cat/1.png,drop,,", "", ""]
    path.write_bytes(newline.join(lines).encode("utf-8-sig"))
    assert read(path).rows == [Correction("cat/1.png", "drop", "")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("pets", "cat/1.png", "delete", "", "")],
            "FILE, line 2: the action is 'delete'; it must be keep, relabel or drop",
        ),
        (
            [("pets", "cat/1.png", "relabel", "dog wild", "")],
            "FILE, line 2: the label 'dog wild' is no class; did you mean dog, wild?",
        ),
        (
            [("pets", "cat/1.png", "relabel", "", "")],
            "FILE, line 2: the label '' is no class; classes: cat, dog, wild",
        ),
        (
            [("pets", "cat/1.png", "keep", "cat", "")],
            "FILE, line 2: the label is 'cat' and the action keep; only relabel has a label",
        ),
        (
            [("pets", "cat/1.png", "drop", "", ""), ("pets", "cat/9.png", "drop", "", "")],
            "FILE, line 3: the data set pets has no image 'cat/9.png'; "
            "write its name as in plots/image_problems.csv, or remove the line",
        ),
        (
            [("pets", "cat/1.png", "drop", "", ""), ("pets", "cat/1.png", "keep", "", "")],
            "FILE, line 3: 'cat/1.png' is in an earlier line too; remove one of them",
        ),
        (
            [("pets", "dog", " wild/1.png", "drop", "", "")],
            'FILE, line 2 has 6 values, the first line has 5; write a value with a comma in ""',
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place_and_what_is_allowed(path, rows, message):
    write(path, *rows)
    assert error_of(path) == message


def test_a_missing_file_another_header_and_another_encoding_are_one_line_each(path):
    assert re.match("FILE is missing; write a CSV file with the line", error_of(path))
    path.write_text("file;action\n")
    assert error_of(path) == (
        "the first line of FILE is 'file;action'; it must name the columns "
        "data,file,action,label,note"
    )
    write(path, ("pets", "café.png", "drop", "", ""), encoding="latin-1")
    assert re.match("FILE is no CSV file in UTF-8", error_of(path))
    path.write_text(",".join(COLUMNS) + '\npets,"cat/1.png,drop,,\n')
    assert re.match("FILE is no CSV file in UTF-8", error_of(path))
