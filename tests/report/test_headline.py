"""The headline numbers say what the metrics say."""

from vit_finetune.report.headline import (
    collect_warnings,
    gain,
    headline,
    interval,
    map_table,
    outcome,
    table,
)
from vit_finetune.verdict import BARS, IMAGE

METRICS = {
    "train": {
        "parameters_adapted": 5_000,
        "parameters_trained": 446_410,
        "kept_epoch": 3,
        "epochs": "5 of 20",
        "val_accuracy": 0.91237,
        "probe_accuracy": 0.9,
        "pretrained_probe_accuracy": 0.87,
    },
    "evaluation": {
        "accuracy": 0.90318,
        "accuracy_ci95": [0.8971, 0.909],
        "n": 10_000,
        "macro_f1": 0.90271,
        "nll": 0.30019,
        "ece": 0.01234,
    },
    "attention": {"selfcheck_max_rel_err": 1.149e-6},
}


def columns(name: str, mean: float, low: float, high: float) -> dict:
    return {name: str(mean), f"{name}_low": str(low), f"{name}_high": str(high)}


def test_every_headline_number_is_that_of_the_metrics():
    assert dict(headline(METRICS)) == {
        "test accuracy, 95 % interval": "0.9032  [0.8971, 0.9090], n = 10,000",
        "macro F1": "0.9027",
        "negative log-likelihood": "0.3002",
        "calibration error": "0.0123",
        "validation accuracy": "0.8700 linear probe → 0.9000 adapted → 0.9124 trained",
        "the model": (
            "5,000 parameters adapted, then frozen; 446,410 parameters trained in 3 epochs"
        ),
        "attention self-check": "largest relative error 1.1e-06, every block",
    }


def test_groups_corrections_and_classes_without_test_images_stand_beside_the_numbers():
    test = METRICS["evaluation"] | {
        "groups": 400,
        "corrected": "3 relabelled, 1 dropped",
        "not_tested": "180, 270",
    }
    rows = dict(headline(METRICS | {"evaluation": test}))
    assert rows["test accuracy, 95 % interval"] == (
        "0.9032  [0.8971, 0.9090], n = 10,000 in 400 groups, corrected by hand: 3 relabelled, "
        "1 dropped"
    )
    assert rows["macro F1"] == ("0.9027, of the classes with test images; without: 180, 270")


def test_a_model_that_is_a_linear_probe_is_called_one():
    probe = {"kept_epoch": 0, "val_accuracy": 0.9, "parameters_trained": 99}
    train = METRICS["train"] | probe
    assert gain(train) == "0.8700 linear probe → 0.9000 adapted"
    assert outcome(train) == (
        "5,000 parameters adapted, then frozen; a linear probe of 99 parameters; training did not "
        "help"
    )
    train |= {"parameters_adapted": 0, "probe_accuracy": 0.87}
    assert gain(train) == "0.8700 linear probe"
    assert outcome(train) == "a linear probe of 99 parameters; training did not help"
    alone = train | {"epochs": "0 of 0"}
    assert outcome(alone) == "a linear probe of 99 parameters"
    train["head"] = "kept"
    assert gain(train) == "0.8700 kept head"
    assert outcome(train) == "a kept head of 99 parameters; training did not help"


def test_warnings_are_those_of_the_stages_in_their_order_then_that_of_bars():
    metrics = {
        "attention": {"bars": {"exchanged": 40, "decides": BARS}},
        "evaluation": {"warning": "d"},
        "review": {"warning": "not judged"},
        "train": {"warning": "b; c"},
        "subset": {"warning": "a"},
    }
    assert collect_warnings(metrics) == [
        "a",
        "not judged",
        "b; c",
        "d",
        "the bars of padded images decide more than the images do",
    ]
    for attention in ({}, {"bars": {"exchanged": 0}}, {"bars": {"exchanged": 9, "decides": IMAGE}}):
        stages = {name: {} for name in ("subset", "review", "train", "evaluation")}
        metrics = stages | {"attention": attention}
        assert collect_warnings(metrics) == []


def test_an_interval_is_its_mean_and_both_ends_with_signs_where_asked():
    assert interval(columns("a", 0.123, 0.051, 0.19), "a") == "0.12 [0.05, 0.19]"
    assert interval(columns("a", 0.123, -0.051, 0.19), "a", "+") == "+0.12 [-0.05, +0.19]"


def test_each_map_has_a_row_with_its_numbers_and_the_header_says_what_is_good():
    rollout = columns("minus_random", 0.2, 0.1, 0.3) | columns("minus_centre", -0.1, -0.2, 0.1)
    rollout |= columns("mosaic_share_3x3", 0.12, 0.1, 0.14)
    rollout |= columns("mosaic_share", 0.25, 0.2, 0.3) | columns("head_shuffled", 1, 1, 1)
    rows = [
        {"map": "rollout", "n": "48", "verdict": "no better", **rollout},
        {"map": "centre", "verdict": ""},
    ]
    assert map_table(rows) == [
        [
            "map (n = 48)",
            "score minus a random map's, should be above 0",
            "score minus the Gaussian's, should be above 0",
            "fraction on the right one of 4 joined images, 0.25 by chance",
            "fraction on the right one of 9 joined images, 0.11 by chance",
            "correlation with itself, classifier shuffled, should be far below 1",
            "against the Gaussian",
        ],
        [
            "rollout",
            "+0.20 [+0.10, +0.30]",
            "-0.10 [-0.20, +0.10]",
            "0.25 [0.20, 0.30]",
            "0.12 [0.10, 0.14]",
            "1.00 [1.00, 1.00]",
            "no better",
        ],
    ]


def test_the_values_of_a_printed_table_begin_in_one_column():
    assert table([("a", "1"), ("longer", "2")]) == "a       1\nlonger  2"
