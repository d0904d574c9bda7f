"""`python tools/reference.py`: add new keys to params.yaml with their shipped values, and write the
tables of the documents from the schemas, dvc.yaml, metrics/ and plots/."""

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from dvc.utils.serialize import dumps_yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks/choice"))

from differences import compare, in_nats, in_points, read_runs
from rules import KEPT, RULES, SHIPPED, START

from vit_finetune.core.files import read_csv
from vit_finetune.intervals import mean, wilson
from vit_finetune.params import KEYS, Params, read_yaml
from vit_finetune.report.headline import map_table
from vit_finetune.verdict import error_chance, in_words

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/reference.md", "docs/models.md", "docs/benchmarks.md")
FIRST_LINE = (
    "# The one place of truth. docs/reference.md says what each key means; "
    "`dvc repro` reruns what an edit affects."
)
MODELS = (  # one of each family that tests split at a block
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "deit_tiny_patch16_224.fb_in1k",
    "deit_tiny_distilled_patch16_224.fb_in1k",
    "deit3_small_patch16_224.fb_in22k_ft_in1k",
    "vit_wee_patch16_reg1_gap_256.sbb_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch14_reg4_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
    "eva02_tiny_patch14_224.mim_in22k",
    "beit_base_patch16_224.in22k_ft_in22k_in1k",
    "beitv2_base_patch16_224.in1k_ft_in22k_in1k",
    "vit_base_patch16_siglip_224.webli",
    "vit_base_patch32_clip_224.openai",
    "torchvision/vit_b_16.IMAGENET1K_V1",
)
DEFAULT_EPOCHS = "4"  # of `train`
JUDGES = 3000  # images that benchmarks/default_run.py and adaptation.py judge by
METHODS = ("stage", "cleanlab", "highest loss")  # of benchmarks/review.py
MEANS = {0.485: "ImageNet", 0.481: "CLIP"}  # of the red channel


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for cells in (header, *rows):
        padded = [f" {cell} " if cell else " " for cell in cells]
        lines.append(f"|{'|'.join(padded)}|")
    lines.insert(1, "|" + "---|" * len(header))
    return "\n".join(lines)


def stage_outputs(stage: Mapping[str, Any]) -> list[str]:
    outputs = []
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, []):
            path = entry if isinstance(entry, str) else next(iter(entry))
            outputs.append(path)
    return outputs


def rerun_by(key: str, stages: Mapping[str, Any]) -> list[str]:
    """Stages that a change of a key reruns, if every output changes with it: those keyed on it, and
    what follows."""
    reruns: list[str] = []
    changed: set[str] = set()
    for name, stage in stages.items():  # dvc.yaml is in data-flow order
        keyed = any(key == param or key.startswith(f"{param}.") for param in stage["params"])
        if keyed or changed & set(stage["deps"]):
            reruns.append(name)
            changed.update(stage_outputs(stage))
    return reruns


def reruns_in_words(reruns: list[str], stages: list[str]) -> str:
    """Most keys rerun a stage and all that follow it."""
    if reruns == stages:
        return "all stages"
    if len(reruns) > 2 and reruns == stages[-len(reruns) :]:
        return f"{reruns[0]} and all after"
    return ", ".join(reruns) or "nothing"


def shipped_params() -> str:
    """Text of params.yaml before anyone edited it, in the form that DVC writes."""
    return f"{FIRST_LINE}\n{dumps_yaml(Params().model_dump())}"


def completed_params() -> str:
    """Text of params.yaml with every key: what the file has, and the shipped value of new keys."""
    values = Params().model_dump()
    written = read_yaml(ROOT / "params.yaml")
    values["seed"] = written.get("seed", values["seed"])
    for section, block in values.items():
        if isinstance(block, dict):
            known = {key: value for key, value in written.get(section, {}).items() if key in block}
            block.update(known)
    return f"{FIRST_LINE}\n{dumps_yaml(values)}"


def means_the_same(name: str) -> bool:
    """Whether a key of `adapt` and of `train` has one description."""
    adapt = KEYS.get(f"adapt.{name}")
    train = KEYS.get(f"train.{name}")
    return bool(adapt and train and adapt.description == train.description)


