"""A folder of the user's own images: classes, parts, a test share by hash, and what is wrong with
it in one line.

The files are tiny, each of a colour that no other has, so that every image can be told from its
pixels.
"""

import os
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.broken import BROKEN_FILES
from vit_finetune.core.errors import UserError
from vit_finetune.data import folder as folder_module
from vit_finetune.data.folder import load_folder


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


def load(folder, **options):
    settings = {
        "into": Path(tempfile.mkdtemp()),
        "image_size": 8,
        "fit": "crop",
        "test_share": 0.25,
        "broken": "error",
    }
    return load_folder(folder, **settings | options)


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


def test_every_image_comes_once_with_its_folder_as_the_class(tmp_path):
    colours = make_tree(tmp_path, {"dog": 9, "cat": 12, "horse": 5})
    dataset = load(str(tmp_path))
    assert dataset.classes == ["cat", "dog", "horse"]
    assert (dataset.checksums, dataset.broken) == ({}, [])
    parts = found(dataset, colours, tmp_path)
    assert list(parts) == ["train", "test"]
    for name, count in {"cat": 12, "dog": 9, "horse": 5}.items():
        train, test = parts["train"][name], parts["test"][name]
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
    assert {int(name[3:]): len(paths) for name, paths in parts["train"].items()} == {
        count: count - tests for count, tests in expected.items()
    }


def test_the_test_images_do_not_depend_on_where_the_folder_lies_or_how_it_was_filled(tmp_path):
    counts = {"cat": 10, "dog": 7}
    here, there = tmp_path / "here", tmp_path / "far" / "away"
    colours = make_tree(here, counts)
    for colour, path in reversed(colours.items()):
        (there / path.relative_to(here)).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(there / path.relative_to(here))
    parts = found(load(here), colours, here)
    assert found(load(there), colours, here) == parts
    assert found(load(here), colours, here) == parts


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
    before, moves = found(load(tmp_path, test_share=share), colours, tmp_path), Counter()
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


def test_with_a_test_folder_no_training_image_is_taken_for_testing(tmp_path):
    colours = make_tree(tmp_path, {"train/dog": 4, "train/cat": 6, "test/cat": 1, "test/dog": 3})
    assert found(load(tmp_path), colours, tmp_path) == {
        "train": names("cat", numbers=range(6), part="train/")
        | names("dog", numbers=range(4), part="train/"),
        "test": names("cat", numbers=range(1), part="test/")
        | names("dog", numbers=range(3), part="test/"),
    }


@pytest.mark.parametrize("spelling", ["val", "valid", "validation"])
def test_a_validation_folder_beside_train_and_test_is_a_part_of_its_own(tmp_path, spelling):
    counts = {
        "train/cat": 3,
        "train/dog": 1,
        f"{spelling}/cat": 2,
        f"{spelling}/dog": 4,
        "test/cat": 1,
        "test/dog": 2,
    }
    colours = make_tree(tmp_path, counts)
    parts = found(load(tmp_path), colours, tmp_path)
    assert list(parts) == ["train", "val", "test"]
    assert {
        f"{part}/{name}": len(paths) for part in parts for name, paths in parts[part].items()
    } == {key.replace(spelling, "val"): count for key, count in counts.items()}
    folders = {
        part: {path.split("/")[0] for paths in parts[part].values() for path in paths}
        for part in parts
    }
    assert folders == {"train": {"train"}, "val": {spelling}, "test": {"test"}}


@pytest.mark.parametrize("spelling", ["val", "valid", "validation"])
def test_without_a_test_folder_test_images_come_from_train_and_validation_stays_whole(
    tmp_path, spelling
):
    colours = make_tree(
        tmp_path, {"train/cat": 8, "train/dog": 4, f"{spelling}/cat": 5, f"{spelling}/dog": 2}
    )
    parts = found(load(tmp_path), colours, tmp_path)
    assert list(parts) == ["train", "val", "test"]
    assert parts["val"] == (
        names("cat", numbers=range(5), part=f"{spelling}/")
        | names("dog", numbers=range(2), part=f"{spelling}/")
    )
    for name, count in {"cat": 8, "dog": 4}.items():
        assert len(parts["test"][name]) == count // 4
        both = sorted(parts["train"][name] + parts["test"][name])
        assert both == names(name, numbers=range(count), part="train/")[name]


