"""Every suspect is in the table once for each reason, with what a person needs to decide."""

import csv

import numpy as np

from tests.review.examples import CLASSES, clusters, made_up
from vit_finetune.core.arrays import encode_names
from vit_finetune.core.files import write_csv
from vit_finetune.params import Params
from vit_finetune.review import suspects

TRAIN = 21  # the first row of the part in the examples, after 12 test and 9 validation images


def review(images, corrections=(), **thresholds):
    settings = Params().review.model_dump() | thresholds
    return suspects.review(images, suspects.kept_rows(images, corrections), seed=0, **settings)


def copied(*pairs, labels=None, **replaced):
    """Images of which some are the same: (7, 30) makes image 30 a copy of image 7."""
    images = made_up(labels=labels)
    pixels = np.concatenate(images.pixels)
    features = images.features.copy()
    for original, copy in pairs:
        pixels[copy] = pixels[original]
        features[copy] = features[original]
    parts = np.split(pixels, np.cumsum([12, 9]))
    return made_up(labels=labels, pixels=parts, features=features, **replaced)


def near_copies(images, **thresholds):
    found = review(images, **thresholds).suspects
    return [(s.kind, s.row, s.neighbour) for s in found if s.kind in suspects.COPIES]


def test_nothing_to_find_is_an_empty_table_and_zeros():
    true = np.arange(300) % len(CLASSES)
    images = made_up(
        (60, 60, 180),
        features=clusters(true, spread=0.2, seed=2),
        pretrained=clusters(true[60:], spread=0.2),
    )
    nothing = review(images)
    assert [s for s in nothing.suspects if s.kind != suspects.OUTLIER] == []
    assert suspects.metrics(nothing) == {"wrong_labels": 0, "near_copies": 0}
    assert suspects.in_words([]) == "nothing to look at"


def test_wrong_labels_of_every_part_are_found_with_the_right_class_as_suggestion():
    true = np.arange(300) % len(CLASSES)
    given = true.copy()
    exchanged = [5, 70, 200]  # a test, a validation and a training image
    given[exchanged] = (true[exchanged] + 1) % len(CLASSES)
    images = made_up(
        (60, 60, 180),
        labels=given,
        features=clusters(true, spread=0.2, seed=2),
        pretrained=clusters(true[60:], spread=0.2),
    )
    reviewed = review(images)
    found = [s for s in reviewed.suspects if s.kind == suspects.WRONG_LABEL]
    assert sorted(s.row for s in found) == exchanged
    assert all(s.suggestion == true[s.row] for s in found)
    assert all(0.35 <= s.score <= 1 and s.neighbour >= 120 for s in found)
    assert suspects.metrics(reviewed) == {"wrong_labels": 3, "near_copies": 0}


def test_parts_whose_labels_cannot_be_judged_are_named():
    true = np.arange(300) % len(CLASSES)
    adapted = clusters(true, spread=0.2, seed=2)
    random = np.random.default_rng(0).normal(size=(240, adapted.shape[1])).astype(np.float32)
    columns = {"features": adapted, "pretrained": random}
    found = review(made_up((60, 60, 180), **columns))
    assert found.not_judged == ["val", "train"]
    assert [s for s in found.suspects if s.kind == suspects.WRONG_LABEL] == []
    warning = suspects.metrics(found)["warning"]
    assert warning.startswith("no wrong labels are listed in val, train: ")
    assert review(made_up((60, 60, 180), features=adapted)).not_judged == []


def test_the_features_that_have_seen_the_labels_do_not_judge_them():
    """Features that hold the given label, as those of a trained model may."""
    true = np.arange(300) % len(CLASSES)
    given = true.copy()
    given[200] = (true[200] + 1) % len(CLASSES)
    images = made_up(
        (60, 60, 180),
        labels=given,
        features=clusters(given, spread=0.1, seed=2),
        pretrained=clusters(true[60:], spread=0.2),
    )
    listed = [s.row for s in review(images).suspects if s.kind == suspects.WRONG_LABEL]
    assert listed == [200]


def test_of_a_leak_the_image_to_train_on_is_listed_beside_the_test_image():
    assert near_copies(copied((3, 30))) == [(suspects.OTHER_PART, 30, 3)]
    assert near_copies(copied((14, 35))) == [(suspects.OTHER_PART, 35, 14)]
    assert near_copies(copied((3, 15))) == [(suspects.OTHER_PART, 15, 3)]


def test_of_copies_in_one_part_all_but_the_first_are_listed():
    found = near_copies(copied((21, 24), (21, 27)))
    assert [(kind, row) for kind, row, _ in found] == [
        (suspects.SAME_PART, 24),
        (suspects.SAME_PART, 27),
    ]


def test_a_copy_under_another_label_is_the_worst_kind_and_suggests_that_label():
    labels = np.arange(51) % len(CLASSES)
    labels[30] = (labels[3] + 1) % len(CLASSES)
    images = copied((3, 30), (21, 30), labels=labels)
    (suspect,) = [s for s in review(images).suspects if s.kind in suspects.COPIES and s.row == 30]
    assert suspect.kind == suspects.OTHER_LABEL
    assert images.labels[suspect.neighbour] == suspect.suggestion != labels[30]