def parameter_table() -> str:
    """A table for each set of stages that a change reruns. It has a row for each key; one for both
    where `adapt` and `train` have the same."""
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    shipped = Params()
    groups: dict[str, list[list[str]]] = {}
    for key, field in KEYS.items():
        section, _, name = key.partition(".")
        keys = [key]
        if section in ("adapt", "train") and means_the_same(name):
            if section == "train":
                continue
            keys.append(f"train.{name}")
        values = []
        reruns = []
        for one in keys:
            value = json.dumps(attrgetter(one)(shipped)).strip('"')
            if f"`{value}`" not in values:
                values.append(f"`{value}`")
            reruns.append(reruns_in_words(rerun_by(one, stages), list(stages)))
        names = ", ".join(f"`{one}`" for one in keys)
        row = [names, ", ".join(values), field.description]
        groups.setdefault(", or ".join(reruns), []).append(row)
    tables = []
    for stages_to_run, rows in groups.items():
        table = markdown_table(["key", "default", "meaning"], rows)
        tables.append(f"**A change reruns {stages_to_run}:**\n\n{table}")
    return "\n\n".join(tables)


def output_table() -> str:
    rows = []
    for name, stage in read_yaml(ROOT / "dvc.yaml")["stages"].items():
        outputs = ", ".join(f"`{path}`" for path in stage_outputs(stage))
        rows.append([name, stage["desc"], outputs])
    return markdown_table(["stage", "what it does", "outputs"], rows)


def read_result(path: str) -> dict[str, Any]:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def with_interval(run: Mapping[str, Any]) -> str:
    low, high = run["accuracy_ci95"]
    return f"{run['accuracy']:.4f} [{low:.4f}, {high:.4f}]"


def training_seconds(line: Mapping[str, str]) -> str:
    """CPU seconds of a line of benchmarks/accuracy.csv."""
    return f"{sum(float(line[f'{step}_s']) for step in ('adapt', 'pass', 'train')):.0f}"


def results_table() -> str:
    """The committed run, the textbook recipe on the same images, and two ways whose test accuracy
    is that of benchmarks/accuracy.csv: a linear probe, and two epochs of everything."""
    default = read_result("metrics/evaluation.json") | read_result("metrics/train.json")
    textbook = read_result("benchmarks/textbook.json")
    val = read_result("metrics/subset.json")["images"]["val"]
    lines = {}  # of 5,000 images, by epochs of adaptation and trained blocks
    for line in read_csv(ROOT / "benchmarks/accuracy.csv"):
        if line["images"] == "5000":
            lines[line["adapt"], line["blocks"], line["epochs"]] = line
    probe_accuracy = f"{default['pretrained_probe_accuracy']:.4f}"
    rows = []
    for name, trained, val_accuracy, line in (
        ("linear probe", "the head", probe_accuracy, lines["0", "0", "0"]),
        ("everything, two epochs", "all", "", lines["0", "all", "2"]),
    ):
        low = float(line["test_low"])
        high = float(line["test_high"])
        accuracy = f"{float(line['test']):.3f} [{low:.3f}, {high:.3f}], n = 2,000"
        rows.append([name, trained, val_accuracy, accuracy, "", "", training_seconds(line)])
    shipped = Params()
    of_default = lines[str(shipped.adapt.epochs), "1", str(shipped.train.epochs)]
    for name, run, line in (
        ("textbook recipe", textbook, lines["0", "4", "8"]),
        ("**default**", default, of_default),
    ):
        trained = f"{run['parameters_trained']:,}"
        if run["parameters_adapted"]:
            trained = f"all {run['parameters_adapted']:,}, then {trained}"
        rows.append(
            [
                name,
                trained,
                f"{run['val_accuracy']:.4f}",
                with_interval(run),
                f"{run['nll']:.4f}",
                f"{run['ece']:.4f}",
                training_seconds(line),
            ]
        )
    header = [
        "",
        "parameters trained",
        f"validation accuracy, n = {val:,}",
        f"test accuracy [95 % interval], n = {default['n']:,}",
        "negative log-likelihood",
        "calibration error",
        "CPU seconds",
    ]
    return markdown_table(header, rows)