def test_a_train_folder_alone_is_split_like_a_folder_of_classes(tmp_path):
    colours = make_tree(tmp_path, {"train/cat": 8, "train/dog": 4})
    parts = found(load(tmp_path), colours, tmp_path)
    assert {part: [len(paths) for paths in parts[part].values()] for part in parts} == {
        "train": [6, 3],
        "test": [2, 1],
    }


def test_a_folder_named_train_among_other_classes_is_a_class(tmp_path):
    colours = make_tree(tmp_path, {"bus": 4, "train": 4, "tram": 4})
    dataset = load(tmp_path)
    assert dataset.classes == ["bus", "train", "tram"]
    parts = found(dataset, colours, tmp_path)
    assert {len(paths) for paths in parts["train"].values()} == {3}


def neither(folder, names):
    return (
        f"{folder} has {names}: it may hold a folder for each class; or train (training) and beside it one of val "
        "(valid, validation), one of test (testing), and no other; rename or move what is neither"
    )


@pytest.mark.parametrize(
    ("top", "named"),
    [
        (("train", "val", "valid", "test"), "test, train, val, valid"),
        (("train", "test", "extra"), "test, train, extra"),
        (("train", "dev"), "train, dev"),
        (("Training", "holdout", "eval"), "Training, eval, holdout"),
        (("test", "training_set"), "test, training_set"),
        (("validation", "test"), "test, validation"),
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
        f"{given} has images outside class folders; put them in {given}/<class>/, or move {given} elsewhere if their "
        "classes are not known"
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
        f"{where} holds a folder {name!a}: a class has a name that can be printed; rename the folder"
    )


@pytest.mark.parametrize("name", ["été", "猫", "big cat", "c++", "it's"])
def test_a_class_may_have_any_name_that_can_be_printed(tmp_path, name):
    make_tree(tmp_path, {name: 3, "dog": 3})
    assert name in load(tmp_path).classes


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
    assert [entry.partition(" (")[0] for entry in dataset.broken] == [
        ascii(f"dog/{name}.png") for name in reversed(names)
    ]


def test_the_names_of_train_val_and_test_folders_may_be_spelt_in_other_ways(tmp_path):
    make_tree(
        tmp_path,
        {f"{part}/{name}": 2 for part in ("Training", "TEST", "Valid") for name in ("cat", "dog")},
    )
    dataset = load(tmp_path)
    assert {part: len(labels) for part, labels in dataset.labels.items()} == {
        "train": 4,
        "val": 4,
        "test": 4,
    }
    assert dataset.classes == ["cat", "dog"]


def test_files_whose_names_are_not_those_of_images_are_listed_as_ignored(tmp_path):
    make_tree(tmp_path, {"cat": 3, "dog": 3})
    for name in ("cat/phone.heic", "dog/deep/notes.txt", "dog/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    assert load(tmp_path).ignored == ["cat/phone.heic", "dog/deep/notes.txt"]


@pytest.mark.parametrize("part", ["", "train/"])
def test_loose_images_and_folders_that_programs_keep_are_listed_as_ignored(tmp_path, part):
    make_tree(tmp_path, {f"{part}{name}": 3 for name in ("cat", "dog", "__MACOSX")})
    for name in ("b.png", f"{part}a.JPG", f"{part}cat/notes.txt"):
        paint(tmp_path / name, 99)
    for name in ("labels.csv", f"{part}cat.dvc", ".gitignore"):
        (tmp_path / name).write_text("no image")
    listed = ["b.png", f"{part}__MACOSX/", f"{part}a.JPG", f"{part}cat/notes.txt"]
    assert load(tmp_path).ignored == sorted(listed, key=Path)


def test_manuals_and_films_are_ignored_and_not_broken(tmp_path):
    make_tree(tmp_path, {"cat": 3, "dog": 3})
    for name in ("cat/a.pdf", "dog/b.mpg", "dog/c.h5"):
        (tmp_path / name).write_bytes(b"something else")
    dataset = load(tmp_path)
    assert (dataset.broken, dataset.ignored) == ([], ["cat/a.pdf", "dog/b.mpg", "dog/c.h5"])


def test_folders_that_are_linked_into_a_class_are_read(tmp_path):
    colours = make_tree(tmp_path / "images", {"cat": 3, "dog": 3})
    colours |= make_tree(tmp_path, {"more": 4}, start=len(colours))
    (tmp_path / "images" / "cat" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "images" / "cat" / "up").symlink_to("..")
    labels = load(tmp_path / "images").labels
    assert sum(part.tolist().count(0) for part in labels.values()) == 7
    assert sum(part.tolist().count(1) for part in labels.values()) == 3


def test_labels_number_the_classes_in_the_order_of_their_names_in_every_part(tmp_path):
    ordered = ["10", "2", "Zebra", "ant", "été"]
    colours = make_tree(
        tmp_path, {f"test/{name}": 2 for name in ["ant", "été", "2", "Zebra", "10"]}
    )
    colours |= make_tree(
        tmp_path, {f"train/{name}": 3 for name in reversed(ordered)}, start=len(colours)
    )
    dataset = load(tmp_path)
    assert dataset.classes == ordered
    assert dataset.labels["test"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for part, by_class in found(dataset, colours, tmp_path).items():
        for name, paths in by_class.items():
            assert {path.rpartition("/")[0] for path in paths} == {f"{part}/{name}"}


def test_images_of_a_class_may_lie_in_folders_below_it(tmp_path):
    colours = make_tree(tmp_path, {"cat": 2, "dog": 4, "cat/2024/may": 2})
    for number, name in enumerate(
        ["cat/a.PNG", "cat/2024/b.Jpeg", "cat/c.JPG", "cat/d e.f.WebP"], start=100
    ):
        colours |= paint(tmp_path / name, number)  # what a file is, its content says
    parts = found(load(tmp_path), colours, tmp_path)
    assert len(parts["test"]["cat"]) == 2
    assert sorted(parts["train"]["cat"] + parts["test"]["cat"]) == [
        "cat/00.png",
        "cat/01.png",
        "cat/2024/b.Jpeg",
        "cat/2024/may/00.png",
        "cat/2024/may/01.png",
        "cat/a.PNG",
        "cat/c.JPG",
        "cat/d e.f.WebP",
    ]


def test_hidden_files_other_files_and_files_outside_the_classes_are_not_read(tmp_path):
    colours = make_tree(tmp_path, {"train/cat": 4, "train/dog": 4})
    before = found(load(tmp_path), colours, tmp_path)
    for name in [
        "train/cat/.hidden.png",
        "train/cat/._00.png",
        "train/cat/.ipynb_checkpoints/00-checkpoint.png",
        "train/cat/deep/.thumbnails/00.png",
        "train/.ipynb_checkpoints/00.png",
        "train/__MACOSX/00.png",
        "__MACOSX/train/cat/00.png",
        ".git/00.png",
        "train/loose.png",
        "loose.png",
    ]:
        paint(tmp_path / name, 999)
    for name in [
        "labels.csv",
        "train/cat/notes.txt",
        "train/cat/Thumbs.db",
        "train/cat/00.png.xmp",
        "train/dog/png",
    ]:
        (tmp_path / name).write_text("no image")
    (tmp_path / "train" / "dog" / "folder.png").mkdir()
    assert found(load(tmp_path), colours, tmp_path) == before


def test_every_image_has_the_size_and_the_fit_of_the_settings(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            picture = Image.new("RGB", (32, 16), (200, 10, 10))
            picture.paste((10, 10, 200), (8, 0, 24, 16))  # the middle half
            picture.save(tmp_path / name / f"{number}.png")
    bands = {}
    for fit in ("crop", "pad", "squash"):
        images = load(tmp_path, image_size=16, fit=fit).images["train"]
        assert images.shape == (6, 16, 16, 3)
        bands[fit] = [images[0, 0, 8].tolist(), images[0, 8, 0].tolist(), images[0, 8, 8].tolist()]
    edge, middle = [200, 10, 10], [10, 10, 200]
    assert bands == {
        "crop": [middle, middle, middle],
        "pad": [[127] * 3, edge, middle],
        "squash": [middle, edge, middle],
    }


def test_the_progress_bar_moves_on_only_as_files_are_read(tmp_path, monkeypatch):
    make_tree(tmp_path, {"cat": 10, "dog": 10})
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    read, asked = [], []
    original = folder_module.open_image
    monkeypatch.setattr(
        folder_module, "open_image", lambda path: (original(path), read.append(path))[0]
    )

    def bar(paths):
        for path in paths:
            asked.append(len(read))
            yield path

    load(tmp_path, bar=bar)
    assert len(asked) == len(set(read)) == 20
    assert all(done >= number for number, done in enumerate(asked))


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
        f"the 16-bit images in {tmp_path} use only 0..{max(largest)} of 0..65535 and would be nearly black; save them "
        "with 8 bits, or multiply their values by 16 if they have 12 bits"
    )


@pytest.mark.parametrize("largest", [[4096], [100, 65535]])
def test_a_dark_16_bit_image_beside_brighter_ones_stays_dark(tmp_path, largest):
    make_tree(tmp_path, {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1})
    save_deep(tmp_path / "train" / "cat", largest)
    dataset = load(tmp_path)
    deep = dataset.images["train"][2 : 2 + len(largest), 0, 0, 0].tolist()
    assert deep == [round(value / 257) for value in largest]


def test_an_image_of_no_known_range_is_unreadable_with_the_reason(tmp_path):
    make_tree(tmp_path, {"cat": 4, "dog": 4})
    Image.new("F", (8, 8), 0.5).save(tmp_path / "cat" / "float.tiff")
    reason = "cat/float.tiff (32-bit floating point has no known range of brightness; convert it to 8 bits)"
    assert reason in error_of(tmp_path)
    assert load(tmp_path, broken="skip").broken == [reason]


# Files that cannot be read


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_an_unreadable_file_is_named_with_the_reason_and_what_to_do(tmp_path, few_pixels, name):
    make_tree(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "dog" / name).write_bytes(BROKEN_FILES[name])
    said = f"1 of 9 files in {tmp_path} cannot be read as images: dog/{name} (REASON); "
    pattern = re.escape(said + "remove them, or set data.broken to skip").replace(
        "REASON", ".{10,}"
    )
    assert re.fullmatch(pattern, error_of(tmp_path))


def test_unreadable_files_are_left_out_and_listed_where_broken_is_skip(tmp_path, few_pixels):
    colours = make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2})
    before = found(load(tmp_path), colours, tmp_path)
    for name, content in BROKEN_FILES.items():
        (tmp_path / "test" / "cat" / name).write_bytes(content)
    dataset = load(tmp_path, broken="skip")
    assert found(dataset, colours, tmp_path) == before
    assert [entry.partition(" (")[0] for entry in dataset.broken] == [
        f"test/cat/{name}" for name in sorted(BROKEN_FILES)
    ]


@pytest.mark.parametrize(("count", "more"), [(5, ""), (6, " and 1 more"), (12, " and 7 more")])
def test_of_many_unreadable_files_all_are_counted_and_listed_and_five_are_named(
    tmp_path, count, more
):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2})
    for number in range(count):
        (tmp_path / "train" / "dog" / f"broken {number:02}.jpg").write_bytes(b"")
    listed = load(tmp_path, broken="skip").broken
    assert [entry.partition(" (")[0] for entry in listed] == [
        f"train/dog/broken {n:02}.jpg" for n in range(count)
    ]
    assert error_of(tmp_path) == (
        f"{count} of {10 + count} files in {tmp_path} cannot be read as images: {', '.join(listed[:5])}{more}; "
        "remove them, or set data.broken to skip"
    )