def test_a_label_that_is_listed_as_wrong_is_no_suggestion_for_its_near_copies():
    labels = np.arange(300) % len(CLASSES)
    features = clusters(labels, spread=0.2, seed=2)
    features[123] = features[3]
    images = made_up(
        (60, 60, 180),
        labels=labels.copy(),
        features=features,
        pretrained=clusters(labels[60:], spread=0.2),
    )
    images.pixels[2][123 - 120] = images.pixels[0][3]
    images.labels[3] = (labels[3] + 1) % len(CLASSES)
    found = {(s.kind, s.row): s.suggestion for s in review(images).suspects}
    assert found[suspects.WRONG_LABEL, 3] == labels[3]
    assert found[suspects.OTHER_LABEL, 123] is None
    keep = {"data": "folder", "file": "test/3", "action": "keep"}
    found = {(s.kind, s.row): s.suggestion for s in review(images, [keep]).suspects}
    assert found[suspects.OTHER_LABEL, 123] == images.labels[3]


def test_copies_in_one_group_are_expected_unless_their_labels_differ():
    groups = np.arange(51)
    groups[24] = 21
    assert near_copies(copied((21, 24), groups=groups)) == []
    labels = np.arange(51) % len(CLASSES)
    labels[24] = (labels[21] + 1) % len(CLASSES)
    found = near_copies(copied((21, 24), groups=groups, labels=labels))
    assert found == [(suspects.OTHER_LABEL, 24, 21)]


def test_a_group_is_judged_by_a_classifier_that_has_not_seen_it():
    """Frames of one subject: with one of them seen, the others are called right."""
    alone = suspects.true_class_probabilities(made_up(), seed=0)
    groups = np.arange(51)
    groups[TRAIN:] = TRAIN
    together = suspects.true_class_probabilities(made_up(groups=groups), seed=0)
    assert (alone[TRAIN:] != together[TRAIN:]).any()


def test_mirrored_copies_under_another_label_are_counted():
    labels = np.arange(51) % len(CLASSES)
    labels[24] = (labels[21] + 1) % len(CLASSES)
    images = copied((21, 24), labels=labels)
    assert review(images).mirrored == 0
    images.pixels[2][24 - TRAIN] = images.pixels[2][24 - TRAIN][:, ::-1]
    assert review(images).mirrored == 1


def test_an_image_unlike_all_others_is_an_outlier():
    true = np.arange(200) % len(CLASSES)
    features = clusters(true, spread=0.05, seed=2)
    features[[7, 150]] = -features[true == 0].mean(axis=0)
    images = made_up((40, 40, 120), labels=true, features=features)
    listed = [s.row for s in review(images).suspects if s.kind == suspects.OUTLIER]
    assert {7, 150} <= set(listed)


def test_images_that_the_corrections_keep_are_not_listed_again():
    images = copied((3, 30), (4, 33))
    keep = {"data": "folder", "file": "train/30", "action": "keep"}
    listed = [s.row for s in review(images, [keep]).suspects if s.kind in suspects.COPIES]
    assert listed == [33]
    for row in (keep | {"data": "other"}, keep | {"action": "relabel"}):
        listed = [s.row for s in review(images, [row]).suspects if s.kind in suspects.COPIES]
        assert sorted(listed) == [30, 33]


def test_the_thresholds_are_those_of_the_parameters():
    images = copied((3, 30))
    images.pixels[2][30 - TRAIN] ^= 16  # no longer the same pixels
    images.features[30] += 0.1
    assert near_copies(images, copies=0.8) == [(suspects.OTHER_PART, 30, 3)]
    assert near_copies(images, copies=1) == []
    loose = suspects.metrics(review(images, wrong_labels=1e-6))
    strict = suspects.metrics(review(images, wrong_labels=0.999999))
    assert loose["wrong_labels"] > strict["wrong_labels"]


def test_the_table_has_kinds_in_order_the_highest_score_first_and_survives_any_name(tmp_path):
    names = ['a, "b".png', "c\nd.png", "é\udcff.png"]
    files = [f"x/{row}" for row in range(51)]
    files[30], files[33], files[3] = names
    images = copied((3, 30), (4, 33), (21, 24), files=encode_names(files))
    found = review(images).suspects
    write_csv(tmp_path / "review.csv", suspects.table(images, found), suspects.COLUMNS)
    with (tmp_path / "review.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert "near-copy in another part: 1; near-copy in the same part: 1" in suspects.in_words(found)
    order = [(suspects.KINDS.index(row["kind"]), -float(row["score"])) for row in rows]
    assert order == sorted(order)
    by_file = {row["file"]: row for row in rows if row["kind"] in suspects.COPIES}
    assert set(by_file) == {'a, "b".png', "'c\\nd.png'", "x/24"}
    leak = by_file['a, "b".png']
    assert leak["neighbour"] == ascii("é\udcff.png")
    assert (leak["part"], leak["neighbour_part"]) == ("train", "test")
    assert float(leak["score"]) == 1
    assert float(leak["distance"]) == 0