def headline_text() -> str:
    """What the committed run reached, and at what cost (docs/benchmarks.md: the default run)."""
    run = read_result("metrics/evaluation.json")
    images = read_result("metrics/subset.json")["images"]
    low, high = run["accuracy_ci95"]
    labels = images["train"] + images["val"]
    return (
        f"**{run['accuracy']:.4f} test accuracy on CIFAR-10** (95 % interval [{low:.4f}, "
        f"{high:.4f}], n = {run['n']:,}) from {labels:,} labelled images ({images['val']:,} of "
        "them for validation) and a small Vision Transformer (ViT-Ti/16) pretrained on "
        "ImageNet-21k and ImageNet, **in 5 to 10 minutes on two CPU cores** that compute in "
        "bfloat16 (`bf16` in the output of `lscpu`), or in half an hour on two older cores."
    )


def attention_table() -> str:
    maps = read_csv(ROOT / "plots/attention_maps.csv")
    header, *rows = map_table(maps)
    return f"{markdown_table(header, rows)}\n\n{error_chance(maps)}"


def verdict_text() -> str:
    maps = read_csv(ROOT / "plots/attention_maps.csv")
    return f"{in_words(maps)} Judged on {maps[0]['n']} test images, by 95 % intervals."


def models_table() -> str:
    """What timm and torchvision say of each; the weights are not read."""
    import torch
    from timm import create_model

    from vit_finetune.model.build import TORCHVISION, preprocessing
    from vit_finetune.model.families import token_layout
    from vit_finetune.model.torchvision import torchvision_model

    rows = []
    for name in MODELS:
        with torch.device("meta"):
            if name.startswith(TORCHVISION):
                model = torchvision_model(name.removeprefix(TORCHVISION), pretrained=False)
                licence = "see torchvision"
            else:
                model = create_model(name)
                licence = model.pretrained_cfg["license"] or "not stated"
        layout = token_layout(model)
        tokens = [*layout.prefix, f"{layout.grid[0]} × {layout.grid[1]}"]
        preprocess = preprocessing(model, None)
        mean_name = MEANS.get(round(preprocess.mean[0], 3), "0.5")
        images = (
            f"{preprocess.input_size[0]} pixels, {preprocess.interpolation}, "
            f"crop {preprocess.crop_pct:.3g}, mean {mean_name}"
        )
        rows.append(
            [
                f"`{name}`",
                str(len(model.blocks)),
                " + ".join(tokens),
                str(model.embed_dim),
                images,
                licence,
            ]
        )
    header = ["`model.name`", "blocks", "tokens", "width", "preprocessing"]
    return markdown_table([*header, "licence of the weights"], rows)


def small_data_table() -> str:
    """benchmarks/choice/rows.csv: means over the seeds of a set."""
    runs = read_runs()
    whole = compare(runs[SHIPPED, KEPT], runs["adapt", START])
    of_train = compare(runs[SHIPPED, KEPT], runs[SHIPPED, START])
    rows = []
    for name, found in whole.items():
        pipeline = [float(one["test"]) for one, _ in found.pairs]
        probe = [float(other["test"]) for _, other in found.pairs]
        any_row = found.pairs[0][0]
        cells = [name]
        for number in (any_row["images"], any_row["classes"], len(found.pairs), any_row["n"]):
            cells.append(f"{int(number):,}")
        cells += [f"{np.mean(probe):.3f}", f"{np.mean(pipeline):.3f}"]
        for part in (found, of_train[name]):
            cells.append(f"{100 * part.difference:+.2f} ± {100 * part.margin:.2f}")
        rows.append(cells)
    header = [
        "data",
        "training images",
        "classes",
        "seeds",
        "test images",
        "probe",
        "pipeline",
        "difference, points",
        "of which `train`",
    ]
    return markdown_table(header, rows)