def test_unreadable_files_do_not_count_as_images_of_their_class(tmp_path):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2})
    (tmp_path / "test" / "dog").mkdir()
    (tmp_path / "test" / "dog" / "00.png").write_bytes(b"")
    assert error_of(tmp_path, broken="skip") == few(
        tmp_path, "dog (train 3, test 0)", "train 2, test 1"
    )


def test_a_test_folder_of_unreadable_files_alone_is_an_error(tmp_path):
    make_tree(tmp_path, {"train/cat": 2, "train/dog": 2})
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "00.jpg").write_bytes(b"")
    expected = few(tmp_path, "cat (train 2, test 0), dog (train 2, test 0)", "train 2, test 1")
    assert error_of(tmp_path, broken="skip") == expected


# Too few classes or images


def few(folder, classes, needed):
    return (
        f"{folder}: classes with too few images: {classes}; each needs at least {needed}; "
        "add images or remove the folder"
    )


def no_classes(folder, how_many):
    return (
        f"{folder} holds {how_many} class, at least two are needed; put images in {folder}/<class>/, or in "
        f"{folder}/train/<class>/ and {folder}/test/<class>/"
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
    ("counts", "share", "classes"),
    [
        ({"cat": 3, "dog": 0}, 0.25, "dog (train 0, test 0)"),
        ({"cat": 3, "dog": 1}, 0.25, "dog (train 0, test 1)"),
        ({"cat": 2, "dog": 1, "ox": 3}, 0.25, "cat (train 1, test 1), dog (train 0, test 1)"),
        ({"train/cat": 2, "train/dog": 9}, 0.25, "cat (train 1, test 1)"),
        ({"cat": 4, "dog": 40}, 0.8, "cat (train 1, test 3)"),
    ],
)
def test_a_class_with_too_few_images_to_draw_from_is_named_with_its_counts(
    tmp_path, counts, share, classes
):
    make_tree(tmp_path, counts)
    assert error_of(tmp_path, test_share=share) == few(tmp_path, classes, "train 2, test 1")


