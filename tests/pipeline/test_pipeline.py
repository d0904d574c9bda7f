"""Real DVC on a tiny configuration: what reruns, what a failure leaves behind, what comes back."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.graph import STAGES
from tests.project import ROOT, Project, save_tiny_model, stages_run
from vit_finetune.comparison.runs import flatten
from vit_finetune.data.image_files import READING
from vit_finetune.params import KEYS
from vit_finetune.report.page import TRAINING

AFTER_EMBED = ["train", "evaluate", "attention", "report"]
AFTER_ADAPT = ["embed", "review", *AFTER_EMBED]
FROM_ADAPT = ["adapt", *AFTER_ADAPT]
AFTER_SUBSET = ["subset", *FROM_ADAPT]
# which only the images of a folder know, and what nothing after it reads
DOWNLOADED_ALIKE = ["download", "report"]
ATTENTION_ALONE = ["attention", "report"]
# Another value for every key, and the stages that it reruns: a stage whose inputs come out the same
# does not run.
RERUNS = {
    "seed": (1, AFTER_SUBSET),
    "data.folder": ("pretrained", DOWNLOADED_ALIKE),
    "data.image_size": (48, DOWNLOADED_ALIKE),
    "data.fit": ("pad", DOWNLOADED_ALIKE),
    "data.test_share": (0.5, DOWNLOADED_ALIKE),
    "data.broken": ("skip", DOWNLOADED_ALIKE),
    "data.labels": ("labels.csv", DOWNLOADED_ALIKE),
    "data.group": ("folder", DOWNLOADED_ALIKE),
    "subset.train_size": (70, AFTER_SUBSET),
    "subset.val_size": (40, AFTER_SUBSET),
    "subset.test_size": (50, AFTER_SUBSET),
    "subset.leaks": ("keep", ["subset", "report"]),
    "model.name": ("local-dir:pretrained/other", ["adapt", "report"]),  # a twin of the first
    "model.pretrained": (False, AFTER_SUBSET[1:]),
    "model.image_size": (48, AFTER_SUBSET[1:]),
    "model.crop_pct": (0.8, AFTER_SUBSET[1:]),
    "model.precision": ("bfloat16", AFTER_SUBSET[1:]),
    "adapt.flip": (False, FROM_ADAPT),
    "adapt.epochs": (2, FROM_ADAPT),
    "adapt.min_steps": (7, FROM_ADAPT),
    "adapt.batch_size": (30, FROM_ADAPT),
    "adapt.shards": (2, FROM_ADAPT),
    "adapt.optimizer": ("sgd", FROM_ADAPT),
    "adapt.lr": (0.002, FROM_ADAPT),
    "adapt.layer_decay": (0.5, FROM_ADAPT),
    "adapt.weight_decay": (0.5, FROM_ADAPT),
    "adapt.warmup": (0.5, FROM_ADAPT),
    "adapt.label_smoothing": (0.3, FROM_ADAPT),
    "adapt.class_weights": ("balanced", ["adapt", "report"]),
    "adapt.grad_clip": (0.1, FROM_ADAPT),
    "adapt.token_dropout": (0.25, FROM_ADAPT),
    "adapt.brightness": (0.2, FROM_ADAPT),
    "adapt.crop_scale": (0.5, FROM_ADAPT),
    "adapt.randaugment": (9, FROM_ADAPT),
    "adapt.mixup": (0.0, FROM_ADAPT),
    "adapt.head_init": ("zeros", FROM_ADAPT),
    "adapt.probe_c": (10.0, FROM_ADAPT),
    "adapt.parameters": ("norms", FROM_ADAPT),
    "embed.storage": ("float32", AFTER_ADAPT),
    "embed.batch_size": (7, ["embed", "report"]),  # the same activations, bit for bit
    "freeze.trainable_blocks": (2, AFTER_ADAPT),
    "freeze.parameters": ("norms", AFTER_EMBED),
    "train.epochs": (3, AFTER_EMBED),
    "train.min_steps": (7, AFTER_EMBED),
    "train.batch_size": (30, AFTER_EMBED),
    "train.shards": (2, AFTER_EMBED),
    "train.optimizer": ("sgd", AFTER_EMBED),
    "train.lr": (0.002, AFTER_EMBED),
    "train.layer_decay": (0.5, AFTER_EMBED),
    "train.weight_decay": (0.5, AFTER_EMBED),
    "train.warmup": (0.5, AFTER_EMBED),
    "train.label_smoothing": (0.3, AFTER_EMBED),
    "train.class_weights": ("balanced", ["train", "report"]),  # its classes are balanced already
    "train.grad_clip": (0.1, AFTER_EMBED),
    "train.token_dropout": (0.25, AFTER_EMBED),
    "train.brightness": (0.2, AFTER_EMBED),
    "train.flip": (True, AFTER_EMBED),
    "train.crop_scale": (0.5, AFTER_EMBED),
    "train.randaugment": (9, AFTER_EMBED),
    "train.mixup": (0.0, AFTER_EMBED),
    "train.head_init": ("zeros", AFTER_EMBED),
    "train.probe_c": (10.0, AFTER_EMBED),
    "evaluate.calibration_bins": (5, ["evaluate", "report"]),
    "evaluate.mistakes": (8, ["evaluate", "report"]),
    "attention.gallery": (6, ATTENTION_ALONE),
    "attention.sample": (10, ATTENTION_ALONE),
    "attention.fusion": ("max", ATTENTION_ALONE),
    "attention.discard_ratio": (0.5, ATTENTION_ALONE),
    "attention.batch_size": (3, ATTENTION_ALONE),
    "review.wrong_labels": (0.9, ["review", "report"]),
    "review.copies": (0.5, ["review", "report"]),
    "report.title": ("Mine", ["report"]),
    "report.author": ("Me", ["report"]),
    "runtime.device": ("cpu", []),
    "runtime.threads": (1, []),
    "runtime.processes": (2, []),
}


@pytest.fixture
def project(finished, tmp_path):
    return finished.copy(tmp_path / "p")


def metrics_of(project, stage):
    return json.loads((project.folder / f"metrics/{stage}.json").read_text())


def rows_of(project, table):
    with (project.folder / f"plots/{table}.csv").open() as file:
        return list(csv.DictReader(file))


KINDS = (("RGB", "jpg"), ("RGB", "png"), ("RGBA", "webp"), ("L", "JPEG"))


def write_photographs(folder, classes=("cat", "dog", "horse"), count=20):
    """Images as people have them: of many sizes and kinds, each class with a colour of its own."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(80, size=(*rng.integers(20, 90, size=2), 3), dtype=np.uint8)
            pixels[..., k % 3] += 150
            kind, suffix = KINDS[number % len(KINDS)]
            exif = Image.Exif()
            if suffix == "jpg":
                exif[0x0112] = 6  # held upright
            image = Image.fromarray(pixels).convert(kind)
            image.save(folder / name / f"{number}.{suffix}", exif=exif)