def small_data_text() -> str:
    """The same in one sentence."""
    runs = read_runs()
    compared = compare(runs[SHIPPED, KEPT], runs["adapt", START])
    points = [100 * found.difference for found in compared.values()]
    clear = sum(found.difference > found.margin for found in compared.values())
    images = []
    for found in compared.values():
        images.append(int(found.pairs[0][0]["images"]))
    return (
        f"On {len(compared)} small data sets, of {min(images)} to {max(images):,} training images, "
        f"the pipeline was {min(points):.1f} to {max(points):.1f} points above a linear probe of "
        f"the same pretrained network, clearly so on {clear} of them "
        "([table](docs/benchmarks.md#small-data-sets-never-below-a-linear-probe))."
    )


def rules_table() -> str:
    """benchmarks/choice/rows.csv: what each rule gains over the start."""
    runs = read_runs()
    rows = []
    for rule, words in RULES.items():
        cells = [words]
        for training in ("adapt", SHIPPED):
            found = runs.get((training, rule))
            cells.append(in_points(found, runs[training, START]) if found else "")
        rows.append(cells)
    return markdown_table(["rule", "`adapt`", "`train`"], rows)


def recipes_table() -> str:
    """benchmarks/choice/rows.csv: other settings of `train`, minus the shipped ones."""
    runs = read_runs()
    rows = []
    for training, choice in runs:
        if choice != KEPT or training in ("adapt", SHIPPED):
            continue
        both = runs[training, KEPT], runs[SHIPPED, KEPT]
        rows.append([training, str(len(compare(*both))), in_points(*both), in_nats(*both)])
    header = [
        "`train`",
        "sets",
        "accuracy, points, clearly better / worse",
        "calibrated loss, nats",
    ]
    return markdown_table(header, rows)


def cost_table() -> str:
    """benchmarks/cost.csv."""
    columns = {
        "images": "images",
        "epochs": "epochs",
        "blocks": "trained blocks",
        "image_size": "image size",
        "embed_s": "embed, s",
        "embed_mib": "MiB",
        "train_s": "train, s",
        "train_mib": "MiB",
        "stored_mib": "stored, MiB",
    }
    rows = []
    for line in read_csv(ROOT / "benchmarks/cost.csv"):
        rows.append([line[name] for name in columns])
    return markdown_table(list(columns.values()), rows)


def frontier_table() -> str:
    """benchmarks/accuracy.csv: a row for each line, smaller training sets first."""
    trained = {"0": "head alone: a linear probe", "1": "one block", "4": "four blocks, 8 epochs"}
    lines = read_csv(ROOT / "benchmarks/accuracy.csv")
    rows = []
    for line in sorted(lines, key=lambda line: int(line["images"])):
        adapted = line["adapt"]
        blocks = trained.get(line["blocks"])
        if blocks is None:
            adapted = "-"
            plural = "" if line["epochs"] == "1" else "s"
            blocks = f"everything, {line['epochs']} epoch{plural}"
        cells = [f"{int(line['images']):,}", adapted, blocks]
        for split in ("val", "test"):
            accuracy = float(line[split])
            low = float(line[f"{split}_low"])
            high = float(line[f"{split}_high"])
            cells.append(f"{accuracy:.3f} [{low:.3f}, {high:.3f}]")
        seconds = [float(line[f"{step}_s"]) for step in ("adapt", "pass", "train")]
        for number in (*seconds, sum(seconds)):
            cells.append(f"{number:.0f}")
        rows.append(cells)
    header = [
        "training images",
        "epochs of `adapt`",
        "trained",
        "accuracy, n = 3,000",
        "test accuracy, n = 2,000",
        "`adapt`, s",
        "pass, s",
        "training, s",
        "all, s",
    ]
    return markdown_table(header, rows)


