"""A folder of the user's own images: classes, parts, a test share by hash, and what is wrong with
it in one line.

The files are tiny, each of a colour that no other has, so that every image can be told from its
pixels.
"""

import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data import loaded
from tests.data.broken import BROKEN_FILES
from vit_finetune.core.errors import UserError
from vit_finetune.data import folder as folder_module
from vit_finetune.data.folder import FolderSource
from vit_finetune.params import Data


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("kept")))


def make_tree(folder, counts, start=0):
    """`<folder>/<name>/00.png` and so on for {name: count} -> the path of each colour."""
    colours = {}
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = folder / name / f"{number:02}.png"
            colours.update(paint(path, start + len(colours)))
    return colours


def paint(path, number):
    """One image file of the number-th colour -> {colour: path}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (number % 256, number // 256, 77)
    Image.new("RGB", (8, 8), colour).save(path, "PNG")
    return {colour: path}


def load(folder, threads=2, **options):
    data = Data(
        name="folder", folder=str(folder), **{"image_size": 8, "test_share": 0.25} | options
    )
    return loaded.load(FolderSource(data, threads), threads=threads)


def error_of(folder, **options):
    with pytest.raises(UserError, match=r".") as caught:
        load(folder, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def found(dataset, colours, folder):
    """Part -> class -> paths below `folder`, in the order of the data set, by their colours."""
    parts = {}
    for part, images in dataset.images.items():
        assert images.dtype == np.uint8
        assert dataset.labels[part].dtype == np.int64
        assert images.shape == (len(dataset.labels[part]), 8, 8, 3)
        assert (images == images[:, :1, :1]).all()
        parts[part] = {name: [] for name in dataset.classes}
        for pixel, label in zip(images[:, 0, 0].tolist(), dataset.labels[part], strict=True):
            parts[part][dataset.classes[label]].append(
                colours[tuple(pixel)].relative_to(folder).as_posix()
            )
    return parts


def names(*classes, numbers, part=""):
    return {name: [f"{part}{name}/{number:02}.png" for number in numbers] for name in classes}


def test_every_image_comes_once_with_its_folder_as_the_class_numbered_by_name(tmp_path):
    counts = {"été": 5, "Zebra": 9, "it's": 3, "10": 12, "c++": 4, "2": 5, "猫": 3, "big cat": 6}
    colours = make_tree(tmp_path, counts)
    dataset = load(str(tmp_path))
    assert dataset.classes == ["10", "2", "Zebra", "big cat", "c++", "it's", "été", "猫"]
    assert (dataset.checksums, dataset.broken) == ({}, {})
    parts = found(dataset, colours, tmp_path)
    assert list(parts) == ["train", "test"]
    for name, count in counts.items():
        train = parts["train"][name]
        test = parts["test"][name]
        assert sorted(train + test) == names(name, numbers=range(count))[name]
        assert (train, test) == (sorted(train), sorted(test))
    for labels in dataset.labels.values():
        assert labels.tolist() == sorted(labels)


@pytest.mark.parametrize(
    ("share", "expected"),  # images of a class, and how many of them are for testing
    [
        (0.2, {3: 1, 5: 1, 7: 1, 8: 2, 12: 2, 13: 3, 40: 8}),
        (0.5, {4: 2, 10: 5, 30: 15}),
        (0.01, {3: 1, 30: 1}),
        (0.9, {20: 18, 30: 27}),
    ],
)
def test_each_class_gives_its_test_share_and_at_least_one_image(tmp_path, share, expected):
    colours = make_tree(tmp_path, {f"of {count:02}": count for count in expected})
    parts = found(load(tmp_path, test_share=share), colours, tmp_path)
    assert {int(name[3:]): len(paths) for name, paths in parts["test"].items()} == expected


def test_the_test_images_do_not_depend_on_where_the_folder_lies_or_how_it_was_filled(tmp_path):
    counts = {"cat": 10, "dog": 7}
    here = tmp_path / "here"
    there = tmp_path / "far" / "away"
    colours = make_tree(here, counts)
    for colour, path in reversed(colours.items()):
        (there / path.relative_to(here)).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(there / path.relative_to(here))
    parts = found(load(here), colours, here)
    assert found(load(there), colours, here) == parts


def test_adding_a_class_moves_no_image_of_the_others_between_train_and_test(tmp_path):
    colours = make_tree(tmp_path, {"cat": 10, "dog": 7})
    before = found(load(tmp_path), colours, tmp_path)
    colours |= make_tree(tmp_path, {"ant": 9, "bee": 4, "zebra": 30}, start=len(colours))
    after = found(load(tmp_path), colours, tmp_path)
    for part in ("train", "test"):
        assert {name: after[part][name] for name in ("cat", "dog")} == before[part]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_adding_an_image_moves_at_most_one_other_between_train_and_test(tmp_path, share):
    colours = make_tree(tmp_path, {"cat": 4, "dog": 4})
    before = found(load(tmp_path, test_share=share), colours, tmp_path)
    moves = Counter()
    for number in np.random.default_rng(0).permutation(np.arange(4, 34)):
        colours |= paint(tmp_path / "cat" / f"{number:02}.png", len(colours))
        after = found(load(tmp_path, test_share=share), colours, tmp_path)
        to_train = set(before["test"]["cat"]) & set(after["train"]["cat"])
        to_test = set(before["train"]["cat"]) & set(after["test"]["cat"])
        assert len(to_train) + len(to_test) <= 1
        assert [after[part]["dog"] for part in after] == [before[part]["dog"] for part in before]
        moves += Counter(to_train=len(to_train), to_test=len(to_test))
        before = after
    assert min(moves["to_train"], moves["to_test"]) > 0  # so the limit above was reached


def test_test_images_come_from_anywhere_in_a_class_not_from_its_start(tmp_path):
    colours = make_tree(tmp_path, {f"class {c:02}": 5 for c in range(40)})
    parts = found(load(tmp_path, test_share=0.2), colours, tmp_path)
    drawn = Counter(path.rpartition("/")[2] for paths in parts["test"].values() for path in paths)
    assert sum(drawn.values()) == 40
    assert min(drawn[f"{number:02}.png"] for number in range(5)) >= 2


@pytest.mark.parametrize(
    "spelt",
    [
        {"train": "train", "test": "test"},
        {"train": "train", "val": "val", "test": "Testing"},
        {"train": "Training", "val": "Valid", "test": "TEST"},
        {"train": "train", "val": "validation", "test": "test"},
    ],
)
def test_given_parts_keep_their_images_however_their_folders_are_spelt(tmp_path, spelt):
    counts = {"train": (6, 4), "val": (2, 5), "test": (1, 3)}
    tree = {}
    expected = {}
    for part, folder in spelt.items():
        cats, dogs = counts[part]
        tree |= {f"{folder}/dog": dogs, f"{folder}/cat": cats}
        expected[part] = names("cat", numbers=range(cats), part=f"{folder}/")
        expected[part] |= names("dog", numbers=range(dogs), part=f"{folder}/")
    colours = make_tree(tmp_path, tree)
    parts = found(load(tmp_path), colours, tmp_path)
    assert list(parts) == list(spelt)
    assert parts == expected


@pytest.mark.parametrize("validation", [{}, {"val/cat": 5, "val/dog": 2}])
def test_without_a_test_folder_test_images_come_from_train_and_validation_stays_whole(
    tmp_path, validation
):
    colours = make_tree(tmp_path, {"train/cat": 8, "train/dog": 4, **validation})
    parts = found(load(tmp_path), colours, tmp_path)
    assert list(parts) == (["train", "val", "test"] if validation else ["train", "test"])
    for path, count in validation.items():
        assert len(parts["val"][path.removeprefix("val/")]) == count
    for name, count in {"cat": 8, "dog": 4}.items():
        assert len(parts["test"][name]) == count // 4
        both = sorted(parts["train"][name] + parts["test"][name])
        assert both == names(name, numbers=range(count), part="train/")[name]


def test_a_folder_named_train_among_other_classes_is_a_class(tmp_path):
    colours = make_tree(tmp_path, {"bus": 4, "train": 4, "tram": 4})
    dataset = load(tmp_path)
    assert dataset.classes == ["bus", "train", "tram"]
    parts = found(dataset, colours, tmp_path)
    assert {len(paths) for paths in parts["train"].values()} == {3}


def neither(folder, names):
    return (
        f"{folder} has {names}: it may hold a folder for each class; or train (training) and "
        "beside it one of val (valid, validation), one of test (testing), and no other; "
        "rename or move what is neither"
    )


@pytest.mark.parametrize(
    ("top", "named"),
    [
        (("train", "val", "valid", "test"), "test, train, val, valid"),
        (("train", "dev"), "train, dev"),
        (("Training", "holdout", "eval"), "Training, eval, holdout"),
        (("test", "training_set"), "test, training_set"),
        (
            ("test", *(f"class {number}" for number in range(9))),
            "test, class 0, class 1, class 2, class 3 and 5 more",
        ),
    ],
)
def test_parts_that_are_not_known_by_their_names_are_no_classes_but_an_error(tmp_path, top, named):
    make_tree(tmp_path, {f"{part}/{name}": 3 for part in top for name in ("cat", "dog")})
    assert error_of(tmp_path) == neither(tmp_path, named)


def test_a_folder_of_test_images_beside_classes_is_no_class_but_an_error(tmp_path):
    make_tree(tmp_path, {"cat": 3, "dog": 3, "test": 3})
    assert error_of(tmp_path) == neither(tmp_path, "test, cat, dog")


@pytest.mark.parametrize("part", ["test", "val"])
def test_given_images_without_class_folders_are_an_error_that_says_where_they_go(tmp_path, part):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, part: 3})
    given = tmp_path / part
    assert error_of(tmp_path) == (
        f"{given} has images outside class folders; put them in {given}/<class>/, "
        f"or move {given} elsewhere if their classes are not known"
    )


@pytest.mark.parametrize(
    "name", ["ca\rt", "ca\nt", "\x1b[31mcat", "cat\u2028", os.fsdecode(b"caf\xe9")]
)
@pytest.mark.parametrize("part", ["", "train/", "test/"])
def test_a_class_whose_name_cannot_be_printed_is_an_error(tmp_path, name, part):
    make_tree(
        tmp_path,
        {f"{part}{name}": 3, "train/cow" if part else "cow": 3, "train/dog" if part else "dog": 3},
    )
    where = f"{tmp_path}/{part}".rstrip("/")
    assert error_of(tmp_path) == (
        f"{where} holds a folder {name!a}: "
        "a class has a name that can be printed; rename the folder"
    )


def test_a_file_whose_name_cannot_be_printed_is_read_and_where_it_is_named_stays_in_one_line(
    tmp_path,
):
    make_tree(tmp_path, {"cat": 3, "dog": 3})
    names = [os.fsdecode(b"caf\xe9"), "a\nb"]
    for name in names:
        paint(tmp_path / "cat" / f"{name}.png", 99)
        (tmp_path / "dog" / f"{name}.png").write_bytes(b"")
        (tmp_path / "dog" / f"{name}.txt").touch()
    dataset = load(tmp_path, broken="skip")
    assert sum(len(labels) for labels in dataset.labels.values()) == 8
    assert dataset.ignored == [ascii(f"dog/{name}.txt") for name in reversed(names)]
    assert list(dataset.broken) == [ascii(f"dog/{name}.png") for name in reversed(names)]


@pytest.mark.parametrize("part", ["", "train/"])
def test_what_is_no_image_of_a_class_is_not_read_and_unless_hidden_listed_as_ignored(
    tmp_path, part
):
    colours = make_tree(tmp_path, {f"{part}cat": 4, f"{part}dog": 4})
    before = found(load(tmp_path), colours, tmp_path)
    hidden = [
        f"{part}cat/._00.png",
        f"{part}cat/deep/.thumbnails/00.png",
        f"{part}.ipynb_checkpoints/00.png",
        ".git/00.png",
    ]
    loose = ["b.png", f"{part}a.JPG", f"{part}cat/notes.txt", f"{part}dog/deep/film.mpg"]
    for name in [*hidden, *loose, f"{part}__MACOSX/00.png"]:
        paint(tmp_path / name, 999)
    for name in ("labels.csv", f"{part}cat.dvc", ".gitignore", f"{part}dog/.DS_Store"):
        (tmp_path / name).write_text("no image")
    (tmp_path / f"{part}dog/folder.png").mkdir()
    dataset = load(tmp_path)
    assert found(dataset, colours, tmp_path) == before
    assert dataset.broken == {}
    assert dataset.ignored == sorted([*loose, f"{part}__MACOSX/"], key=Path)


def test_images_of_a_class_may_lie_in_folders_below_it(tmp_path):
    colours = make_tree(tmp_path, {"cat": 2, "dog": 4, "cat/2024/may": 2})
    colours |= paint(tmp_path / "cat/2024/b.Jpeg", 100)  # what a file is, its content says
    parts = found(load(tmp_path), colours, tmp_path)
    assert sorted(parts["train"]["cat"] + parts["test"]["cat"]) == [
        "cat/00.png",
        "cat/01.png",
        "cat/2024/b.Jpeg",
        "cat/2024/may/00.png",
        "cat/2024/may/01.png",
    ]


def test_files_are_read_only_a_few_ahead_of_what_is_asked_for(tmp_path, monkeypatch):
    make_tree(tmp_path, {"cat": 100, "dog": 100})
    read = []
    original = folder_module.open_image
    monkeypatch.setattr(
        folder_module, "open_image", lambda path: (original(path), read.append(path))[0]
    )
    data = Data(name="folder", folder=str(tmp_path), image_size=8)
    images = FolderSource(data, 1).read("train")
    for _ in range(50):
        next(images)
    assert len(read) <= 50 + 3 * folder_module.TOGETHER
    assert len([*images]) == 110


# The range of 16-bit images


def save_deep(folder, largest):
    for number, value in enumerate(largest):
        Image.fromarray(np.full((8, 8), value, dtype=np.uint16)).save(folder / f"deep {number}.png")


@pytest.mark.parametrize("largest", [[4095, 0, 17], [255], [0]])
def test_16_bit_images_that_would_all_be_nearly_black_are_an_error_that_says_how_to_convert(
    tmp_path, largest
):
    make_tree(tmp_path, {"cat": 4, "dog": 4})
    save_deep(tmp_path / "dog", largest)
    assert error_of(tmp_path) == (
        f"the 16-bit images in {tmp_path} use only 0..{max(largest)} of 0..65535 and would be "
        "nearly black; save them with 8 bits, or multiply their values by 16 if they have 12 bits"
    )


@pytest.mark.parametrize("largest", [[4096], [100, 65535]])
def test_a_dark_16_bit_image_beside_brighter_ones_stays_dark(tmp_path, largest):
    make_tree(tmp_path, {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1})
    save_deep(tmp_path / "train" / "cat", largest)
    dataset = load(tmp_path)
    deep = dataset.images["train"][2 : 2 + len(largest), 0, 0, 0].tolist()
    assert deep == [round(value / 257) for value in largest]


# Files that cannot be read


def test_unreadable_files_are_left_out_and_listed_where_broken_is_skip(tmp_path, few_pixels):
    colours = make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2})
    before = found(load(tmp_path), colours, tmp_path)
    for name, content in BROKEN_FILES.items():
        (tmp_path / "test" / "cat" / name).write_bytes(content)
    dataset = load(tmp_path, broken="skip")
    assert found(dataset, colours, tmp_path) == before
    assert sorted([*dataset.groups["train"], *dataset.groups["test"]]) == list(range(10))
    assert list(dataset.broken) == [f"test/cat/{name}" for name in sorted(BROKEN_FILES)]


@pytest.mark.parametrize(("count", "more"), [(1, ""), (5, ""), (7, " and 2 more")])
def test_unreadable_files_are_counted_and_five_are_named_with_the_reason_and_what_to_do(
    tmp_path, count, more
):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2})
    paths = [f"train/dog/photo ({number}).tiff" for number in range(count)]
    for path in paths:
        Image.new("F", (8, 8), 0.5).save(tmp_path / path)
    reason = "32-bit floating point has no known range of brightness; convert it to 8 bits"
    listed = [f"{path} ({reason})" for path in paths]
    assert load(tmp_path, broken="skip").broken == dict.fromkeys(paths, reason)
    assert error_of(tmp_path) == (
        f"{count} of {10 + count} files in {tmp_path} cannot be read as images: "
        f"{', '.join(listed[:5])}{more}; remove them, or set data.broken to skip"
    )


def test_unreadable_files_do_not_count_as_images_of_their_class(tmp_path):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 1, "test/cat": 1, "test/dog": 1})
    (tmp_path / "train/dog/01.png").write_bytes(b"")
    assert error_of(tmp_path, broken="skip") == few(tmp_path, "dog (1)", 2)
    make_tree(tmp_path, {"train/dog": 3})
    for name in ("cat", "dog"):
        (tmp_path / f"test/{name}/00.png").write_bytes(b"")
    assert error_of(tmp_path, broken="skip") == no_images(tmp_path, "test")


# Too few classes or images


def few(folder, classes, least):
    return (
        f"{folder}: classes with too few training images: {classes}; each needs at least {least}; "
        "add images or remove the folder"
    )


def no_images(folder, part):
    return f"{folder}: {part} has no images; add some, or remove its folder"


def no_classes(folder, how_many):
    return (
        f"{folder} holds {how_many} class, at least two are needed; put images in "
        f"{folder}/<class>/, or in {folder}/train/<class>/ and {folder}/test/<class>/"
    )


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "hidden folders", "loose images", "an empty train folder"]
)
def test_without_class_folders_the_error_says_where_to_put_images(tmp_path, kind):
    folder = tmp_path / "images"
    if kind != "missing":
        folder.mkdir()
    if kind == "hidden folders":
        make_tree(folder, {".cache": 3, "__MACOSX": 3})
    if kind == "loose images":
        make_tree(tmp_path, {"images": 3})
    if kind == "an empty train folder":
        (folder / "train").mkdir()
    assert error_of(folder) == no_classes(folder, "no")


@pytest.mark.parametrize("name", ["cat", "train/cat"])
def test_one_class_is_too_few(tmp_path, name):
    make_tree(tmp_path, {name: 5})
    assert error_of(tmp_path) == no_classes(tmp_path, "one")


@pytest.mark.parametrize(
    ("counts", "classes", "least"),
    [
        ({"cat": 3, "dog": 0}, "dog (0)", 2),
        ({"cat": 2, "dog": 1, "ox": 3}, "cat (1), dog (1)", 2),
        ({"train/cat": 2, "train/dog": 9}, "cat (1)", 2),
        ({"train/cat": 1, "train/dog": 2, "test/cat": 5, "test/dog": 1}, "cat (1)", 2),
        (
            {"train/a": 1, "train/b": 0, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1},
            "b (0)",
            1,
        ),
        (
            dict.fromkeys("abcdefg", 1) | {"h": 3},
            "a (1), b (1), c (1), d (1), e (1) and 2 more",
            2,
        ),
    ],
)
def test_a_class_with_too_few_images_to_train_on_is_named_with_their_number(
    tmp_path, counts, classes, least
):
    make_tree(tmp_path, counts)
    assert error_of(tmp_path) == few(tmp_path, classes, least)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_given_part_without_an_image_is_an_error(tmp_path, part):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, f"{part}/cat": 0})
    assert error_of(tmp_path) == no_images(tmp_path, part)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_may_be_absent_from_a_given_part(tmp_path, part):
    make_tree(tmp_path, {"train/cat": 4, "train/dog": 4, f"{part}/cat": 2})
    dataset = load(tmp_path)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels[part].tolist() == [0, 0]


@pytest.mark.parametrize(
    "counts",
    [
        {"cat": 3, "dog": 3},
        {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1},
        {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1, "test/cat": 1, "test/dog": 1},
        {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1},
        {"train/cat": 2, "train/dog": 1, "val/cat": 1, "val/dog": 1},
    ],
)
def test_the_fewest_images_that_are_allowed_are_enough(tmp_path, counts):
    colours = make_tree(tmp_path, counts)
    parts = found(load(tmp_path), colours, tmp_path)
    assert sum(len(paths) for by_class in parts.values() for paths in by_class.values()) == len(
        colours
    )


@pytest.mark.parametrize("part", ["test", "validation"])
def test_classes_that_only_test_or_validation_has_are_named_with_their_folder(tmp_path, part):
    make_tree(
        tmp_path,
        {"train/cat": 3, "train/dog": 3, f"{part}/cat": 1, f"{part}/dgo": 1, f"{part}/ant": 0},
    )
    assert (
        error_of(tmp_path)
        == f"{tmp_path / part} has classes that {tmp_path}/train has not: ant, dgo"
    )


# Names and folders that mislead


@pytest.mark.parametrize("part", ["", "train/"])
@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "emu")])
def test_a_folder_that_holds_itself_is_named_as_the_cause(tmp_path, part, classes):
    make_tree(tmp_path, {f"{part}{name}": 3 for name in classes})
    make_tree(tmp_path, {f"{part}copy/{name}": 3 for name in classes})
    root = f"{tmp_path}/{part}".rstrip("/")
    assert error_of(tmp_path) == (
        f"{root}/copy holds folders with the names of other classes ({', '.join(classes)}): it is "
        f"no class, but may be a copy of {root}; move it elsewhere, or set data.folder to it"
    )


def test_folders_below_a_class_may_have_any_other_names(tmp_path):
    make_tree(tmp_path, {"cat/dog": 3, "cat/may": 3, "dog": 4, "emu": 4})
    assert load(tmp_path).classes == ["cat", "dog", "emu"]


def test_a_folder_around_the_classes_is_named_as_the_way_out(tmp_path):
    make_tree(tmp_path, {"photos/cat": 3, "photos/dog": 3})
    assert error_of(tmp_path) == (
        f"{no_classes(tmp_path, 'one')}; if {tmp_path}/photos holds them, set data.folder to it"
    )


COMPOSED = "caf\xe9"
DECOMPOSED = "cafe\u0301"


@pytest.mark.parametrize(("first", "second"), [("", ""), ("train/", "test/")])
def test_names_of_classes_that_unicode_calls_the_same_are_one_class(tmp_path, first, second):
    colours = make_tree(tmp_path, {f"{first}{DECOMPOSED}": 4, f"{first}dog": 4})
    more = {f"{second}{COMPOSED}": 4} | ({f"{second}dog": 4} if second else {})
    colours |= make_tree(tmp_path, more, start=len(colours))
    dataset = load(tmp_path)
    assert dataset.classes == [COMPOSED, "dog"]
    parts = found(dataset, colours, tmp_path)
    paths = sorted(path for part in parts.values() for path in part[COMPOSED])
    assert len(paths) == 8
    assert {path.removeprefix(first).removeprefix(second)[:-7] for path in paths} == {
        COMPOSED,
        DECOMPOSED,
    }


@pytest.mark.parametrize("given", [{"val/cat": 2, "val/dog": 2}, {}])
def test_where_test_images_are_taken_from_a_given_training_part_this_is_said(tmp_path, given):
    make_tree(tmp_path, {"train/cat": 8, "train/dog": 8, **given})
    data = Data(name="folder", folder=str(tmp_path), image_size=8, test_share=0.25)
    assert FolderSource(data, 1).notes == [
        f"{tmp_path} has no test folder: 4 images of the training folder are for testing "
        "(data.test_share)"
    ]


# A table of labels


def write_table(folder, *rows, header="file,class"):
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_a_table_gives_images_their_classes_wherever_they_lie(tmp_path):
    colours = make_tree(tmp_path, {"a": 6, "b/deep": 6, "__other": 1})
    colours |= paint(tmp_path / f"{DECOMPOSED}.png", 300)
    rows = [f"a/0{n}.png,{'cat' if n % 2 else 'dog'},x" for n in range(6)]
    rows += [f"b/deep/0{n}.png,{'cat' if n % 2 else DECOMPOSED},x" for n in range(6)]
    rows += [f'{COMPOSED}.png,"dog",x']
    write_table(tmp_path, *reversed(rows[1:]), header="file,class,who")
    (tmp_path / "notes.txt").touch()
    dataset = load(tmp_path, labels="labels.csv")
    assert dataset.classes == [COMPOSED, "cat", "dog"]
    parts = found(dataset, colours, tmp_path)
    by_class = {
        name: sorted(parts["train"][name] + parts["test"][name]) for name in dataset.classes
    }
    assert by_class == {
        COMPOSED: ["b/deep/00.png", "b/deep/02.png", "b/deep/04.png"],
        "cat": [f"{folder}/0{n}.png" for folder in ("a", "b/deep") for n in (1, 3, 5)],
        "dog": ["a/02.png", "a/04.png", f"{DECOMPOSED}.png"],
    }
    assert {part: len(labels) for part, labels in dataset.labels.items()} == {
        "train": 9,
        "test": 3,
    }
    assert dataset.ignored == ["__other/00.png", "a/00.png", "notes.txt"]


def test_a_table_of_images_in_folders_of_parts_keeps_the_parts(tmp_path):
    colours = make_tree(tmp_path, {"Train/x": 4, "valid": 2, "test": 2})
    files = [path.relative_to(tmp_path).as_posix() for path in colours.values()]
    write_table(tmp_path, *(f"{file},{'cat' if '0.png' in file else 'dog'}" for file in files[:6]))
    dataset = load(tmp_path, labels="labels.csv")
    parts = found(dataset, colours, tmp_path)
    assert list(parts) == ["train", "val", "test"]
    assert parts["val"] == {"cat": ["valid/00.png"], "dog": ["valid/01.png"]}
    assert dataset.ignored == ["test/00.png", "test/01.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a/00.png,cat", "a/9.png,cat"], "TABLE, line 3: FOLDER has no image 'a/9.png'"),
        (["a/00.png,cat", "a/00.png,dog"], "TABLE, line 3: 'a/00.png' is in an earlier line too"),
        (["a/00.png,"], "TABLE, line 2: the class is ''; a class has a name"),
        (["a/00.png"], "TABLE, line 2 has 1 values, the first line has 2; write a value"),
        (["a/00.png,cat", "a/01.png,cat"], "FOLDER holds one class, at least two are needed"),
        (None, "TABLE is missing; write a CSV file with the line file,class"),
    ],
)
def test_a_table_that_does_not_fit_the_images_is_an_error(tmp_path, rows, message):
    make_tree(tmp_path, {"a": 3})
    if rows is not None:
        write_table(tmp_path, *rows)
    said = error_of(tmp_path, labels="labels.csv")
    table = str(tmp_path / "labels.csv")
    assert said.replace(table, "TABLE").replace(str(tmp_path), "FOLDER").startswith(message)


@pytest.mark.parametrize("link", ["dog", "train", "cat/more"])
def test_a_link_to_a_folder_is_refused_because_dvc_would_not_see_its_images_change(tmp_path, link):
    make_tree(tmp_path / "elsewhere", {"more": 3})
    folder = tmp_path / "images"
    make_tree(folder, {"cat": 3, "owl": 3})
    path = folder / link
    path.symlink_to(tmp_path / "elsewhere/more")
    assert error_of(folder).startswith(f"{path} is a link to a folder: DVC does not follow it")
    path.unlink()
    (folder / "cat/linked.png").symlink_to(tmp_path / "elsewhere/more/00.png")
    assert sum(map(len, load(folder).files.values())) == 7
    (tmp_path / "link").symlink_to(folder)  # which DVC follows
    assert sum(map(len, load(tmp_path / "link").files.values())) == 7