THREE_LINES = {"data.name": "folder", "subset.train_size": "all", "subset.val_size": 12}


@pytest.mark.slow
def test_a_folder_of_ones_own_images_becomes_a_model_by_three_lines(project):
    write_photographs(project.folder / "data/images")
    project.set(**{"subset.test_size": "all", "attention.sample": 48})  # as params.yaml comes
    project.set(**THREE_LINES)
    assert project.repro() == list(STAGES)
    assert [row["class"] for row in rows_of(project, "per_class")] == ["cat", "dog", "horse"]
    assert metrics_of(project, "evaluation")["n"] == 12
    assert metrics_of(project, "attention")["images"] == 12
    assert "data/images" not in project.git("status", "--porcelain", "-uall")

    cats = project.folder / "data/images/cat"
    shutil.copy(cats / "1.png", cats / "new.png")
    assert project.repro()[:3] == ["download", "subset", "adapt"]
    (cats / "new.png").unlink()
    assert project.repro() == []

    (project.folder / "data/images/dog/torn.jpg").write_bytes(b"no image")
    torn = project.run("dvc", "repro")
    assert (
        "download: 1 of 61 files in data/images cannot be read as images: dog/torn.jpg ("
        in torn.stderr
    )
    project.set(**{"data.broken": "skip"})
    assert project.repro() == ["download", "subset", "report"]  # the same images as before
    assert json.loads((project.folder / "data/raw/dataset.json").read_text())["broken"]


LEFTOVERS = (
    "__pycache__/x.cpython-311.pyc",
    ".ipynb_checkpoints/a.py",
    "files.py~",
    ".files.py.swp",
    "#files.py#",
    ".#files.py",
    ".DS_Store",
)


