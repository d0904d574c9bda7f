"""Every measure against a plain loop or scikit-learn; and where a ratio has no denominator."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score

from tests.project import ROOT
from vit_finetune.evaluation import measures


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


def test_summary_agrees_with_plain_loops():
    labels, probabilities = predictions()
    summary = measures.classification_summary(labels, logits_of(probabilities), names(5), bins=10)
    predicted = [int(max(range(5), key=row.__getitem__)) for row in probabilities]
    assert summary["n"] == 400
    assert summary["accuracy"] == pytest.approx(
        sum(map(int.__eq__, predicted, labels.tolist())) / 400
    )
    classes = measures.per_class(labels, np.array(predicted), names(5))
    nats = [-np.log(float(row[label])) for row, label in zip(probabilities, labels, strict=True)]
    assert summary["nll"] == pytest.approx(sum(nats) / 400, abs=1e-5)
    for c in range(5):
        pairs = list(zip(labels.tolist(), predicted, strict=True))
        hit = pairs.count((c, c))
        precision = hit / sum(p == c for _, p in pairs)
        recall = hit / sum(t == c for t, _ in pairs)
        assert classes[c].pop("class") == f"class {c}"
        assert classes[c] == pytest.approx(
            {
                "precision": precision,
                "recall": recall,
                "support": sum(t == c for t, _ in pairs),
                "f1": 2 * precision * recall / (precision + recall),
            },
            abs=1e-6,
        )
    assert summary["macro_f1"] == pytest.approx(
        f1_score(labels, predicted, average="macro"), abs=1e-6
    )
    low, high = summary["accuracy_ci95"]
    assert low < summary["accuracy"] < high


def test_summary_is_plain_json_with_six_digits():
    labels, probabilities = predictions()
    summary = measures.classification_summary(labels, logits_of(probabilities), names(5), bins=10)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert all(value == round(value, 6) for value in np.hstack(list(summary.values())))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [2, 100])
def test_perfect_predictions(k):
    labels = np.arange(k)
    summary = measures.classification_summary(labels, 1000 * np.eye(k), names(k), bins=15)
    assert (summary["accuracy"], summary["macro_f1"], summary["nll"], summary["ece"]) == (
        1,
        1,
        0,
        0,
    )
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
    labels, logits = np.array([0, 0, 1, 1]), 50 * np.eye(3)[[0, 0, 1, 2]]
    summary = measures.classification_summary(labels, logits, names(3), bins=5)
    row = measures.per_class(labels, logits.argmax(axis=1), names(3))[2]
    assert row == {"class": "class 2", "precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert summary["macro_f1"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)


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
        ([0, 1, 0, 1], [1, 1, 1, 1], r"^every test image is predicted as class 1: .*train\.lr"),
        (
            [0, 0, 0, 1] * 20,
            [0, 0, 1, 0] * 20,
            r"^the test accuracy, 0\.500, is not clearly above .*class, 0\.750: ",
        ),
        ([0, 1] * 4, [0, 1] * 3 + [1, 0], r"not clearly above"),  # 6 of 8 may be luck
    ],
)
def test_a_model_that_did_not_learn_is_called_so(labels, predicted, warning):
    (found,) = measures.find_warnings(np.array(labels), np.array(predicted), names(2))
    assert re.search(warning, found)


def test_a_model_that_learned_is_not_warned_of():
    assert (
        measures.find_warnings(np.array([0, 1] * 40), np.array([0, 1] * 39 + [1, 0]), names(2))
        == []
    )


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_reliability_and_ece_agree_with_a_plain_loop(bins):
    labels, probabilities = predictions(n=700)
    rows, gap = iter(measures.reliability(labels, probabilities, bins)), 0.0
    for b in range(bins):
        inside = [i for i in range(700) if b / bins < probabilities[i].max() <= (b + 1) / bins]
        if not inside:
            continue
        confidence = sum(float(probabilities[i].max()) for i in inside) / len(inside)
        accuracy = sum(probabilities[i].argmax() == labels[i] for i in inside) / len(inside)
        gap += abs(confidence - accuracy) * len(inside) / 700
        row = next(rows)
        low, high = row.pop("accuracy_low"), row.pop("accuracy_high")
        assert row == pytest.approx(
            {
                "lower": b / bins,
                "upper": (b + 1) / bins,
                "confidence": confidence,
                "accuracy": accuracy,
                "count": len(inside),
            },
            abs=2e-6,
        )
        assert low <= accuracy <= high
    assert next(rows, None) is None
    ece = measures.expected_calibration_error(measures.reliability(labels, probabilities, bins))
    assert ece == pytest.approx(gap, abs=2e-6)


def test_reliability_agrees_with_scikit_learn():
    labels, probabilities = predictions(n=700)
    rows = measures.reliability(labels, probabilities, 10)
    hits, confidence = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
    accuracy, mean = calibration_curve(hits.astype(int), confidence, n_bins=10)
    assert [row["accuracy"] for row in rows] == pytest.approx(accuracy, abs=1e-6)
    assert [row["confidence"] for row in rows] == pytest.approx(mean, abs=1e-6)


def test_measures_and_predictions_need_no_torch():
    modules = "vit_finetune.evaluation.measures, vit_finetune.evaluation.predictions"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