@pytest.mark.parametrize(
    ("counts", "classes", "needed"),
    [
        (
            {"train/cat": 1, "train/dog": 2, "test/cat": 5, "test/dog": 1},
            "cat (train 1, test 5)",
            "train 2, test 1",
        ),
        (
            {"train/cat": 2, "train/dog": 2, "test/cat": 5},
            "dog (train 2, test 0)",
            "train 2, test 1",
        ),
        (
            {"train/cat": 2, "train/dog": 2, "test": 0},
            "cat (train 2, test 0), dog (train 2, test 0)",
            "train 2, test 1",
        ),
        (
            {"train/a": 1, "train/b": 0, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1},
            "b (train 0, val 1, test 1)",
            "train 1, val 1, test 1",
        ),
        (
            {"train/a": 1, "train/b": 1, "validation/b": 1, "test/a": 1, "test/b": 1},
            "a (train 1, val 0, test 1)",
            "train 1, val 1, test 1",
        ),
        (
            {"train/a": 2, "train/b": 1, "val/a": 1, "val/b": 1},
            "b (train 0, val 1, test 1)",
            "train 1, val 1, test 1",
        ),
    ],
)
def test_a_class_with_too_few_images_in_a_given_part_is_named_with_its_counts(
    tmp_path, counts, classes, needed
):
    make_tree(tmp_path, counts)
    assert error_of(tmp_path) == few(tmp_path, classes, needed)


