"""Groups: images of one subject stay in one part, and the classes keep about their share."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stages import download, subset

from tests.data import loaded
from tests.project import ROOT
from vit_finetune.core.arrays import decode_names, read_split
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import read_json, write_json
from vit_finetune.data.corrections import CORRECTIONS
from vit_finetune.data.folder import FolderSource
from vit_finetune.data.groups import draw_groups, group_of
from vit_finetune.params import Data, read_params, read_yaml
from vit_finetune.stage import Stage


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("folder", ["s1", "s2", None, "s1"]),
        (r"/(s\d+)/", ["s1", "s2", None, "s1"]),
        (r"s\d", ["s1", "s2", "s9", "s1"]),
        (r"^(?:train/)?([^/]+)", ["cat", "cat", "cat", "dog"]),
    ],
)
def test_a_group_is_the_folder_below_the_class_or_what_a_pattern_matches(group, expected):
    files = ["train/cat/s1/0.png", "train/cat/s2/deep/0.png", "train/cat/s9.png", "train/dog/s1/1"]
    assert [group_of(file, file.split("/", 2)[2], group) for file in files] == expected


@given(
    sizes=st.lists(st.integers(1, 12), min_size=4, max_size=40),
    share=st.sampled_from([0.1, 0.2, 0.5]),
    seed=st.integers(0, 99),
)
def test_whole_groups_are_drawn_and_each_class_keeps_about_its_share_on_both_sides(
    sizes, share, seed
):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.repeat(np.arange(len(sizes)) % 2, sizes)
    drawn = draw_groups(labels, groups, rng.permutation(len(sizes)).tolist(), share)
    assert not set(groups[drawn]) & set(groups[~drawn])
    assert set(labels[drawn]) == set(labels[~drawn]) == {0, 1}
    for label in (0, 1):
        count = np.sum(labels == label)
        largest = max(size for k, size in enumerate(sizes) if k % 2 == label)
        assert abs(np.sum(drawn & (labels == label)) - share * count) <= largest


def test_a_group_with_several_classes_is_drawn_if_that_brings_all_of_them_closer():
    # each group has 6 images of one class and 2 of the other
    groups = np.repeat(np.arange(20), 8)
    labels = np.concatenate([[k % 2] * 6 + [1 - k % 2] * 2 for k in range(20)])
    drawn = draw_groups(labels, groups, list(range(20)), 0.2)
    assert np.bincount(labels[drawn]).tolist() == [16, 16]


@pytest.mark.parametrize("share", [0.1, 0.95])
def test_of_each_class_one_group_is_left_and_one_is_drawn_if_it_has_two(share):
    groups = np.repeat(np.arange(5), 4)
    labels = np.repeat([0, 0, 1, 1, 2], 4)  # one group of class 2
    drawn = draw_groups(labels, groups, [4, 3, 2, 1, 0], share)
    assert set(labels[drawn]) == {0, 1}
    assert set(labels[~drawn]) == {0, 1, 2}


# In the stages


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """Two classes of twelve subjects with ten images each, in a folder for each subject."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for k in range(24):
        for number in range(10):
            path = tmp_path / f"data/images/{'ab'[k % 2]}/s{k:02}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    shutil.copy(ROOT / CORRECTIONS, tmp_path / CORRECTIONS)
    return tmp_path / "data/images"


def run(group, **sizes):
    """Both stages; the subjects of each split, from the names of its files."""
    params = read_yaml(ROOT / "params.yaml")
    params["data"] |= {"name": "folder", "image_size": 8, "group": group}
    params["subset"] |= {"train_size": "all", "val_size": "auto", **sizes}
    write_json("params.yaml", params)  # JSON is YAML
    download.main(Stage("download", read_params()))
    subset.main(Stage("subset", read_params()))
    subjects = {}
    for split in ("train", "val", "test"):
        files, groups = read_split("data/subset", split, "files", "groups")
        subjects[split] = [re.search(r"s\d+", name).group() for name in decode_names(files)]
        # a number stands for one subject and the other way round
        assert len({*zip(groups.tolist(), subjects[split], strict=True)}) == len({*groups.tolist()})
    return subjects


@pytest.mark.parametrize("group", ["folder", r"/s(\d+)/"])
def test_no_subject_is_in_two_parts_and_the_sizes_are_about_as_wanted(frames, group):
    subjects = run(group)
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(subjects[a]) & set(subjects[b])
    images = read_json("metrics/subset.json")["images"]
    assert images == {split: len(of_split) for split, of_split in subjects.items()}
    assert images == {"train": 180, "val": 20, "test": 40}  # 15 % of 200 are 30, 20 % of 240 are 48


def test_without_groups_subjects_are_in_all_parts(frames):
    subjects = run(None)
    assert len(set(subjects["train"]) & set(subjects["test"])) > 10


def test_training_images_of_a_subject_that_is_in_a_given_test_part_are_dropped(frames, capsys):
    for name in "ab":
        (frames / "train").mkdir(exist_ok=True)
        shutil.move(frames / name, frames / "train" / name)
        subject = sorted((frames / "train" / name).iterdir())[0]
        (frames / "test" / name / subject.name).mkdir(parents=True)
        for number in range(5):
            shutil.move(subject / f"{number}.png", frames / "test" / name / subject.name)
    subjects = run("folder", val_size=20)
    assert set(subjects["test"]) == {"s00", "s01"}
    assert not {"s00", "s01"} & {*subjects["train"], *subjects["val"]}
    assert "have the pixels or the group of a test or validation image" in capsys.readouterr().out


def test_files_without_a_group_are_said_and_are_groups_of_their_own(frames, capsys):
    (frames / "a/s00/0.png").rename(frames / "a/s00.png")
    run("folder")
    assert capsys.readouterr().out.splitlines()[0] == (
        "download: data.group is 'folder': 1 of 240 files have no group and are groups of their "
        "own, such as 'a/s00.png'"
    )


def test_a_pattern_that_fits_no_file_is_an_error(frames):
    with pytest.raises(
        UserError, match=r"^data\.group is 'x': 240 of 240 files have no group, such"
    ):
        run("x")


def test_a_new_group_moves_images_of_one_other_at_most(tmp_path):
    data = Data(name="folder", folder=str(tmp_path), image_size=8, group="folder", test_share=0.25)

    def test_subjects():
        source = FolderSource(data, 1)
        return {str(Path(name).parent) for name in decode_names(source.files["test"])}

    def add(subject):
        for name in ("a", "b"):
            for number in range(3):
                path = tmp_path / name / f"{name}{subject}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(path)

    for subject in range(8):
        add(subject)
    before = test_subjects()
    assert len(before) == 4
    for subject in range(8, 20):
        add(subject)
        after = test_subjects()
        for name in "ab":
            moved = {path for path in before ^ after if path.startswith(name)}
            assert len(moved - {f"{name}/{name}{subject}"}) <= 1
        before = after
    assert loaded.load(FolderSource(data, 1)).classes == ["a", "b"]
