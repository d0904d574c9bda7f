"""What stands in a figure is what was given: values, places, one colour scale; and the bytes are always the same."""

import hashlib
import os
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from sklearn.datasets import load_digits

from vit_finetune import figures, metrics

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def digits():
    """Images (300, 8, 8, 3) uint8 and labels (300,) of scikit-learn's digits."""
    data = load_digits()
    images = np.repeat((data.images[:300] * 15.9).astype(np.uint8)[..., None], 3, axis=3)
    return images, data.target[:300]


def probabilities(labels, k, seed=0):
    odds = np.exp(np.random.default_rng(seed).normal(size=(len(labels), k)) + 2 * np.eye(k)[labels])
    return odds / odds.sum(axis=1, keepdims=True)


def history(epochs):
    return [
        {
            "epoch": e,
            "train_loss": 1 / e,
            "val_loss": 1.2 / e,
            "train_accuracy": 1 - 0.3 / e,
            "val_accuracy": 0.9 - 0.01 * abs(e - 3),
            "lr": 1e-3 / e,
        }
        for e in range(1, epochs + 1)
    ]


def every_figure(k, digits):
    """Each figure of the module, drawn for k classes."""
    images, _ = digits
    rng = np.random.default_rng(k)
    labels, classes = rng.integers(k, size=len(images)), [f"class number {c} $x_" for c in range(k)]
    shares = probabilities(labels, k)
    predicted, confidence = shares.argmax(axis=1), shares.max(axis=1)
    counts = metrics.confusion(labels, predicted, k)
    worst = metrics.worst_mistakes(labels, shares, 10)
    bands = {name: rng.random((3, 11)) for name in ("rollout", "random", "centre")}
    yield figures.sample_grid(images, labels, classes)
    yield figures.mistakes(images[worst], labels[worst], predicted[worst], confidence[worst], classes)
    yield figures.most_confused_pairs(metrics.most_confused(counts, classes, 4), images, labels, predicted, classes)
    yield figures.confusion_matrix(counts, classes)
    yield figures.per_class_bars(metrics.classification_summary(labels, shares, classes, 10)["per_class"])
    yield figures.reliability_diagram(metrics.reliability(labels, shares, 10))
    yield figures.class_balance(metrics.class_counts({"train": labels, "val": labels[:9]}, classes))
    yield figures.training_curves(history(4))
    yield figures.attention_montage(images[:2], {"raw": rng.random((2, 8, 8))}, labels, predicted, classes)
    yield figures.block_head_grid(rng.random((3, 2, 4, 6)))
    yield figures.class_mean_maps(rng.random((k, 7, 7)), classes)
    yield figures.distance_plot(rng.random((4, 3)), rng.random((4, 3)), uniform=0.5)
    yield figures.curves_plot(np.linspace(0, 1, 11), bands, bands)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def heat(figure):
    return [image for image in figure.axes[0].images if image.get_cmap().name == "inferno"]


def centre(image):
    left, right, bottom, top = image.get_extent()
    return (left + right) / 2, (bottom + top) / 2


