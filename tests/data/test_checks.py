"""Faults that were planted in a folder are named, counted and found by the stages, and no test
image is trained on."""

import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from stages import download, subset

from tests.project import ROOT
from vit_finetune.core.arrays import decode_names, read_split
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import read_csv, read_json, write_json
from vit_finetune.data.checks import told_apart
from vit_finetune.data.corrections import CORRECTIONS
from vit_finetune.params import read_params, read_yaml
from vit_finetune.stage import Stage


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Two classes of 40 training and 8 test images each, no two alike; returns a function that runs
    the two stages."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, count in {"train": 40, "test": 8}.items():
        for name in ("cat", "dog"):
            for number in range(count):
                save(tmp_path / "data/images" / part / name / f"{number:02}.png", rng)
    shutil.copy(ROOT / CORRECTIONS, tmp_path / CORRECTIONS)
    return tmp_path / "data/images"


def save(path, rng, size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(256, size=(*size[::-1], 3), dtype=np.uint8)).save(path)


def files_of(split):
    return decode_names(read_split("data/subset", split, "files")[0])


def run(fit="crop", leaks="drop"):
    """Both stages; the table of problems."""
    params = read_yaml(ROOT / "params.yaml")
    params["data"] |= {"name": "folder", "image_size": 32, "broken": "skip", "fit": fit}
    params["subset"] |= {"train_size": 30, "val_size": 6, "leaks": leaks}
    params["attention"] |= {"gallery": 2, "sample": 8}
    write_json("params.yaml", params)  # JSON is YAML
    download.main(Stage("download", read_params()))
    subset.main(Stage("subset", read_params()))
    return read_csv("plots/image_problems.csv")


def test_images_without_faults_have_no_problem(images):
    assert run() == []
    assert read_json("metrics/subset.json") == {
        "images": {"train": 30, "val": 6, "test": 16},
        "problems": 0,
    }


def test_every_planted_fault_is_in_the_table_with_its_file_and_counted(images, capsys):
    rng = np.random.default_rng(1)
    shutil.copy(images / "test/cat/03.png", images / "train/cat/leak.png")
    shutil.copy(images / "train/dog/05.png", images / "train/cat/other class.png")
    # other bytes, the same pixels
    Image.open(images / "train/dog/07.png").save(images / "train/dog/twice.bmp")
    save(images / "train/dog/tiny.png", rng, (15, 40))
    for number in range(2):
        save(images / "train/owl" / f"{number}.png", rng)
    save(images / "test/owl/0.png", rng)
    (images / "train/cat/broken (1).jpg").write_bytes(b"no image")
    (images / "train/cat/notes.txt").write_text("no image")
    rows = run()
    found = {(row["problem"], row["part"], row["file"], row["detail"]) for row in rows}
    assert found == {
        ("in two parts", "train", "train/cat/leak.png", "test test/cat/03.png"),
        ("in two parts", "test", "test/cat/03.png", "train train/cat/leak.png"),
        ("in two classes", "train", "train/cat/other class.png", "train/dog/05.png"),
        ("in two classes", "train", "train/dog/05.png", "train/cat/other class.png"),
        ("twice in a part", "train", "train/cat/other class.png", "train/dog/05.png"),
        ("twice in a part", "train", "train/dog/05.png", "train/cat/other class.png"),
        ("twice in a part", "train", "train/dog/07.png", "train/dog/twice.bmp"),
        ("twice in a part", "train", "train/dog/twice.bmp", "train/dog/07.png"),
        ("small image", "train", "train/dog/tiny.png", "15 x 40 pixels"),
        ("rare class", "train", "", "2 images, the largest class has 42"),
        (
            "unreadable",
            "",
            "train/cat/broken (1).jpg",
            next(r["detail"] for r in rows if r["problem"] == "unreadable"),
        ),
        ("no image of a class", "", "train/cat/notes.txt", ""),
    }
    (unreadable,) = (row for row in rows if row["problem"] == "unreadable")
    assert unreadable["detail"].startswith("cannot identify image file")
    assert read_json("metrics/subset.json")["problems"] == len(rows) == 12
    said = capsys.readouterr().out.splitlines()
    kinds = Counter(row["problem"] for row in rows)
    for problem, count in kinds.items():
        assert sum(f"{problem}: {count}, the first: " in line for line in said) == 1
    table = "; all in plots/image_problems.csv"
    owls = "rare class: 1, the first: train owl (2 images, the largest class has 42)"
    assert f"subset: {owls}{table}" in said
    wrong = "; those of one part stay under both labels, so remove the wrong one"
    assert any(line.endswith(f"(train/dog/05.png){wrong}{table}") for line in said)


def plant_leaks(images):
    """Thirty of the forty cats to train on become copies of the eight test images."""
    for number in range(30):
        shutil.copy(images / f"test/cat/{number % 8:02}.png", images / f"train/cat/{number:02}.png")


@pytest.mark.parametrize(("leaks", "cats"), [("drop", 10), ("keep", 18)])
def test_with_the_default_no_test_image_is_trained_on_and_others_are_drawn_instead(
    images, leaks, cats
):
    plant_leaks(images)
    run(leaks=leaks)
    train, val, test = (
        {image.tobytes() for image in np.load(f"data/subset/{split}_images.npy")}
        for split in ("train", "val", "test")
    )
    assert bool(train & (test | val)) == bool(val & test) == (leaks == "keep")
    chosen = [name for split in ("train", "val") for name in files_of(split) if "cat" in name]
    assert len(chosen) == len(set(chosen)) == cats


