"""Every measure against a plain loop or scikit-learn; and where a ratio has no denominator."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.project import ROOT
from vit_finetune.evaluation import measures
from vit_finetune.intervals import fraction


def predictions(n=400, k=5, seed=0, sharpness=3.0):
    """Labels (n,) and softmax probabilities (n, k) that are right more often than not, in
    float32."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + sharpness * 0.5 * np.eye(k)[labels]
    odds = np.exp(sharpness * logits)
    return labels, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def logits_of(probabilities):
    return np.log(np.asarray(probabilities, dtype=np.float64))


def names(k):
    return [f"class {c}" for c in range(k)]


def test_summary_agrees_with_plain_loops_and_is_plain_json_with_six_digits():
    labels, probabilities = predictions()
    summary = measures.classification_summary(labels, logits_of(probabilities), names(5), bins=10)
    predicted = [max(range(5), key=row.__getitem__) for row in probabilities]
    pairs = list(zip(labels.tolist(), predicted, strict=True))
    assert summary["n"] == 400
    assert summary["accuracy"] == pytest.approx(sum(t == p for t, p in pairs) / 400)
    nats = [-np.log(float(row[label])) for row, label in zip(probabilities, labels, strict=True)]
    assert summary["nll"] == pytest.approx(sum(nats) / 400, abs=1e-5)
    f1 = []
    for c, row in enumerate(measures.per_class(labels, np.array(predicted), names(5))):
        precision = pairs.count((c, c)) / predicted.count(c)
        recall = pairs.count((c, c)) / labels.tolist().count(c)
        f1.append(2 * precision * recall / (precision + recall))
        assert (row["class"], row["support"]) == (f"class {c}", labels.tolist().count(c))
        ratios = [row["precision"], row["recall"], row["f1"]]
        assert ratios == pytest.approx([precision, recall, f1[c]], abs=1e-6)
    assert summary["macro_f1"] == pytest.approx(sum(f1) / 5, abs=1e-6)
    low, high = summary["accuracy_ci95"]
    assert low < summary["accuracy"] < high
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert all(value == round(value, 6) for value in np.hstack(list(summary.values())))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [2, 100])
def test_perfect_predictions(k):
    labels = np.arange(k)
    summary = measures.classification_summary(labels, 1000 * np.eye(k), names(k), bins=15)
    measured = [summary[name] for name in ("accuracy", "macro_f1", "nll", "ece")]
    assert measured == [1, 1, 0, 0]
    assert summary["accuracy_ci95"][1] == 1


@pytest.mark.filterwarnings("error")
def test_all_wrong_with_certainty():
    labels = np.array([0, 1, 2])
    summary = measures.classification_summary(labels, 100 * np.eye(3)[[1, 2, 0]], names(3), bins=15)
    assert (summary["accuracy"], summary["macro_f1"], summary["ece"]) == (0, 0, 1)
    assert summary["accuracy_ci95"][0] == 0
    # from the logits: the probability of the true class has no digit left of it
    assert summary["nll"] == 100


@pytest.mark.filterwarnings("error")
def test_one_image():
    summary = measures.classification_summary(
        np.array([1]), logits_of([[0.4, 0.6]]), names(2), bins=5
    )
    assert summary["accuracy"] == summary["macro_f1"] == 1
    assert summary["ece"] == pytest.approx(0.4)


@pytest.mark.filterwarnings("error")
def test_a_class_without_test_images_has_a_row_but_no_weight_in_macro_f1():
    labels = np.array([0, 0, 1, 1])
    logits = 50 * np.eye(3)[[0, 0, 1, 2]]
    summary = measures.classification_summary(labels, logits, names(3), bins=5)
    row = measures.per_class(labels, logits.argmax(axis=1), names(3))[2]
    assert row == {"class": "class 2", "precision": 0, "recall": None, "f1": None, "support": 0}
    assert summary["not_tested"] == "class 2"
    assert summary["macro_f1"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)


def test_every_interval_is_that_of_the_groups():
    labels, probabilities = predictions(n=300)
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    groups = np.repeat(np.arange(30), 10)

    def intervals_of(groups):
        summary = measures.classification_summary(
            labels, logits_of(probabilities), names(5), 4, groups
        )
        bins = measures.reliability(labels, probabilities, 4, groups)
        answered = measures.selective(labels, predicted, confidence, groups)
        return summary, [
            summary["accuracy_ci95"],
            *([row["accuracy_low"], row["accuracy_high"]] for row in (*bins, *answered)),
        ]

    alone, expected = intervals_of(None)
    assert "groups" not in alone
    summary, found = intervals_of(groups)
    assert summary["groups"] == 30
    right = labels == predicted
    assert found[0] == pytest.approx(fraction(right, groups)[1:3], abs=1e-6)
    half = confidence >= np.sort(confidence)[::-1][149]
    assert found[-1] == pytest.approx(fraction(right[half], groups[half])[1:3], abs=1e-6)
    assert all(a != b for a, b in zip(found, expected, strict=True))
    assert intervals_of(np.arange(300)) == (alone, expected)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], np.full((3, 2), 0.5), r"\(2,\), \(3, 2\)"),
        ([], np.empty((0, 2)), r"\(0,\), \(0, 2\)"),
        ([0, 2], np.full((2, 2), 0.5), r"0\.\.2, beyond 0\.\.1"),
        ([0, 1], np.ones((2, 2)), "sum to one"),
        ([0, 1], np.full((2, 2), np.nan), "sum to one"),
        ([0, 1], np.array([[1.5, -0.5], [0, 1]]), "not be negative"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        measures.reliability(np.array(labels), probabilities, bins=5)


def test_class_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="4 class names for 5 columns"):
        measures.classification_summary(*predictions(), names(4), bins=5)