def test_a_second_run_has_nothing_to_do_whatever_python_and_editors_left_in_the_rooms(project):
    for room in ("core", "model", "training"):
        for name in LEFTOVERS:
            path = project.folder / "src/vit_finetune" / room / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("left over")
    assert project.repro() == []


@pytest.mark.slow
def test_a_new_file_in_a_room_reruns_the_stages_that_name_the_room(project):
    (project.folder / "src/vit_finetune/evaluation/idea.py").write_text("IDEA = 1\n")
    assert project.repro() == ["evaluate"]


def track(project, *paths):
    added = project.run("dvc", "add", *paths)
    assert added.returncode == 0, added.stderr
    project.git("add", "-A")
    project.git("commit", "-qm", "tracked")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["download", "train"])
def test_an_experiment_in_a_copy_refuses_to_train_on_fewer_classes(project, stage):
    """Also where an earlier run had the same images, so that DVC skips the stages that read them
    and the first stage that runs is another one."""
    write_photographs(project.folder / "data/images", classes=("cat", "dog", "emu"))
    project.set(**THREE_LINES, **{"subset.test_size": "all"})
    track(project, *(f"data/images/{name}" for name in ("cat", "dog", "emu")))
    if stage == "train":
        project.repro("review", "train")
    write_photographs(project.folder / "data/images", classes=("horse",))  # not tracked
    done = project.run("dvc", "exp", "run", "--temp", "-n", "fewer", "-S", "train.lr=0.002")
    assert done.returncode != 0
    assert stages_run(done.stdout) == [stage]
    assert f"{stage}: 20 files of data/images are not in the copy that DVC makes" in done.stderr
    assert "such as horse/0.jpg" in done.stderr


@pytest.mark.slow
def test_an_experiment_in_a_copy_refuses_to_run_with_fewer_files_of_weights(project):
    mine = project.folder / "pretrained/mine"
    shutil.copytree(project.folder / "pretrained/tiny", mine)
    project.git("add", "-f", "pretrained/mine")
    project.git("commit", "-qm", "weights")
    project.set(**{"model.name": "local-dir:pretrained/mine"})
    project.repro("adapt")
    (mine / "more.safetensors").write_bytes(b"weights")  # not tracked
    done = project.run("dvc", "exp", "run", "--temp", "-n", "fewer", "-S", "train.lr=0.002")
    assert done.returncode != 0
    assert "adapt" not in stages_run(done.stdout)
    assert "1 files of pretrained/mine are not in the copy that DVC makes" in done.stderr
    assert "such as more.safetensors" in done.stderr


@pytest.mark.slow
def test_images_outside_the_project_are_followed_without_a_copy_and_seen_by_experiments(
    project, tmp_path
):
    images = tmp_path / "large set"
    write_photographs(images)
    for path in [images, *images.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    project.set(**THREE_LINES, **{"data.folder": str(images), "subset.test_size": "all"})
    project.git("add", "-A")
    project.git("commit", "-qm", "images elsewhere")
    done = project.run(
        "dvc", "exp", "run", "--temp", "-n", "elsewhere", "-S", "subset.val_size=9", "subset"
    )
    assert done.returncode == 0, done.stderr
    assert project.run("dvc", "repro", "subset").returncode == 0
    lock = YAML(typ="safe").load(project.folder / "dvc.lock")
    assert lock["stages"]["download"]["deps"][0]["path"] == str(images)
    assert project.run("dvc", "status", "download").stdout.startswith(
        "Data and pipelines are up to date"
    )
    (images / "cat").chmod(0o755)
    shutil.copy(images / "cat/0.jpg", images / "cat/new.jpg")
    assert str(images) in project.run("dvc", "status", "download").stdout
    assert project.run("dvc", "repro", "subset").returncode == 0
    rows = rows_of(project, "image_problems")
    copies = {row["file"] for row in rows if row["problem"] in ("twice in a part", "in two parts")}
    assert copies == {"cat/0.jpg", "cat/new.jpg"}


def test_weights_of_ones_own_stay_out_of_git_and_of_what_an_experiment_keeps(project):
    weights = project.folder / "pretrained/mine/model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"large")
    assert "pretrained/mine" not in project.git("status", "--porcelain", "--untracked-files=all")
    tracked = project.git("ls-files", "pretrained")
    assert "pretrained/.gitignore" in tracked


def test_git_stays_free_of_data(finished):
    changed = finished.git("status", "--porcelain", "--untracked-files=all")
    assert not re.search(r"\.(npy|bin|png)", changed)


def test_every_parameter_has_its_place_in_the_table():
    assert {*RERUNS, "data.name"} == set(KEYS)


def test_download_imports_torch_only_where_it_has_cifar_to_read(finished, tmp_path):
    project = finished.copy(tmp_path / "p")
    done = project.run("python", "-X", "importtime", "-m", "stages", "download")
    assert done.returncode == 0, done.stderr
    imported = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, flags=re.MULTILINE)
    assert "vit_finetune.params" in imported
    assert "torch" not in imported


