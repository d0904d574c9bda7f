"""Every number against a plain loop, scikit-learn or scipy; the corners where a ratio has no denominator."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score

from vit_finetune import metrics


def predictions(n=400, k=5, seed=0, sharpness=3.0):
    """Labels (n,) and softmax probabilities (n, k) that are right more often than not, in float32."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + sharpness * 0.5 * np.eye(k)[labels]
    odds = np.exp(sharpness * logits)
    return labels, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def names(k):
    return [f"class {c}" for c in range(k)]


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (1, 3), (9300, 10_000)])
def test_wilson_interval_agrees_with_scipy(hits, n):
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(hits, n) == pytest.approx([interval.low, interval.high], abs=1e-6)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (2, 1), (-1, 5)])
def test_wilson_interval_refuses_what_is_no_proportion(hits, n):
    with pytest.raises(ValueError, match=f"hits={hits}, n={n}"):
        metrics.wilson_interval(hits, n)


def test_summary_agrees_with_plain_loops():
    labels, probabilities = predictions()
    summary = metrics.classification_summary(labels, probabilities, names(5), bins=10)
    predicted = [int(max(range(5), key=row.__getitem__)) for row in probabilities]
    assert summary["n"] == 400
    assert summary["accuracy"] == pytest.approx(sum(map(int.__eq__, predicted, labels.tolist())) / 400)
    nats = [-np.log(float(row[label])) for row, label in zip(probabilities, labels, strict=True)]
    assert summary["nll"] == pytest.approx(sum(nats) / 400, abs=1e-5)
    for c in range(5):
        pairs = list(zip(labels.tolist(), predicted, strict=True))
        hit = pairs.count((c, c))
        precision = hit / sum(p == c for _, p in pairs)
        recall = hit / sum(t == c for t, _ in pairs)
        assert summary["per_class"][f"class {c}"] == pytest.approx(
            {
                "precision": precision,
                "recall": recall,
                "support": sum(t == c for t, _ in pairs),
                "f1": 2 * precision * recall / (precision + recall),
            },
            abs=1e-6,
        )
    assert summary["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-6)
    low, high = summary["accuracy_ci95"]
    assert low < summary["accuracy"] < high


def test_summary_is_plain_json_with_six_digits():
    summary = metrics.classification_summary(*predictions(), names(5), bins=10)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert all(value == round(value, 6) for value in summary["per_class"]["class 3"].values())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [2, 100])
def test_perfect_predictions(k):
    labels = np.arange(k)
    summary = metrics.classification_summary(labels, np.eye(k), names(k), bins=15)
    assert (summary["accuracy"], summary["macro_f1"], summary["nll"], summary["ece"]) == (1, 1, 0, 0)
    assert summary["accuracy_ci95"][1] == 1


@pytest.mark.filterwarnings("error")
def test_all_wrong_with_certainty():
    labels = np.array([0, 1, 2])
    summary = metrics.classification_summary(labels, np.eye(3)[[1, 2, 0]], names(3), bins=15)
    assert (summary["accuracy"], summary["macro_f1"], summary["ece"]) == (0, 0, 1)
    assert summary["accuracy_ci95"][0] == 0
    assert 30 < summary["nll"] < 50, "certain and wrong is dear, but a number"


@pytest.mark.filterwarnings("error")
def test_one_image():
    summary = metrics.classification_summary(np.array([1]), np.array([[0.4, 0.6]]), names(2), bins=5)
    assert summary["accuracy"] == summary["macro_f1"] == 1
    assert summary["ece"] == pytest.approx(0.4)


@pytest.mark.filterwarnings("error")
def test_a_class_without_test_images_has_a_row_but_no_weight_in_macro_f1():
    labels, probabilities = np.array([0, 0, 1, 1]), np.eye(3)[[0, 0, 1, 2]]
    summary = metrics.classification_summary(labels, probabilities, names(3), bins=5)
    assert summary["per_class"]["class 2"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
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
        metrics.classification_summary(np.array(labels), probabilities, names(2), bins=5)


def test_class_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="4 class names for 5 columns"):
        metrics.classification_summary(*predictions(), names(4), bins=5)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_reliability_and_ece_agree_with_a_plain_loop(bins):
    labels, probabilities = predictions(n=700)
    rows, gap = iter(metrics.reliability(labels, probabilities, bins)), 0.0
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
    ece = metrics.expected_calibration_error(metrics.reliability(labels, probabilities, bins))
    assert ece == pytest.approx(gap, abs=2e-6)


def test_reliability_agrees_with_scikit_learn():
    labels, probabilities = predictions(n=700)
    rows = metrics.reliability(labels, probabilities, 10)
    hits, confidence = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
    accuracy, mean = calibration_curve(hits.astype(int), confidence, n_bins=10)
    assert [row["accuracy"] for row in rows] == pytest.approx(accuracy, abs=1e-6)
    assert [row["confidence"] for row in rows] == pytest.approx(mean, abs=1e-6)


def test_confusion_has_true_rows_and_every_class():
    counts = metrics.confusion(np.array([0, 0, 2]), np.array([0, 1, 1]), 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_most_confused_names_the_true_class_first_and_shares_its_images():
    counts = np.array([[8, 2, 0], [5, 4, 1], [0, 1, 19]])
    assert metrics.most_confused(counts, ["a", "b", "c"], 3) == [
        {"true": "b", "predicted": "a", "count": 5, "share": 0.5},
        {"true": "a", "predicted": "b", "count": 2, "share": 0.2},
        {"true": "b", "predicted": "c", "count": 1, "share": 0.1},
    ]
    assert len(metrics.most_confused(counts, ["a", "b", "c"], 99)) == 4
    assert metrics.most_confused(np.diag([3, 0, 5]), ["a", "b", "c"], 5) == []


def test_worst_mistakes_are_wrong_most_confident_first_and_ties_by_index():
    labels = np.array([0, 0, 0, 0, 1, 1])
    confident = np.array([[0.9, 0.1], [0.3, 0.7], [0.01, 0.99], [0.3, 0.7], [0.8, 0.2], [0.4, 0.6]])
    assert metrics.worst_mistakes(labels, confident, 3).tolist() == [2, 4, 1]
    assert metrics.worst_mistakes(labels, confident, 9).tolist() == [2, 4, 1, 3]
    assert metrics.worst_mistakes(np.array([0]), np.array([[1.0, 0.0]]), 3).size == 0


def test_class_counts_keep_absent_classes():
    counts = metrics.class_counts({"train": np.array([0, 0, 2]), "val": np.array([1])}, ["a", "b", "c"])
    assert counts == {"train": {"a": 2, "b": 0, "c": 1}, "val": {"a": 0, "b": 1, "c": 0}}
    with pytest.raises(ValueError, match="zip"):
        metrics.class_counts({"train": np.array([3])}, ["a", "b", "c"])


def test_the_module_needs_no_torch():
    code = "import sys, vit_finetune.metrics; assert 'torch' not in sys.modules"
    source = Path(metrics.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(source)})