@pytest.mark.parametrize("k", [2, 100])
def test_every_figure_draws_for_any_number_of_classes(k, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in every_figure(k, digits):
            figure.draw_without_rendering()
            assert figure.get_size_inches()[0] == figures.WIDTH
            assert figure.get_size_inches()[1] < 14


@pytest.mark.parametrize("k", [10, 37, 100])
def test_class_names_on_an_axis_never_touch(k):
    figure = figures.confusion_matrix(np.eye(k, dtype=int), [f"a rather long name {c}" for c in range(k)])
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    assert len(boxes) > 20 or len(boxes) == k


def test_confusion_is_shaded_by_recall_with_true_rows():
    counts = np.array([[6, 2, 0], [1, 9, 0], [0, 0, 0]])
    axes = figures.confusion_matrix(counts, ["a", "b", "absent"]).axes[0]
    expected = [[0.75, 0.25, 0], [0.1, 0.9, 0], [0, 0, 0]]
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(np.array(expected))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.images[0].get_clim() == (0, 1)
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert written == {(0, 0): "6", (0, 1): "2", (1, 0): "1", (1, 1): "9"}


def test_samples_lie_under_the_name_of_their_class(digits):
    images, labels = digits
    axes = figures.sample_grid(images, labels, CLASSES).axes[0]
    names = {text.get_text(): text.get_position() for text in axes.texts}
    assert set(names) == set(CLASSES)
    for drawn in axes.images:
        index = next(i for i, image in enumerate(images) if np.array_equal(image, drawn.get_array()))
        x, y = centre(drawn)
        name_x, name_y = names[CLASSES[labels[index]]]
        assert name_x < x < name_x + 6.1
        assert 0 < y - name_y < 1
    assert len(axes.images) == 60


def test_small_images_are_never_blurred_and_large_ones_never_stretched(digits):
    axes = figures.sample_grid(digits[0], digits[1], CLASSES).axes[0]
    assert {image.get_interpolation() for image in axes.images} == {"nearest"}
    large = np.zeros((2, 90, 160, 3), dtype=np.uint8)
    image = figures.sample_grid(large, np.array([0, 1]), ["a", "b"]).axes[0].images[0]
    left, right, bottom, top = image.get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(160 / 90)
    assert image.get_interpolation() == "auto"


def test_mistakes_say_what_was_predicted_how_surely_and_what_it_is(digits):
    figure = figures.mistakes(digits[0][:1], np.array([3]), np.array([8]), np.array([0.987]), CLASSES)
    assert {"eight 99%", "is three"} <= set(texts(figure))
    none = figures.mistakes(digits[0][:0], *np.empty((3, 0), dtype=int), CLASSES)
    assert "No mistakes" in texts(none)


def test_confused_pairs_show_their_own_images(digits):
    images, labels = digits
    predicted = labels.copy()
    wrong = np.flatnonzero(labels == 3)[:4]
    predicted[wrong] = 8
    rows = metrics.most_confused(metrics.confusion(labels, predicted, 10), CLASSES, 5)
    figure = figures.most_confused_pairs(rows, images, labels, predicted, CLASSES)
    assert "three → eight" in texts(figure)
    drawn = [image.get_array() for image in figure.axes[0].images]
    assert np.array_equal(np.stack(drawn), images[wrong])
    assert "No mistakes" in texts(figures.most_confused_pairs([], images, labels, labels, CLASSES))


def test_bars_carry_the_values_of_their_class():
    per_class = {"a": {"precision": 0.9, "recall": 0.5}, "b": {"precision": 0.2, "recall": 1.0}}
    axes = figures.per_class_bars(per_class).axes[0]
    precision, recall = axes.containers
    assert [bar.get_width() for bar in precision] == [0.9, 0.2]
    assert [bar.get_width() for bar in recall] == [0.5, 1.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.yaxis_inverted()
    assert axes.get_xlim()[0] == 0


def test_class_balance_has_a_panel_per_split():
    figure = figures.class_balance({"train": {"a": 50, "b": 40}, "val": {"a": 5, "b": 0}})
    widths = [[bar.get_width() for bar in axes.containers[0]] for axes in figure.axes]
    assert widths == [[50, 40], [5, 0]]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["train: 90", "val: 5"]


def test_reliability_stands_accuracy_over_confidence(digits):
    rows = metrics.reliability(digits[1], probabilities(digits[1], 10), 5)
    left, right = figures.reliability_diagram(rows).axes
    points = left.containers[0].lines[0].get_xydata()
    assert points == pytest.approx(np.array([[row["confidence"], row["accuracy"]] for row in rows]))
    assert sum(bar.get_height() for bar in right.containers[0]) == pytest.approx(1)
    assert [bar.get_x() for bar in right.containers[0]] == pytest.approx([row["lower"] for row in rows])


def test_training_curves_mark_the_best_epoch_and_read_a_csv_too():
    rows = [{key: str(value) for key, value in row.items()} for row in history(6)]
    axes = figures.training_curves(rows).axes
    best, train, val = axes[1].lines
    assert set(best.get_xdata()) == {3}
    assert val.get_ydata() == pytest.approx([row["val_accuracy"] for row in history(6)])
    assert train.get_marker() != val.get_marker()


def montage(digits, **changes):
    images = digits[0][:3]
    maps = {"raw": [np.full((8, 8), 0.2)] * 3, "rollout": [np.eye(16) * scale for scale in (1, 5, 9)]}
    given = {
        "images": images,
        "maps": maps,
        "labels": np.array([0, 1, 2]),
        "predicted": np.array([0, 7, 2]),
        "classes": CLASSES,
    } | changes
    return figures.attention_montage(**given)


def test_all_maps_of_the_montage_share_one_colour_scale(digits):
    drawn = heat(montage(digits))
    assert len(drawn) == 6
    assert len({image.get_clim() for image in drawn}) == 1
    assert drawn[0].get_clim()[0] == 0
    assert len({to_hex(image.to_rgba(0.2)) for image in drawn}) == 1


def test_the_montage_has_images_as_rows_and_maps_as_columns_over_their_image(digits):
    axes = montage(digits).axes[0]
    colour = [image for image in axes.images if image.get_array().ndim == 3]
    titles = {text.get_text(): text.get_position()[0] for text in axes.texts[:3]}
    assert list(titles) == ["image", "raw", "rollout"]
    drawn = heat(axes.figure)
    for i in range(3):
        row = centre(colour[3 * i])[1]
        for j, name in enumerate(("raw", "rollout")):
            x, y = centre(drawn[2 * i + j])
            assert (x, y) == pytest.approx((titles[name], row), abs=0.02)
            assert any(image.get_extent() == drawn[2 * i + j].get_extent() for image in colour)
    assert [image.get_array().max() for image in drawn[1::2]] == [1, 5, 9]


def test_right_and_wrong_differ_by_more_than_colour(digits):
    said = texts(montage(digits))
    assert {"✓ zero", "✗ seven\nis one", "✓ two"} <= set(said)


def test_outside_the_crop_the_montage_shows_the_image_alone(digits):
    cropped = np.full((8, 8), np.nan)
    cropped[:, 2:6] = 0.5
    wide = np.full((2, 20, 30, 3), 90, dtype=np.uint8)
    figure = montage(digits, images=wide, maps={"raw": [cropped, cropped]})
    shown = heat(figure)[0]
    assert shown.get_array().mask[:, :2].all()
    assert not shown.get_array().mask[:, 2:6].any()
    assert shown.get_clim() == (0, 0.5)


def test_one_attention_sink_does_not_darken_the_other_maps():
    maps = np.full((4, 3, 14, 14), 0.005)
    maps[0, 0, 0, 0] = 0.9
    assert {image.get_clim()[1] for image in heat(figures.block_head_grid(maps))} == {0.005}
    assert heat(figures.block_head_grid(np.zeros((1, 1, 2, 2))))[0].get_clim() == (0, 1)


def test_blocks_run_to_the_right_and_heads_down():
    maps = np.arange(6.0).reshape(3, 2, 1, 1) * np.ones((1, 1, 2, 4))
    axes = figures.block_head_grid(maps).axes[0]
    places = {float(image.get_array()[0, 0]): centre(image) for image in heat(axes.figure)}
    ticks = axes.get_xticks(), axes.get_yticks()
    for block, head in np.ndindex(3, 2):
        assert places[maps[block, head, 0, 0]] == pytest.approx((ticks[0][block], ticks[1][head]))
    assert axes.yaxis_inverted()


def test_a_class_without_a_mean_map_stays_empty():
    maps = np.stack([np.full((3, 3), 0.1), np.full((3, 3), np.nan)])
    first, second = heat(figures.class_mean_maps(maps, ["a", "b"]))
    assert not np.ma.getmaskarray(first.get_array()).any()
    assert second.get_array().mask.all()


def test_distance_shows_every_head_and_the_mean_of_each_block():
    before, after = np.array([[1.0, 3.0], [4.0, 6.0]]), np.array([[2.0, 4.0], [5.0, 9.0]])
    lines = figures.distance_plot(before, after, uniform=7.0).axes[0].lines
    values = [line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else line.get_ydata() for line in lines]
    assert values == [[1, 4], [3, 6], [2, 5], [2, 5], [4, 9], [3, 7], [7, 7]]


def test_curves_keep_the_same_look_in_both_panels_and_baselines_are_grey():
    bands = {name: np.tile([[0.5], [0.4], [0.6]], 5) for name in ("a", "b", "random", "centre", "c")}
    panels = figures.curves_plot(np.linspace(0, 1, 5), dict(reversed(bands.items())), bands).axes
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker(), line.get_linestyle()) for line in panel.lines}
        for panel in panels
    ]
    assert looks[0] == looks[1]
    assert len(set(looks[0].values())) == 5
    assert looks[0]["random"][0] == looks[0]["centre"][0] == figures.QUIET