def test_test_images_to_train_on_are_an_error_where_leaks_is_error(images):
    plant_leaks(images)
    with pytest.raises(
        UserError, match="have the pixels or the group of a test or validation image; remove"
    ):
        run(leaks="error")


def test_dropped_images_are_replaced_as_long_as_the_class_has_others(images):
    before = run()
    first = files_of("train")[0]
    shutil.copy(images / "test/cat/00.png", images / first)
    assert before == [] != run()
    after = files_of("train")
    assert len(after) == 30
    assert first not in after


def test_the_files_of_the_subset_are_those_of_its_images(images):
    run()
    for split in ("train", "val", "test"):
        for name, image in zip(
            files_of(split), np.load(f"data/subset/{split}_images.npy"), strict=True
        ):
            assert np.array_equal(np.asarray(Image.open(images / name)), image)


def test_padded_images_are_stored_with_the_box_that_is_no_bar(images):
    rng = np.random.default_rng(2)
    for number in range(8):
        save(images / f"test/cat/{number:02}.png", rng, (40, 10))
    run()
    assert not (images.parent / "subset/test_content.npy").exists()  # nothing was padded
    run(fit="pad")
    for name, (top, left, bottom, right) in zip(
        files_of("test"), np.load("data/subset/test_content.npy"), strict=True
    ):
        expected = (12, 0, 20, 32) if "cat" in name else (0, 0, 32, 32)
        assert (top, left, bottom, right) == expected


def problems_of(rows, kind):
    return {row["class"]: row["detail"] for row in rows if row["problem"] == kind}


def test_a_class_that_the_type_of_its_files_tells_from_the_others_is_named(images):
    rng = np.random.default_rng(3)
    for number in range(40):
        save(images / "train/owl" / f"{number}.jpg", rng)
        save(images / "train/emu" / f"{number}.jpeg", rng)  # the same type by another name
    save(images / "test/owl/0.jpg", rng)
    shutil.copytree(images / "train/dog", images / "train/cow")
    for path in (images / "train/cow").iterdir():
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    detail = "the type of the file alone tells it from the others: {} right, 50% by chance"
    # JPEG finds each of these two classes, and one of the four others
    both = dict.fromkeys(("emu", "owl"), detail.format("88%"))
    assert problems_of(run(), "shortcut") == both

    shutil.rmtree(images / "train/emu")
    assert problems_of(run(), "shortcut") == {"owl": detail.format("100%")}


@pytest.mark.parametrize(
    ("cat", "dog", "fit", "what"),
    [
        ((100, 30), (30, 100), "crop", None),
        ((100, 30), (30, 100), "pad", "shape"),
        ((100, 30), (30, 100), "squash", "shape"),
        ((32, 32), (320, 320), "crop", "size"),
    ],
)
def test_classes_that_size_or_shape_tell_apart_are_named_if_the_model_can_see_it(
    images, cat, dog, fit, what
):
    rng = np.random.default_rng(4)
    for name, size in (("cat", cat), ("dog", dog)):
        for path in (images / "train" / name).iterdir():
            save(path, rng, size)
    found = problems_of(run(fit=fit), "shortcut")
    if what is None:
        assert found == {}
    else:
        assert set(found) == {"cat", "dog"}
        for detail in found.values():
            assert detail.startswith(f"the {what} of the file alone tells it from the others: 100%")


@pytest.mark.parametrize("seed", range(5))
def test_files_of_any_type_and_size_are_no_shortcut(images, seed):
    rng = np.random.default_rng(seed)
    shutil.rmtree(images / "train")
    for name in ("cat", "dog", "owl"):
        save(images / "test" / name / "0.png", rng)
        for number in range(30):
            suffix = rng.choice(["jpg", "png", "bmp"])
            width, height = rng.integers(20, 200, size=2)
            save(images / "train" / name / f"{number}.{suffix}", rng, (width, height))
    assert problems_of(run(fit="squash"), "shortcut") == {}


def test_a_class_that_consists_of_copies_of_the_others_is_named_first(images, capsys):
    for path in [*(images / "train").rglob("*.png")]:
        (images / "train/all").mkdir(exist_ok=True)
        shutil.copy(path, images / "train/all" / f"{path.parent.name} {path.name}")
    shutil.copy(images / "test/cat/00.png", images / "train/dog/one more.png")
    rows = run(leaks="keep")
    assert problems_of(rows, "class of copies") == {
        "all": "all of its 80 images are in other classes too",
        "cat": "all of its 40 images are in other classes too",
    }
    first = next(line for line in capsys.readouterr().out.splitlines() if "class" in line)
    assert first == (
        "subset: class of copies: 2, the first: train all (all of its 80 images are in other "
        "classes too); is the folder inside itself?; all in plots/image_problems.csv"
    )


def test_a_property_that_every_image_has_for_itself_tells_nothing_of_its_class():
    is_class = np.arange(400) % 2 == 0
    right, error = told_apart(np.arange(400), is_class)
    assert right == 0.5
    assert 0 <= error < 0.05