@pytest.mark.parametrize(
    "counts",
    [
        {"cat": 3, "dog": 3},
        {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1},
        {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1, "test/cat": 1, "test/dog": 1},
        {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1},
    ],
)
def test_the_fewest_images_that_are_allowed_are_enough(tmp_path, counts):
    colours = make_tree(tmp_path, counts)
    parts = found(load(tmp_path), colours, tmp_path)
    assert sum(len(paths) for by_class in parts.values() for paths in by_class.values()) == len(
        colours
    )


def test_of_many_classes_with_too_few_images_five_are_named(tmp_path):
    make_tree(tmp_path, {**{f"c{number}": 1 for number in range(8)}, "dog": 3})
    named = ", ".join(f"c{number} (train 0, test 1)" for number in range(5))
    assert error_of(tmp_path) == few(tmp_path, f"{named} and 3 more", "train 2, test 1")


@pytest.mark.parametrize("part", ["test", "val", "valid", "validation"])
def test_classes_that_only_test_or_validation_has_are_named_with_their_folder(tmp_path, part):
    make_tree(
        tmp_path,
        {"train/cat": 3, "train/dog": 3, f"{part}/cat": 1, f"{part}/dgo": 1, f"{part}/ant": 0},
    )
    assert (
        error_of(tmp_path)
        == f"{tmp_path / part} has classes that {tmp_path}/train has not: ant, dgo"
    )