def test_a_user_s_matplotlibrc_changes_nothing(tmp_path):
    counts = np.array([[3, 1], [0, 4]])
    figures.save_png(figures.confusion_matrix(counts, ["a", "b"]), tmp_path / "plain.png")
    with matplotlib.rc_context({"font.size": 20, "savefig.dpi": 40, "axes.facecolor": "red", "savefig.bbox": "tight"}):
        before = dict(matplotlib.rcParams)
        figures.save_png(figures.confusion_matrix(counts, ["a", "b"]), tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


SCRIPT = """
import hashlib, sys
import numpy as np
from vit_finetune import figures
maps = np.random.default_rng(0).random((2, 2, 4, 4))
for name in sys.argv[1:]:
    figures.save_png(figures.block_head_grid(maps), name)
    print(hashlib.sha256(open(name, "rb").read()).hexdigest())
assert not {"torch", "matplotlib.pyplot"} & set(sys.modules), "neither is needed"
"""


def test_bytes_are_the_same_over_saves_and_processes_and_name_no_software(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(figures.__file__).parents[1]), "PYTHONHASHSEED": "7"}
    names = [tmp_path / "a.png", tmp_path / "b.png"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *map(str, names)],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    maps = np.random.default_rng(0).random((2, 2, 4, 4))
    figures.save_png(figures.block_head_grid(maps), tmp_path / "c.png")
    png = (tmp_path / "c.png").read_bytes()
    assert set(done.stdout.split()) == {hashlib.sha256(png).hexdigest()}
    assert not any(chunk in png for chunk in (b"tEXt", b"iTXt", b"tIME"))


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    figure = figures.block_head_grid(np.ones((1, 1, 2, 2)))
    (tmp_path / "map.png").write_bytes(b"old")

    def half(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        figures.save_png(figure, tmp_path / "map.png")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"map.png": b"old"}