def probe_table() -> str:
    """benchmarks/probe.csv: the accuracy of the shipped probe on each set, and what other ways add
    to it; the last row has the means over sets with their 95 % intervals."""
    shipped = "calibrated loss"
    others = ("plain loss", "accuracy", "C = 0.01", "epochs")
    rows = []
    differences: dict[str, list[float]] = {way: [] for way in others}
    for (name, images), runs in grouped("probe.csv", "set", "images").items():
        accuracies = {}
        for way in (shipped, *others):
            accuracies[way] = mean_of([run for run in runs if run["way"] == way], "accuracy")
        seeds = len({run["seed"] for run in runs})
        cells = [name, f"{int(images):,}", f"{seeds}", f"{int(runs[0]['n']):,}"]
        cells.append(f"{accuracies[shipped]:.3f}")
        for way in others:
            points = 100 * (accuracies[way] - accuracies[shipped])
            differences[way].append(points)
            cells.append(f"{round(points, 1) + 0.0:+.1f}")  # never -0.0
        rows.append(cells)
    last_row = ["mean", "", "", "", ""]
    for way in others:
        of_sets = mean(differences[way])
        last_row.append(f"{of_sets.mean:+.2f} ± {of_sets.high - of_sets.mean:.2f}")
    rows.append(last_row)
    header = ["data", "training images", "seeds", "test images", f"**{shipped}**", *others]
    return markdown_table(header, rows)


def difference_in_points(rows: Sequence[Mapping[str, str]]) -> str:
    """Of accuracy over the judging images of several seeds, with its 95 % interval: from the counts
    `gained` and `lost`. Nothing for a way that is compared with itself."""
    images = len(rows) * JUDGES
    gained = total(rows, "gained")
    lost = total(rows, "lost")
    if not gained + lost:
        return ""
    difference = (gained - lost) / images
    # of a mean of -1, 0 and 1
    variance = ((gained + lost) / images - difference**2) / images
    return f"{100 * difference:+.2f} ± {100 * 1.96 * variance**0.5:.2f}"


def mean_of(rows: Sequence[Mapping[str, str]], column: str) -> float:
    return float(np.mean([float(row[column]) for row in rows]))