@pytest.mark.parametrize(
    ("labels", "predicted", "warning"),
    [
        ([0, 1, 0, 1], [1, 1, 1, 1], r"^every test image is predicted as class 1$"),
        (
            [0, 0, 0, 1] * 20,
            [0, 0, 1, 0] * 20,
            r"^the test accuracy, 0\.500, is not clearly above 0\.625, which predictions of the",
        ),
        ([0, 1] * 4, [0, 1] * 3 + [1, 0], r"not clearly above"),  # 6 of 8 may be luck
    ],
)
def test_a_model_that_did_not_learn_is_called_so(labels, predicted, warning):
    (sentence,) = measures.find_warnings(np.array(labels), np.array(predicted), names(2), FEW_RIGHT)
    assert re.search(warning, sentence)
    assert "train.lr" not in sentence  # whose fault it is was not seen


def test_a_model_that_learned_is_not_warned_of():
    labels = np.array([0, 1] * 40)
    predicted = np.array([0, 1] * 39 + [1, 0])
    assert measures.find_warnings(labels, predicted, names(2), labels == predicted) == []


def test_a_rare_class_that_is_found_is_no_reason_for_a_warning():
    """Naming the largest class for every image would be nearly as accurate."""
    labels = np.array([0] * 36 + [1] * 3)
    predicted = np.array([0] * 34 + [1] * 5)  # macro F1 0.86, accuracy 0.949
    assert measures.find_warnings(labels, predicted, names(2), labels == predicted) == []


RIGHT = np.ones(40, dtype=bool)
FEW_RIGHT = np.zeros(40, dtype=bool)


@pytest.mark.parametrize(("right", "warned"), [(30, True), (86, False), (95, False)])
def test_a_test_accuracy_far_below_that_of_the_validation_images_is_told(right, warned):
    labels = np.arange(100) % 2
    predicted = np.where(np.arange(100) < right, labels, 1 - labels)
    found = measures.find_warnings(labels, predicted, names(2), RIGHT)
    told = [warning for warning in found if "(n = 100), is far below that of the" in warning]
    assert len(told) == warned
    if warned:
        assert "the test accuracy, 0.300" in told[0]
        assert "1.000 (n = 40)" in told[0]
    assert measures.find_warnings(labels, predicted, names(2), FEW_RIGHT)[1:] == []


def test_classes_that_are_never_predicted_are_named_and_rare_ones_with_the_key_that_helps():
    labels = np.repeat([0, 1, 2, 3], [60, 60, 5, 4])
    predicted = np.minimum(labels, 1)
    (warning,) = measures.find_warnings(labels, predicted, names(4), RIGHT)
    assert warning == (
        "never predicted: class 2 (5 test images); "
        "rare classes count more with train.class_weights: balanced"
    )
    labels = np.repeat(np.arange(8), 6)
    predicted = labels * (labels < 2)
    (warning,) = measures.find_warnings(labels, predicted, names(8), FEW_RIGHT)
    shown = ", ".join(f"class {k} (6 test images)" for k in (2, 3, 4, 5, 6))
    assert warning == f"never predicted: {shown} and 1 more"


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_reliability_and_ece_agree_with_a_plain_loop(bins):
    labels, probabilities = predictions(n=700)
    rows = measures.reliability(labels, probabilities, bins)
    confidence = probabilities.max(axis=1).astype(float)
    hits = probabilities.argmax(1) == labels
    expected = []
    gap = 0.0
    for b in range(bins):
        inside = [i for i in range(700) if b / bins < confidence[i] <= (b + 1) / bins]
        if inside:
            means = [confidence[inside].mean(), hits[inside].mean()]
            gap += abs(means[0] - means[1]) * len(inside) / 700
            expected.append([b / bins, (b + 1) / bins, *means, len(inside)])
    keys = ("lower", "upper", "confidence", "accuracy", "count")
    assert np.array([[row[key] for key in keys] for row in rows]) == pytest.approx(
        np.array(expected), abs=2e-6
    )
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in rows)
    summary = measures.classification_summary(
        labels, logits_of(probabilities), names(probabilities.shape[1]), bins
    )
    assert summary["ece"] == pytest.approx(gap, abs=2e-6)


def test_the_accuracy_of_the_most_confident_is_that_of_all_above_the_threshold():
    labels, probabilities = predictions(n=70)
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    confidence[:40] = np.sort(confidence)[30]  # equally confident ones are answered together
    rows = measures.selective(labels, predicted, confidence)
    assert [row["fraction"] for row in rows] == [1, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5]
    for row in rows:
        answered = confidence >= row["threshold"] - 1e-6
        assert row["n"] == answered.sum() >= row["fraction"] * 70
        assert row["accuracy"] == pytest.approx((predicted == labels)[answered].mean(), abs=1e-6)
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    assert rows[0]["n"] == 70
    assert rows[-1]["n"] < rows[0]["n"]


def test_measures_and_predictions_need_no_torch():
    modules = "vit_finetune.evaluation.measures, vit_finetune.evaluation.predictions"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
