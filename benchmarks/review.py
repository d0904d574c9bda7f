"""`python benchmarks/review.py --truth FOLDER`: how well the stage `review` finds what is wrong.

It reads the features of the finished run in the work tree. Planted errors: labels of images to
train on and to validate on are exchanged, evenly or for the class most like theirs. Real errors:
the labels of CIFAR-10N (Wei et al. 2022), and the test labels that people judged (Northcutt et al.
2021). Near-copies: the list of ciFAIR (Barz and Denzler 2020). FOLDER holds their files,
cifar10n_aggregate.npy, cifar10_mturk.json and cifair_duplicates.csv. `--sets FOLDER` instead runs
the pipeline there on sets whose images are more alike: digits, letters, symbols, made textures.

Every row goes to benchmarks/review.csv; what it has is not computed again. cleanlab 2.9, which gets
the same out-of-fold probabilities, is needed for its rows alone, and scikit-image for its
photographs: `pip install cleanlab==2.9.0 scikit-image`.
"""

import argparse
import csv
import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

sys.path.insert(0, str(Path(__file__).resolve().parent / "choice"))

from in_process import prepare, run_stages
from sets import SETS

from vit_finetune.core.files import read_csv, write_csv
from vit_finetune.params import Params
from vit_finetune.profiles import merge
from vit_finetune.review import labels, neighbours, suspects

TABLE = Path(__file__).with_suffix(".csv")
COLUMNS = ("check", "setting", "seed", "method", "listed", "hits", "wrong", "value")
SEEDS = (10, 11, 12)  # the thresholds were chosen on other seeds
SHARES = (0.05, 0.1, 0.2)
WRONG_LABELS = Params().review.wrong_labels
COPIES = Params().review.copies
CROP = 128  # pixels
PHOTOGRAPHS = {
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
    "skimage": [
        "data/astronaut.png",
        "data/brick.png",
        "data/camera.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/coins.png",
        "data/grass.png",
        "data/gravel.png",
        "data/motorcycle_left.png",
        "data/rocket.jpg",
    ],
}
OTHER_SETS = ("demo", "letters-26", "symbols-100", "textures-10")
Row = dict[str, Any]


class Table:
    """The rows on disk; each is written as soon as it is known."""

    def __init__(self) -> None:
        self.rows: list[Row] = list(read_csv(TABLE)) if TABLE.exists() else []

    def has(self, check: str, setting: str, seed: int) -> bool:
        known = {(row["check"], row["setting"], str(row["seed"])) for row in self.rows}
        return (check, setting, str(seed)) in known

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        write_csv(TABLE, self.rows, COLUMNS)
        for row in rows:
            print(row, flush=True)


def row_of(check: str, setting: str, seed: int, method: str, **values: Any) -> Row:
    empty: Row = dict.fromkeys(COLUMNS, "")
    return empty | {"check": check, "setting": setting, "seed": seed, "method": method} | values