def grouped(path: str, *columns: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """The rows of a table of benchmarks/ by some of its columns."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in read_csv(ROOT / "benchmarks" / path):
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def epochs_table() -> str:
    """benchmarks/default_run.csv: runs of 5,000 images by their epochs of `train`."""
    runs = grouped("default_run.csv", "train")
    compared = {row["seed"] for row in runs["0",]}  # those of every number of epochs
    rows = []
    for (epochs,), all_seeds in runs.items():
        seeds = [row for row in all_seeds if row["seed"] in compared]
        rows.append(
            [
                epochs if epochs != "0" else "0, the linear probe",
                str(len(seeds)),
                f"{mean_of(seeds, 'others'):.4f}",
                difference_in_points(seeds),
                f"{mean_of(seeds, 'train_s'):.0f}",
            ]
        )
    header = [
        "epochs of `train`",
        "seeds",
        f"accuracy, n = {JUDGES:,} each",
        "difference, points",
        "training, s",
    ]
    return markdown_table(header, rows)


def adaptation_table() -> str:
    """benchmarks/adaptation.csv: ways to adapt to 5,000 images."""
    rows = []
    for (way, weights), seeds in grouped("adaptation.csv", "way", "weights").items():
        rows.append(
            [
                way if weights == "last" else f"{way}, averaged weights",
                str(len(seeds)),
                f"{mean_of(seeds, 'alone'):.4f}",
                f"{mean_of(seeds, 'others'):.4f}",
                difference_in_points(seeds),
                f"{mean_of(seeds, 'adapt_s'):.0f}",
            ]
        )
    header = [
        "`adapt`",
        "seeds",
        "adapted model alone",
        f"after `train`, n = {JUDGES:,} each",
        "difference, points",
        "`adapt`, s",
    ]
    return markdown_table(header, rows)


def other_seeds_text() -> str:
    """The test accuracy of the committed run, and of benchmarks/default_run.csv: the default with
    other seeds."""
    runs = []
    for row in read_csv(ROOT / "benchmarks/default_run.csv"):
        if row["train"] == DEFAULT_EPOCHS and row["test"]:
            runs.append(row)
    accuracies = [float(row["test"]) for row in runs]
    listed = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
    accuracies.append(read_result("metrics/evaluation.json")["accuracy"])
    return (
        f"With {len(runs)} other seeds, the default has test accuracies of {listed} "
        f"(n = 10,000 each). The mean of all {len(accuracies)} is {np.mean(accuracies):.4f}, "
        f"their standard deviation {np.std(accuracies, ddof=1):.4f}; "
        f"the other seeds' mean negative log-likelihood is {mean_of(runs, 'nll'):.3f}, their mean "
        f"calibration error {mean_of(runs, 'ece'):.3f}."
    )


def total(rows: Sequence[Mapping[str, str]], column: str) -> int:
    return sum(int(row[column]) for row in rows)


def fraction_text(hits: int, count: int) -> str:
    low, high = wilson(hits, count)
    return f"{hits / count:.3f} [{low:.3f}, {high:.3f}]"


def wrong_labels_table() -> str:
    """benchmarks/review.csv: exchanged and real wrong labels; hits of all seeds together."""
    names = {"evenly": "exchanged evenly", "most like": "for the class most like it"}
    table = [row for row in read_csv(ROOT / "benchmarks/review.csv") if row["method"] in METHODS]
    rows = []
    for (check, setting), group in itertools.groupby(
        sorted(table, key=lambda row: (row["check"] != "planted", row["check"], row["setting"])),
        key=lambda row: (row["check"], row["setting"]),
    ):
        by_method = {method: [] for method in METHODS}
        for row in group:
            by_method[row["method"]].append(row)
        if check not in ("planted", "CIFAR-10N"):
            continue
        kind, _, share = setting.rpartition(" ")
        label = f"{float(share):.0%}, {names[kind]}" if kind else "people's (CIFAR-10N), 9 %"
        for method, of_method in by_method.items():
            score = np.mean([float(row["value"]) for row in of_method])
            cells = [label, method, f"{score:.3f}", "", "", ""]
            if of_method[0]["listed"]:
                hits = total(of_method, "hits")
                listed = total(of_method, "listed")
                wrong = total(of_method, "wrong")
                cells[3] = fraction_text(hits, listed)
                cells[4] = fraction_text(hits, wrong)
                cells[5] = f"{2 * hits / (listed + wrong):.3f}"
            rows.append(cells)
            label = ""
    header = ["wrong labels", "method", "average precision", "precision", "recall", "F1"]
    return markdown_table(header, rows)


def copies_table() -> str:
    """benchmarks/review.csv: near-copies, repeated subjects, judged test labels."""
    rows = []
    for row in read_csv(ROOT / "benchmarks/review.csv"):
        if ": " in row["setting"]:
            continue  # of other sets
        if row["check"] in ("ciFAIR", "altered copies", "subjects", "test labels"):
            check = f"{row['check']}, {row['setting']}"
            found = fraction_text(int(row["hits"]), int(row["wrong"]))
            count = f"{int(row['wrong']):,}"
            rows.append([check, row["method"], found, count, row["listed"]])
    return markdown_table(["check", "method", "fraction", "n", "listed"], rows)


def use_table() -> str:
    """benchmarks/review_use.csv: all seeds together; the difference is of the same test images."""
    table = read_csv(ROOT / "benchmarks/review_use.csv")
    rows = []
    for name in dict.fromkeys(row["labels"] for row in table):
        of_name = [row for row in table if row["labels"] == name]
        runs = [row for row in of_name if row["right"]]
        right = total(runs, "right")
        count = total(runs, "n")
        wrong = total(runs, "wrong") / total(runs, "images")
        difference = "".join(row["difference"] for row in of_name)  # a row of its own
        cells = [name, f"{wrong:.1%}", fraction_text(right, count), f"{count:,}", difference]
        rows.append(cells)
    header = ["labels", "wrong ones", "test accuracy", "n", "difference [95 % interval]"]
    return markdown_table(header, rows)


def alike_table() -> str:
    """benchmarks/review.csv: sets whose images are more alike than photographs of CIFAR-10."""
    table = read_csv(ROOT / "benchmarks/review.csv")
    listed = {}
    found = {}
    exchanged = {}
    for row in table:
        if row["check"] == "nothing planted" and row["setting"]:
            images = f"{int(row['listed']):,} of {int(row['wrong']):,}"
            listed[row["setting"], row["method"]] = images
        elif row["check"] == "altered copies" and ": " in row["setting"]:
            name, way = row["setting"].split(": ")
            found[name, way] = f"{row['hits']} of {row['wrong']}"
        elif row["check"] == "exchanged labels":
            exchanged.setdefault(row["setting"], []).append(row)
    ways = list(dict.fromkeys(way for _, way in found))
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        cells = [name, listed[name, "near_copies"], *(found[name, way] for way in ways)]
        cells.append(listed.get((name, "wrong_labels"), ""))
        planted = exchanged.get(name, [])
        if total(planted, "listed"):
            hits = total(planted, "hits")
            cells.append(fraction_text(hits, total(planted, "listed")))
            cells.append(fraction_text(hits, total(planted, "wrong")))
        else:
            cells += ["not judged" if planted else "", ""]
        rows.append(cells)
    header = ["images", "near-copies listed", *ways, "wrong labels listed"]
    return markdown_table([*header, "5 % exchanged: precision", "recall"], rows)


def review_cost_table() -> str:
    """benchmarks/review_cost.csv."""
    rows = []
    for line in read_csv(ROOT / "benchmarks/review_cost.csv"):
        rows.append([f"{int(line['train']):,}", line["cpu_s"], line["mib"]])
    return markdown_table(["images to train on", "CPU s", "MiB"], rows)


def browser_table() -> str:
    """benchmarks/browser.csv: a row for each kind of images."""
    names = {"test": "test images", "photograph": "photographs"}
    rows = []
    table = read_csv(ROOT / "benchmarks/browser.csv")
    for name, group in itertools.groupby(table, key=lambda row: row["images"]):
        lines = list(group)
        same = [line for line in lines if line["predict"] == line["page"]]
        low, high = wilson(len(same), len(lines))
        differences = [
            abs(float(line["predict_probability"]) - float(line["page_probability"]))
            for line in same
        ]
        seconds = [float(line["seconds"]) for line in lines]
        rows.append(
            [
                names[name],
                f"{len(lines):,}",
                f"{len(same) / len(lines):.4f} [{low:.4f}, {high:.4f}]",
                f"{np.mean(differences):.3f}",
                f"{max(differences):.3f}",
                f"{np.median(seconds):.2f}",
                f"{np.quantile(seconds, 0.95):.2f}",
            ]
        )
    header = [
        "images",
        "number",
        "same class as `predict`",
        "difference in probability, mean",
        "largest",
        "seconds an image, median",
        "95 % are below",
    ]
    return markdown_table(header, rows)


TABLES = {  # name of the markers in a document -> what stands between them
    "parameters": parameter_table,
    "outputs": output_table,
    "headline": headline_text,
    "results": results_table,
    "attention": attention_table,
    "verdict": verdict_text,
    "models": models_table,
    "small data": small_data_table,
    "small data in words": small_data_text,
    "rules": rules_table,
    "recipes": recipes_table,
    "cost": cost_table,
    "frontier": frontier_table,
    "epochs of train": epochs_table,
    "ways to adapt": adaptation_table,
    "probe": probe_table,
    "other seeds": other_seeds_text,
    "wrong labels": wrong_labels_table,
    "near-copies": copies_table,
    "review use": use_table,
    "alike": alike_table,
    "review cost": review_cost_table,
    "browser": browser_table,
}


def generated(document: str) -> str:
    """A document with its tables written anew."""
    for name, table in TABLES.items():
        start = f"<!-- {name} -->\n"
        end = f"<!-- /{name} -->"
        if start not in document:
            continue
        before, _, rest = document.partition(start)
        after = rest.partition(end)[2]
        document = f"{before}{start}{table()}\n{end}{after}"
    return document


if __name__ == "__main__":
    (ROOT / "params.yaml").write_text(completed_params(), encoding="utf-8")
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")