QUICK = "evaluate.calibration_bins"
EVERY_KEY = "VIT_EVERY_KEY"  # set it to try all
OTHERS = ("train.lr", "attention.discard_ratio", "subset.train_size", "runtime.threads")
if os.environ.get(EVERY_KEY):
    OTHERS = tuple(key for key in RERUNS if key != QUICK)


@pytest.mark.parametrize(
    "key", [QUICK, *(pytest.param(key, marks=pytest.mark.slow) for key in OTHERS)]
)
def test_a_changed_parameter_reruns_what_it_affects_and_changing_it_back_runs_nothing(project, key):
    value, expected = RERUNS[key]
    before = project.outputs()
    original = (project.folder / "params.yaml").read_text()
    project.set(**{key: value})
    assert project.repro() == expected
    (project.folder / "params.yaml").write_text(original)
    assert project.repro() == []
    assert project.outputs() == before


@pytest.mark.slow
def test_another_data_set_reruns_everything(project):
    if not os.environ.get("VIT_DATA_DIR"):
        pytest.skip("needs CIFAR-10: VIT_DATA_DIR")
    before = project.outputs()
    project.set(**{"data.name": "cifar10"})
    assert project.repro() == list(STAGES)
    project.set(**{"data.name": "digits"})
    assert project.repro() == []
    assert project.outputs() == before


FAMILIES = {
    "distilled": "deit_tiny_distilled_patch16_224",
    "rotary positions": "vit_small_patch16_dinov3",
    "a bias for each pair of positions": "beit_base_patch16_224",
}