def listing(listed: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> dict[str, int]:
    return {
        "listed": int(listed.sum()),
        "hits": int((listed & wrong).sum()),
        "wrong": int(wrong.sum()),
    }


def exchanged(
    true: NDArray[np.int64], share: float, most_like: NDArray[np.int64] | None, seed: int
) -> NDArray[np.int64]:
    """Labels (N,) of which a share is exchanged: for another class, or for the one most like it."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(true), round(share * len(true)), replace=False)
    given = true.copy()
    if most_like is None:
        classes = int(true.max()) + 1
        given[rows] = (true[rows] + rng.integers(1, classes, len(rows))) % classes
    else:
        given[rows] = most_like[true[rows]]
    return given


def most_like_each(features: NDArray[np.float64], true: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class that a classifier of clean labels takes each class for most often, (K,)."""
    has_label = np.eye(int(true.max()) + 1)[true]
    folds = labels.fold_numbers(true, np.arange(len(true)), seed=0)
    predicted = labels.held_out_logits(features, has_label, folds).argmax(axis=1)
    confusion = has_label.T @ np.eye(has_label.shape[1])[predicted]
    np.fill_diagonal(confusion, 0)
    return confusion.argmax(axis=1)


def judge(
    place: tuple[str, str, int],
    features: NDArray[np.float64],
    given: NDArray[np.int64],
    true: NDArray[np.int64],
) -> list[Row]:
    """Rows of the stage, of the highest loss and of cleanlab, on the same folds.

    Args:
        place: check, setting and seed.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    classes = int(true.max()) + 1
    wrong = given != true
    folds = labels.fold_numbers(given, np.arange(len(given)), place[2])
    own = np.arange(len(given)), given
    probability = 1 - labels.judge_seen(features, given, folds, classes)[own]

    logits = labels.held_out_logits(features, np.eye(classes)[given], folds)
    scale = labels.best_temperature(logits, given, np.eye(classes))
    out_of_fold = softmax(scale * logits, axis=1)
    quality = get_label_quality_scores(given, out_of_fold)
    issues = find_label_issues(given, out_of_fold)
    return [
        scored(place, "stage", probability, probability >= WRONG_LABELS, wrong),
        scored(place, "highest loss", 1 - out_of_fold[own], None, wrong),
        scored(place, "cleanlab", 1 - quality, issues, wrong),
    ]


def scored(
    place: tuple[str, str, int],
    method: str,
    score: NDArray[np.float64],
    listed: NDArray[np.bool_] | None,
    wrong: NDArray[np.bool_],
) -> Row:
    values: dict[str, Any] = {}
    if wrong.any() and not np.isnan(score).any():
        values["value"] = round(float(average_precision_score(wrong, score)), 4)
    if listed is not None:
        values |= listing(listed, wrong)
    return row_of(*place, method, **values)


def planted(images: suspects.Images, table: Table) -> None:
    features = labels.unit_features(images.pretrained, images.pretrained)
    true = images.labels[images.tested :]
    most_like = most_like_each(features, true)
    for seed in SEEDS:
        if not table.has("nothing planted", "", seed):
            table.add(judge(("nothing planted", "", seed), features, true, true))
        for share in SHARES:
            for kind, target in (("evenly", None), ("most like", most_like)):
                setting = f"{kind} {share}"
                if not table.has("planted", setting, seed):
                    given = exchanged(true, share, target, seed)
                    table.add(judge(("planted", setting, seed), features, given, true))


def real_noise(
    images: suspects.Images, indices: NDArray[np.intp], truth: Path, table: Table
) -> None:
    if table.has("CIFAR-10N", "aggregate", 0):
        return
    given = np.load(truth / "cifar10n_aggregate.npy").astype(np.int64)[indices]
    features = labels.unit_features(images.pretrained, images.pretrained)
    true = images.labels[images.tested :]
    table.add(judge(("CIFAR-10N", "aggregate", 0), features, given, true))


def test_labels(
    images: suspects.Images, predictions: list[dict[str, str]], truth: Path, table: Table
) -> None:
    """How many of the first k are among the labels that people did not confirm."""
    if table.has("test labels", "first 54", 0):
        return
    judged = json.loads((truth / "cifar10_mturk.json").read_text())
    refused = [entry["id"] for entry in judged if entry["mturk"]["given"] < 3]
    wrong = np.isin(np.arange(images.tested), refused)
    probabilities = suspects.true_class_probabilities(images, seed=0)[: images.tested]
    score = 1 - probabilities[np.arange(images.tested), images.labels[: images.tested]]
    sign = [-1 if row["actual"] == row["predicted"] else 1 for row in predictions]
    confidence = np.array([float(row["confidence"]) for row in predictions]) * sign
    rows = []
    for first in (10, 25, 54, 100):
        for method, values in (("stage", score), ("most confident mistakes", confidence)):
            listed = np.zeros(len(values), dtype=bool)
            listed[np.argsort(-values, kind="stable")[:first]] = True
            setting = f"first {first}"
            rows.append(row_of("test labels", setting, 0, method, **listing(listed, wrong)))
    table.add(rows)


def near_copies(
    images: suspects.Images, indices: NDArray[np.intp], truth: Path, table: Table
) -> None:
    """Pairs of ciFAIR whose training image is among those to train on or to validate on."""
    setting = f"{len(indices):,} images"
    if table.has("ciFAIR", setting, 0):
        return
    with (truth / "cifair_duplicates.csv").open() as file:
        listed_pairs = [(int(r["TestID"]), int(r["TrainID"])) for r in csv.DictReader(file)]
    rows = {int(index): images.tested + place for place, index in enumerate(indices)}
    true = {(test, rows[train]) for test, train in listed_pairs if train in rows}
    found = suspects.review(
        images, np.zeros(len(images.labels), dtype=bool), 0, WRONG_LABELS, COPIES
    )
    leaks = [
        s for s in found.suspects if s.kind == suspects.OTHER_PART and s.neighbour < images.tested
    ]
    listed = {suspect.row for suspect in leaks}
    hits = sum(train in listed for _, train in true)
    values = {"listed": len(listed), "hits": hits, "wrong": len(true)}
    table.add([row_of("ciFAIR", setting, 0, "stage", **values)])


def altered(image: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """What people do to photographs: saved again, made smaller, cut, brightened."""
    picture = Image.fromarray(image)
    side = picture.width
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=75)
    smaller = picture.resize((side * 3 // 4, side * 3 // 4), Image.Resampling.BICUBIC)
    cut = round(0.05 * side)
    cropped = picture.crop((cut, cut, side, side))
    values = image.astype(np.float32)
    return {
        "JPEG": np.asarray(Image.open(buffer)),
        "resized": np.asarray(smaller.resize((side, side), Image.Resampling.BICUBIC)),
        "cropped by 5 %": np.asarray(cropped.resize((side, side), Image.Resampling.BICUBIC)),
        "brightness +10 %": np.clip(values * 1.1, 0, 255).astype(np.uint8),
        "brightness -10 %": (values * 0.9).astype(np.uint8),
    }


class Extended:
    """Images to train on with the features of a model, and others beside them.

    Args:
        run: work tree of a finished run.
        pixels: of the images to train on, (N, H, W, 3).
        features: of these, (N, D); None to compute them.
        model: the folder of the model in the run.
    """

    def __init__(
        self,
        run: Path,
        pixels: NDArray[np.uint8],
        features: NDArray[np.float32] | None = None,
        model: str = "models/adapted",
    ) -> None:
        import torch

        from vit_finetune.activations.manifest import Manifest
        from vit_finetune.model.saved import load_model

        manifest = Manifest.read(run / "data/embedded")
        self.model = manifest.split_model(load_model(run / model), torch.device("cpu"))
        self.pixels = pixels
        self.features = self.embed(pixels) if features is None else features
        self.centre = self.features.mean(axis=0)
        vectors = neighbours.directions(self.features, self.centre)
        self.typical = neighbours.typical_of(vectors, neighbours.thumbnails([pixels]), COPIES)

    @classmethod
    def of_run(cls, run: Path, images: suspects.Images) -> "Extended":
        return cls(run, images.pixels[2], images.features[images.rows_of(2).start :])

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        return self.model.predict_features(torch.from_numpy(pixels)).numpy()

    def pairs(
        self,
        tested: tuple[NDArray[np.uint8], NDArray[np.float32]],
        trained: tuple[NDArray[np.uint8], NDArray[np.float32]],
    ) -> set[tuple[int, int]]:
        """Rows of near-copies, (test, train), among images and features of both."""
        features = np.concatenate([tested[1], trained[1]])
        vectors = neighbours.directions(features, self.centre)
        count = len(tested[0])
        nearest = [
            neighbours.nearest_images(vectors, among, neighbours.NEAREST)
            for among in (range(count), range(count, len(vectors)))
        ]
        small = neighbours.thumbnails([tested[0], trained[0]])
        found = neighbours.find_copies(small, nearest, self.typical, COPIES)
        leaks = (found.first < count) & (found.second >= count)
        first = found.first[leaks].tolist()
        return set(zip(first, (found.second[leaks] - count).tolist(), strict=True))


def altered_copies(extended: Extended, table: Table, of: str = "", count: int = 100) -> None:
    """Altered copies of so many images to train on, put into the test part.

    Args:
        of: the data set, if it is not that of the run.
    """
    chosen = np.random.default_rng(0).choice(len(extended.pixels), count, replace=False)
    copies: dict[str, list[NDArray[np.uint8]]] = {}
    for row in chosen:
        for name, copy in altered(np.asarray(extended.pixels[row])).items():
            copies.setdefault(name, []).append(copy)
    true = set(enumerate(chosen.tolist()))
    for name, pictures in copies.items():
        setting = f"{of}: {name}" if of else name
        if table.has("altered copies", setting, 0):
            continue
        stacked = np.stack(pictures)
        found = extended.pairs(
            (stacked, extended.embed(stacked)), (extended.pixels, extended.features)
        )
        values = {"listed": len(found), "hits": len(found & true), "wrong": len(true)}
        table.add([row_of("altered copies", setting, 0, "stage", **values)])


def photograph_crops() -> NDArray[np.uint8]:
    """Crops, 128 pixels a side and without overlap, of photographs that scikit-learn, matplotlib
    and scikit-image ship."""
    crops = []
    for package, names in PHOTOGRAPHS.items():
        found = importlib.util.find_spec(package)
        assert found is not None, f"pip install {package}"
        folder = Path(str(found.origin)).parent
        for name in names:
            photograph = Image.open(folder / name).convert("RGB")
            for top in range(0, photograph.height - CROP + 1, CROP):
                for left in range(0, photograph.width - CROP + 1, CROP):
                    box = (left, top, left + CROP, top + CROP)
                    crops.append(np.asarray(photograph.crop(box)))
    return np.stack(crops)


def photographs(run: Path, table: Table) -> None:
    """Altered copies of crops of photographs, by the features of the pretrained model; and what is
    listed among the crops themselves."""
    if table.has("altered copies", "photographs: brightness -10 %", 0):
        return
    extended = Extended(run, photograph_crops(), model="models/pretrained")
    count = len(extended.pixels)
    altered_copies(extended, table, "photographs", count)
    vectors = neighbours.directions(extended.features, extended.centre)
    nearest = [neighbours.nearest_images(vectors, range(count), neighbours.NEAREST)]
    small = neighbours.thumbnails([extended.pixels])
    found = neighbours.find_copies(small, nearest, extended.typical, COPIES)
    listed = len(np.unique(found.second))
    values = {"listed": listed, "hits": 0, "wrong": count}
    table.add([row_of("nothing planted", "photographs", 0, "near_copies", **values)])


def other_sets(folder: Path, table: Table) -> None:
    """Sets whose images are more alike: what is listed where nothing is wrong, and how many of 50
    copies and of 5 % exchanged labels are found."""
    for name in OTHER_SETS:
        place = folder / name
        if not (place / "data/embedded").is_dir():
            data = SETS[name]
            changes = data.changes or {"adapt": {"epochs": 0}}
            changes = merge(changes, {"runtime": {"threads": 1}})
            prepare(place, data.draw(0), data.classes, changes)
            run_stages(place, "adapt", "embed")
        inputs = place / "data"
        images = suspects.Images.read(
            inputs / "subset", inputs / "pretrained_features", inputs / "embedded"
        )
        if not table.has("nothing planted", name, 0):
            kept = np.zeros(len(images.labels), dtype=bool)
            found = suspects.review(images, kept, 0, WRONG_LABELS, COPIES)
            numbers = suspects.metrics(found)
            for kind in ("wrong_labels", "near_copies"):
                values = {"listed": numbers[kind], "hits": 0, "wrong": len(images.labels)}
                table.add([row_of("nothing planted", name, 0, kind, **values)])
        altered_copies(Extended.of_run(place, images), table, name, 50)
        for seed in SEEDS:
            if table.has("exchanged labels", name, seed):
                continue
            features = labels.unit_features(images.pretrained, images.pretrained)
            true = images.labels[images.tested :]
            given = exchanged(true, 0.05, None, seed)
            folds = labels.fold_numbers(given, np.arange(len(given)), seed)
            judged = labels.judge_seen(features, given, folds, len(images.classes))
            probability = 1 - judged[np.arange(len(given)), given]
            place_of_row = ("exchanged labels", name, seed)
            listed = probability >= WRONG_LABELS
            table.add([scored(place_of_row, "stage", probability, listed, given != true)])


def all_pairs(images: suspects.Images, extended: Extended, truth: Path, table: Table) -> None:
    """Every pair of ciFAIR, the training images of all pairs added to those to train on."""
    from torchvision.datasets import CIFAR10

    if table.has("ciFAIR", "all pairs", 0):
        return
    with (truth / "cifair_duplicates.csv").open() as file:
        listed = [(int(r["TestID"]), int(r["TrainID"])) for r in csv.DictReader(file)]
    partners = sorted({train for _, train in listed})
    added = CIFAR10(os.environ["VIT_DATA_DIR"], train=True).data[partners]
    trained = (
        np.concatenate([extended.pixels, added]),
        np.concatenate([extended.features, extended.embed(added)]),
    )
    tested = (images.pixels[0], images.features[: images.tested])
    place = {train: len(extended.pixels) + row for row, train in enumerate(partners)}
    true = {(test, place[train]) for test, train in listed}
    found = extended.pairs(tested, trained)
    values = {"listed": len(found), "hits": len(found & true), "wrong": len(true)}
    table.add([row_of("ciFAIR", "all pairs", 0, "stage", **values)])


def frames(extended: Extended, table: Table) -> None:
    """40 random textures as subjects with random labels, ten noisy frames of each: the test score
    split at random, without what is listed, and split by subject."""
    if table.has("subjects", "40 of ten frames", 0):
        return
    rng = np.random.default_rng(0)
    textures = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    large = textures.repeat(4, axis=1).repeat(4, axis=2).repeat(10, axis=0).astype(np.float32)
    pixels = np.clip(large + rng.normal(0, 20, large.shape), 0, 255).astype(np.uint8)
    subject = np.arange(400) // 10
    label = rng.integers(0, 2, 40)[subject]
    features = extended.embed(pixels)

    def accuracy(method: str, train: NDArray[np.bool_], test: NDArray[np.bool_]) -> Row:
        fitted = labels.unit_features(features, features)
        model = LogisticRegression(max_iter=500).fit(fitted[train], label[train])
        hits = int((model.predict(fitted[test]) == label[test]).sum())
        values = {"listed": int(train.sum()), "hits": hits, "wrong": int(test.sum())}
        return row_of("subjects", "40 of ten frames", 0, method, **values)

    test = np.zeros(400, dtype=bool)
    test[rng.permutation(400)[:100]] = True
    found = extended.pairs((pixels[test], features[test]), (pixels[~test], features[~test]))
    stays = ~test
    stays[np.flatnonzero(~test)[sorted({train for _, train in found})]] = False
    by_subject = subject < 10
    table.add(
        [
            accuracy("split at random", ~test, test),
            accuracy("split at random, listed ones dropped", stays, test),
            accuracy("split by subject", ~by_subject, by_subject),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path(), help="work tree of a finished run")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--copies", action="store_true", help="only ciFAIR's pairs in the run")
    parser.add_argument("--sets", type=Path, help="folder for runs of other data sets")
    options = parser.parse_args()
    table = Table()
    if options.sets:
        other_sets(options.sets.resolve(), table)
        return
    data = options.run / "data"
    images = suspects.Images.read(data / "subset", data / "pretrained_features", data / "embedded")
    indices = np.concatenate(
        [np.load(data / f"subset/{part}_indices.npy") for part in suspects.PARTS[1:]]
    )
    if options.copies:
        near_copies(images, indices, options.truth, table)
        return
    planted(images, table)
    real_noise(images, indices, options.truth, table)
    near_copies(images, indices, options.truth, table)
    test_labels(images, read_csv(options.run / "plots/predictions.csv"), options.truth, table)
    extended = Extended.of_run(options.run, images)
    altered_copies(extended, table)
    photographs(options.run, table)
    all_pairs(images, extended, options.truth, table)
    frames(extended, table)


if __name__ == "__main__":
    main()