def probabilities_by_timm(project, split="test"):
    """Of the images of a split, from the saved model run by timm alone; with the names of the
    classes."""
    import timm
    import torch

    folder = project.folder
    model = timm.create_model(f"local-dir:{folder / 'models/finetuned'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    images = np.load(folder / f"data/subset/{split}_images.npy")
    with torch.no_grad():
        logits = model(torch.stack([transform(Image.fromarray(image)) for image in images]))
    return logits.softmax(1).numpy(), model.pretrained_cfg["label_names"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_runs_with_every_family_of_models(project, family):
    shutil.rmtree(project.folder / "pretrained/other")
    save_tiny_model(project.folder / "pretrained/other", FAMILIES[family])
    project.set(**{"model.name": "local-dir:pretrained/other"})
    done = project.run("dvc", "repro")
    assert stages_run(done.stdout)[-2:] == ["attention", "report"], done.stderr
    assert (
        "train: warning: token_dropout 0.5 has no effect: the attention of " in done.stdout
    ) == (family != "distilled")
    assert len(rows_of(project, "attention_blocks")) == 3
    assert metrics_of(project, "attention")["selfcheck_max_rel_err"] <= 1e-5
    expected = [float(row["confidence"]) for row in rows_of(project, "predictions")]
    probabilities, _ = probabilities_by_timm(project)
    np.testing.assert_allclose(probabilities.max(1), expected, atol=3e-3)


@pytest.mark.slow
def test_metrics_and_curves_of_the_epochs_so_far_are_shown_while_training_runs(project):
    project.set(**{"train.epochs": 3_000})
    run = project.start("dvc", "repro", "train")
    written = project.folder / "metrics/train.json"
    before = written.read_bytes()
    while run.poll() is None and not (written.is_file() and written.read_bytes() != before):
        time.sleep(0.1)
    metrics = project.run("dvc", "metrics", "show", "--json")
    plots = project.run("dvc", "plots", "show", "--json")
    assert run.poll() is None, (
        "training ended before its curves were looked at: give it more epochs"
    )
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    epochs = json.loads(metrics.stdout)[""]["data"]["metrics/train.json"]["data"]["epochs"]
    assert re.fullmatch(r"\d{1,3} of 3000", epochs)
    assert json.loads(plots.stdout)["data"]["plots/history.csv"]
    project.set(**{"train.epochs": 2})
    assert project.repro() == []
    assert written.read_bytes() == before


def test_a_new_key_in_the_schema_reruns_only_the_stages_that_read_its_section(project):
    schemas = project.folder / "src/vit_finetune/params.py"
    values = project.folder / "params.yaml"
    source = schemas.read_text()
    original = values.read_text()
    for section, schema, users in (
        ("runtime", "Runtime", ["report"]),  # which writes the shipped values
        ("evaluate", "Evaluate", ["evaluate", "report"]),
    ):
        start = f"class {schema}(Schema):\n"
        assert start in source
        field = '    new: int = Field(default=0, description="new")\n'
        schemas.write_text(source.replace(start, start + field))
        project.set(**{f"{section}.new": 0})
        assert project.repro() == users
        values.write_text(original)


@pytest.mark.slow
def test_one_thread_and_two_agree_to_rounding(project):
    def measured(threads):
        project.set(**{"runtime.threads": threads})
        project.repro("--force")
        stages = ("train", "evaluation", "attention")
        values = flatten({stage: metrics_of(project, stage) for stage in stages})
        return {key: value for key, value in values.items() if isinstance(value, int | float)}

    one = measured(1)
    two = measured(2)
    assert one.keys() == two.keys()
    np.testing.assert_allclose([*one.values()], [*two.values()], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_forced_second_run_gives_the_same_bytes(project):
    before = project.outputs()
    assert project.repro("--force") == list(STAGES)
    after = project.outputs()
    assert [name for name in before if before[name] != after.get(name)] == []


def test_outputs_are_what_the_contract_says(finished):
    folder = finished.folder
    # one file with DVC's cache, not a copy
    assert (folder / "data/raw/train_images.npy").stat().st_nlink == 2
    dataset = json.loads((folder / "data/raw/dataset.json").read_text())
    assert dataset["classes"] == [str(digit) for digit in range(10)]
    evaluation = metrics_of(finished, "evaluation")
    rows = rows_of(finished, "predictions")
    right = sum(row["actual"] == row["predicted"] for row in rows)
    low, high = evaluation["accuracy_ci95"]
    assert evaluation["n"] == len(rows) == 40
    assert evaluation["accuracy"] == right / 40
    assert low < evaluation["accuracy"] < high
    assert {"macro_f1", "nll", "ece"} <= set(evaluation)
    train = metrics_of(finished, "train")
    history = rows_of(finished, "history")
    columns = "epoch train_loss train_accuracy lr val_loss val_accuracy"
    assert set(history[0]) == set(columns.split())
    assert float(history[train["kept_epoch"]]["val_accuracy"]) == train["val_accuracy"]
    assert [row["block"] for row in rows_of(finished, "attention_blocks")] == ["0", "1", "2"]
    assert metrics_of(finished, "attention")["selfcheck_max_rel_err"] <= 1e-5
    assert not list(folder.rglob("*.partial"))
    report = (folder / "report.html").read_text("utf-8")
    assert re.search(
        r"<td>train\.warmup[ *]*</td><td>0\.125</td>", report
    )  # as in params.yaml, not as the number that it becomes
    assert re.search(r"<td>train\.probe_c[ *]*</td><td>1\.0</td>", report)
    config = json.loads((folder / "models/finetuned/config.json").read_text())
    read = json.loads(json.dumps(READING))
    assert config["trained_on"] == {"image_size": [8, 8], "fit": "crop", **read}
    assert {path.stem for path in (folder / "versions").iterdir()} == {*STAGES} - {"report"}
    for name in ("metrics", "plots", "data/raw", "models/finetuned", "versions"):
        for path in (folder / name).rglob("*.*"):
            assert str(folder).encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_the_report_says_which_stages_ran_with_other_versions_than_the_lock(project):
    pinned = (project.folder / "requirements.lock").read_text()
    report = project.folder / "report.html"
    assert "All stages ran with the versions of requirements.lock." in report.read_text()
    # another version of timm, found before the installed one
    other = project.folder / "timm-9.9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Name: timm\nVersion: 9.9.9\n")
    assert project.repro() == []  # DVC does not see the installed libraries
    assert project.repro("--force", "--single-item", "evaluate") == ["evaluate"]
    assert project.repro() == ["report"]
    numbers = re.findall(r"^timm==(\S+)", pinned, flags=re.MULTILINE)
    assert f"timm 9.9.9 (evaluate) is {numbers[0]} there." in report.read_text()
    # a library in the lock that no stage ran with
    edited = re.sub(r"^numpy==\S+", "numpy==8.8.8", pinned, flags=re.MULTILINE)
    (project.folder / "requirements.lock").write_text(edited)
    assert project.repro() == ["report"]
    assert "numpy 2" in report.read_text()
    assert "(all stages) is 8.8.8 or 8.8.8 there" in report.read_text()


def test_the_saved_model_run_by_timm_alone_gives_the_predictions(finished):
    probabilities, names = probabilities_by_timm(finished)
    rows = rows_of(finished, "predictions")
    confidence = [float(row["confidence"]) for row in rows]
    np.testing.assert_allclose(probabilities.max(1), confidence, atol=2e-3)
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    sure = first - second > 0.002  # float16 storage may turn a tie
    predicted = np.array(names)[probabilities.argmax(1)]
    assert sure.any()
    assert (predicted == [row["predicted"] for row in rows])[sure].all()


def test_the_saved_model_is_as_confident_of_validation_images_as_its_record_says(finished):
    """So its weights hold the temperature, and its predictions are those of the kept epoch."""
    with (finished.folder / "models/finetuned/validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    probabilities, _ = probabilities_by_timm(finished, "val")
    confidence = [float(row["confidence"]) for row in rows]
    np.testing.assert_allclose(probabilities.max(1), confidence, atol=2e-3)
    right = sum(row["right"] == "1" for row in rows)
    accuracy = metrics_of(finished, "train")["val_accuracy"]
    assert right / len(rows) == pytest.approx(accuracy, abs=1e-6)


def truncated_archive(tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b" + b"0" * 1000)
    return {"VIT_DATA_DIR": str(folder)}


def no_network(tmp_path):
    nowhere = "http://127.0.0.1:9"  # the discard port: nobody answers
    return {
        "VIT_DATA_DIR": "",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "https_proxy": nowhere,
        "http_proxy": nowhere,
    }


def change_weights(change):
    def spoil(project):
        from safetensors.torch import load_file, save_file

        path = project.folder / "pretrained/tiny/model.safetensors"
        save_file(
            {name: change(tensor) for name, tensor in load_file(path).items()},
            path,
            {"format": "pt"},
        )

    return spoil


def within_mount(options):
    """A small file system of its own where the pass through the frozen part is kept."""
    script = f'mkdir -p .checkpoints && mount -t tmpfs -o {options} tmpfs .checkpoints && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, "sh"]


SMALL = within_mount("size=32k")
READ_ONLY = within_mount("ro")
NO_SHARED_MEMORY = [
    *("unshare", "-m", "sh", "-c"),
    *('mount -t tmpfs -o size=4k tmpfs /dev/shm && exec "$@"', "sh"),
]
LITTLE_MEMORY = ["prlimit", "--as=5000000000"]


@dataclass
class Bad:
    """What is wrong: keys of params.yaml, variables, a file of the project, a command to run dvc
    within."""

    stage: str
    message: str
    keys: dict[str, Any] = field(default_factory=dict)
    variables: Callable[[Path], dict[str, str]] | None = None
    spoil: Callable[[Project], None] | None = None
    within: list[str] = field(default_factory=list)


CIFAR = {"data.name": "cifar10"}
LARGE = {
    "adapt.epochs": 0,
    "model.image_size": 512,
    "embed.batch_size": 4096,
    "subset.train_size": 800,
}  # 2.5 GB of pixels
BAD_INPUT = {
    "truncated archive": Bad(
        "download", r"python.tar.gz has md5 \w+, not the publ", CIFAR, truncated_archive
    ),
    "no network": Bad(
        "download", r"could not download https://\S+: .*VIT_DATA_DIR.*make demo", CIFAR, no_network
    ),
    "unknown model": Bad(
        "adapt", "timm does not know; close: vit_tiny", {"model.name": "vit_tiny_patch17"}
    ),
    "too many blocks": Bad(
        "embed", "the model has 3 blocks; use 0 to 3 or all", {"freeze.trainable_blocks": 4}
    ),
    "subset too large": Bad(
        "subset", "at most the 901 training images of digits", {"subset.train_size": 901}
    ),
    "misspelt key": Bad(
        "train", "train.weight_decai is not a known key; did you mean", {"train.weight_decai": 1}
    ),
    "weights of another model": Bad(
        "adapt",
        "pretrained/tiny.*no usable model.*size mismatch",
        spoil=change_weights(lambda t: t[..., :1].clone()),
    ),
    "NaN in the weights": Bad(
        "adapt",
        "the model gives NaN for the training images: its weights",
        spoil=change_weights(lambda t: t * float("nan")),
    ),
    "no space left": Bad(
        "embed",
        r"will take \d+ kB, and the disk has 32\.8 kB left; free some of it",
        {"embed.batch_size": 8},
        within=SMALL,
    ),
    "read-only disk": Bad(
        "embed", "Read-only file system: '.checkpoints", {"embed.batch_size": 8}, within=READ_ONLY
    ),
    "too little memory": Bad(
        "embed", "out of memory; try a smaller embed.batch_size", LARGE, within=LITTLE_MEMORY
    ),
}


SHOWN = "misspelt key"
CASES = [
    case if case == SHOWN else pytest.param(case, marks=pytest.mark.slow) for case in BAD_INPUT
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clear_line_and_undoing_it_brings_everything_back(project, tmp_path, case):
    bad = BAD_INPUT[case]
    if bad.within and subprocess.run([*bad.within, "true"], cwd=tmp_path, check=False).returncode:
        pytest.skip("this machine does not let a user mount a file system")
    before = project.outputs()
    original = (project.folder / "params.yaml").read_text()
    shutil.copytree(project.folder / "pretrained", tmp_path / "pretrained")
    project.set(**bad.keys)
    if bad.spoil:
        bad.spoil(project)
    variables = bad.variables(tmp_path) if bad.variables else None
    result = project.run(*bad.within, "dvc", "repro", env=variables, real=bool(bad.within))
    said = re.findall(r"^(?!ERROR)\w+: .*", result.stderr, flags=re.MULTILINE)
    assert result.returncode != 0
    assert len(said) == 1, result.stderr
    assert re.match(rf"{bad.stage}: .*{bad.message}", said[0]), said[0]
    assert "Traceback" not in result.stderr
    assert not list(project.folder.rglob("*.partial"))
    (project.folder / "params.yaml").write_text(original)
    shutil.rmtree(project.folder / "pretrained")
    shutil.copytree(tmp_path / "pretrained", project.folder / "pretrained")
    assert project.repro() == []
    after = project.outputs()
    assert [name for name in before if before[name] != after.get(name)] == []


def test_a_stage_by_itself_fails_with_exit_status_one(project):
    project.set(**{"train.lr": -1.0})
    result = project.run("python", "-m", "stages", "train")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "train: params.yaml: train.lr is -1.0: it should be greater than 0",
    ]


@pytest.mark.slow
def test_a_stage_of_one_or_more_processes_needs_no_shared_memory(project):
    if subprocess.run([*NO_SHARED_MEMORY, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let a user mount a file system")
    before = project.outputs()
    for processes in (1, 2):
        project.set(**{"runtime.processes": processes, "runtime.threads": processes})
        command = ("dvc", "repro", "--force", "--single-item", "embed")
        done = project.run(*NO_SHARED_MEMORY, *command, real=True)
        assert done.returncode == 0, done.stderr
        assert project.outputs() == before


@pytest.mark.slow
def test_a_failed_first_run_leaves_no_data_to_be_committed(tmp_path, tiny_model_folder):
    project = Project.create(tmp_path / "p", tiny_model_folder)
    project.set(**{"model.name": "vit_tiny_patch17"})
    assert project.run("dvc", "repro").returncode != 0
    assert (project.folder / "data/raw/train_images.npy").exists()
    project.git("add", "-A")
    staged = project.git("diff", "--cached", "--name-only")
    assert ".npy" not in staged
    assert ".png" not in staged


@pytest.mark.slow
def test_everything_runs_without_a_network_interface(tmp_path, tiny_model_folder):
    isolate = ["unshare", "--map-root-user", "--net"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*isolate, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this machine lets no user make a network namespace")
    project = Project.create(tmp_path / "p", tiny_model_folder)
    connect = "import socket; socket.create_connection(('127.0.0.1', 9))"
    interfaces = project.run(*isolate, "python", "-c", connect)
    assert "unreachable" in interfaces.stderr  # even the loopback is down
    result = project.run(*isolate, "dvc", "repro", real=True)
    assert result.returncode == 0, result.stderr
    assert metrics_of(project, "evaluation")["n"] == 40


# Adapted, then frozen


def tensors(project, model):
    from safetensors.torch import load_file

    return load_file(project.folder / f"models/{model}/model.safetensors")


@pytest.mark.slow
def test_what_lies_before_the_boundary_is_adapted_and_then_keeps_its_bits(project):
    shutil.copytree(ROOT / "pretrained/glyph-vit", project.folder / "pretrained/glyph-vit")
    project.set(**{"model.name": "local-dir:pretrained/glyph-vit", "subset.val_size": 200})
    project.set(**{"adapt.flip": False})
    project.set(**{"adapt.epochs": 8, "adapt.lr": 0.001, "adapt.token_dropout": 0.0})
    project.set(**{"train.head_init": "zeros", "train.lr": 0.001})
    assert project.repro()[:2] == ["subset", "adapt"]
    pretrained = tensors(project, "pretrained")
    adapted = tensors(project, "adapted")
    finetuned = tensors(project, "finetuned")
    assert adapted.keys() == pretrained.keys()
    assert all(not adapted[name].equal(tensor) for name, tensor in pretrained.items())
    changed = {name for name, tensor in adapted.items() if not tensor.equal(finetuned[name])}
    assert all(name.startswith(("blocks.3.", "norm.")) for name in changed)  # the last of four
    assert any(name.startswith("blocks.3.") for name in changed)

    project.set(**{"adapt.lr": 0.0005})
    assert project.repro() == AFTER_SUBSET[1:]


@pytest.mark.slow
def test_a_head_alone_is_a_probe_and_the_report_has_no_curves_of_it(project):
    project.set(**{"freeze.trainable_blocks": 0})
    project.repro()
    train = metrics_of(project, "train")
    assert (train["epochs"], train["kept_epoch"]) == ("0 of 0", 0)
    assert train["val_accuracy"] == train["probe_accuracy"]
    assert [row["epoch"] for row in rows_of(project, "history")] == ["0"]
    report = (project.folder / "report.html").read_text("utf-8")
    assert TRAINING["adaptation"] in report
    assert TRAINING["training"] not in report


def test_without_adaptation_the_adapted_model_is_the_pretrained_one(project):
    project.set(**{"adapt.epochs": 0})
    project.repro("adapt")
    pretrained = tensors(project, "pretrained")
    adapted = tensors(project, "adapted")
    assert adapted.keys() == pretrained.keys()
    assert all(tensor.equal(adapted[name]) for name, tensor in pretrained.items())
    assert (project.folder / "plots/adaptation.csv").read_text().splitlines() == [
        "epoch,train_loss,train_accuracy,lr,val_loss,val_accuracy"
    ]


@pytest.mark.slow
def test_a_corrected_label_reruns_what_follows_and_an_image_called_right_trains_nothing(project):
    before = {path: data for path, data in project.outputs().items() if path.startswith("data/sub")}
    path = project.folder / "data/corrections.csv"
    shipped = path.read_text()
    first, second = (row["file"] for row in rows_of(project, "predictions")[:2])
    path.write_text(f"{shipped}digits,{first},keep,,\nother,{second},drop,,\n")
    reran = project.repro()
    assert reran[0] == "subset"
    assert not {"adapt", "embed", "train", "evaluate", "attention"} & set(reran)
    path.write_text(f"{shipped}digits,{first},drop,,\n")
    reran = project.repro()
    assert "download" not in reran
    assert {"subset", "adapt", "evaluate"} <= set(reran)
    evaluation = metrics_of(project, "evaluation")
    assert (evaluation["n"], evaluation["corrected"]) == (39, "1 dropped")
    path.write_text(shipped)
    assert project.repro() == []
    assert {path: data for path, data in project.outputs().items() if path in before} == before
