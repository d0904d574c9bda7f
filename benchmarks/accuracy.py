"""Accuracy and time for 0, 1, 2, 4 and all blocks trainable, and for 500 to 20,000 images: one line each.

    python benchmarks/accuracy.py                 # every line that benchmarks/accuracy.csv lacks, on validation images
    python benchmarks/accuracy.py --test          # then the test column of the lines that are there
    python benchmarks/accuracy.py --blocks 4 --images 5000 --set train.lr=0.0004    # one try, printed alone

Model and training are those of params.yaml, so a line is what the pipeline does with these two numbers; FITTED has
what numbers of blocks get instead of it. A line of other settings than the present ones is run anew. Smaller training
sets are parts of larger ones; the 5,000 validation images are the same for all, and the best epoch is chosen
on the first of them (subset.val_size), as in the pipeline. One pass over the images is shared by all lines, since what
two trainable blocks need is computed from what four need; .checkpoints/accuracy keeps it (12.5 GB for ViT-Ti/16). An
interrupted run goes on where it was, also within a line.
CPU seconds are of all cores together; other work on the machine makes them larger, but does not count itself.
"""

import argparse
import itertools
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML

from vit_finetune.activations.files import ActivationFile, map_activations
from vit_finetune.core.checkpoints import imported_code, library_versions
from vit_finetune.core.device import resolve_precision, set_up_torch
from vit_finetune.core.files import key_of, read_csv, read_json, read_split, write_csv, write_json
from vit_finetune.core.threads import ordered_map
from vit_finetune.data.split import stratified, train_val_test
from vit_finetune.intervals import wilson
from vit_finetune.model.boundary import SplitModel, autocast, run_blocks, run_prefix, to_device
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.params import check_params, read_yaml
from vit_finetune.params.freeze import Freeze
from vit_finetune.params.model import Model
from vit_finetune.params.subset import Subset
from vit_finetune.params.train import Train
from vit_finetune.profiles import merge
from vit_finetune.training.recipe import Recipe, TrainingData

WORK, TABLE = Path(".checkpoints/accuracy"), Path("benchmarks/accuracy.csv")
BLOCKS, IMAGES, VAL_IMAGES = ("0", "1", "2", "4", "all"), (500, 1_000, 5_000, 20_000), 5_000
FITTED = {"all": ("freeze.layer_decay=0.75",)}  # chosen on validation images, 1,000 to train on: docs/benchmarks.md


def with_settings(values, pairs):
    """Values of params.yaml with each `section.key=value` of `pairs` put in."""
    for pair in pairs:
        key, _, value = pair.partition("=")
        section, _, name = key.partition(".")
        values = merge(values, {section: {name: YAML(typ="safe").load(value)}})
    return values


def nested(labels, sizes, seed):
    """Rows in an order whose first n are a stratified subset for each n of `sizes`."""
    chosen, parts = np.arange(len(labels)), []
    for size in sorted(sizes, reverse=True):
        inside, outside = stratified(labels[chosen], size, seed)
        parts.insert(0, chosen[outside])
        chosen = chosen[inside]
    return np.concatenate([chosen, *parts])


def load_images(seed, choosing):
    """{view: (images, labels)} of the original data; training and validation images in nested order."""
    parts = {part: read_split("data/raw", part, "images", "labels") for part in ("train", "test")}
    labels_of = {part: labels for part, (_, labels) in parts.items()}
    rows = train_val_test(labels_of, train_size=max(IMAGES), val_size=VAL_IMAGES, test_size="all", seed=seed)
    rows["train"] = rows["train"][nested(labels_of["train"][rows["train"]], IMAGES, seed)]
    rows["val"] = rows["val"][nested(labels_of["train"][rows["val"]], (choosing, VAL_IMAGES), seed)]
    found = {}
    for split, indices in rows.items():
        images, labels = (torch.from_numpy(array[indices]) for array in parts["test" if split == "test" else "train"])
        found[split] = images, labels
    return found | {"train_flip": (found["train"][0].flip(2), found["train"][1])}


def stored_activations(model, preprocess, device, precision, data, folder):
    """{blocks: {view: mapped activations}} and CPU seconds an image of the pass for each number of blocks."""

    @torch.inference_mode()
    def deeper(batch, before, blocks):
        """Images, or what `before` trainable blocks take, -> what fewer of them take."""
        with autocast(device, precision):
            if before == "all":
                return run_prefix(model, preprocess(batch.to(device)), blocks).float().cpu()
            tokens = batch.to(device).float()
            if blocks == 0:
                return run_blocks(model, tokens, before).float().cpu()
            for block in model.blocks[-before:-blocks]:
                tokens = block(tokens)
            return tokens.float().cpu()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one batch a core, as in the embed stage
    stored, seconds = {"all": {view: images for view, (images, _) in data.items()}}, {"all": 0.0}
    for before, blocks in itertools.pairwise(("all", 4, 2, 1, 0)):
        stored[str(blocks)], spent, count = {}, 0.0, 0
        for view, source in stored[str(before)].items():
            sample = deeper(source[:2], before, blocks)
            shape = [len(source), *sample.shape[1:]]
            file = ActivationFile(
                folder / f"{view}_{blocks}.bin", folder / f"{view}_{blocks}", shape, torch.float16, 32
            )
            file.prepare()
            record = file.path.with_suffix(".json")
            known = read_json(record)["seconds"] if record.is_file() else 0.0
            for segment in file.missing(file.segments()):
                clock = time.process_time()
                some = [source[batch.start : batch.stop] for batch in file.batches(segment)]
                file.write([segment], ordered_map(partial(deeper, before=before, blocks=blocks), some, threads))
                known += time.process_time() - clock
                write_json(record, {"seconds": known})
                print(f"  {file.path.stem}: {segment.stop} of {shape[0]}", end="\r", flush=True)
            stored[str(blocks)][view] = map_activations(
                folder, {"shapes": {file.path.stem: shape}, "storage": "float16"}, file.path.stem
            )
            spent, count = spent + known, count + len(source)
        seconds[str(blocks)] = seconds[str(before)] + spent / count
    torch.set_num_threads(threads)
    return stored, seconds


def train_line(params, split_model, stored, data, images, checkpoint):
    """Train as the train stage does; returns CPU seconds. What an interrupted run left is gone on with."""
    recipe = Recipe(params.section(Train), params.seed, params.section(Freeze).layer_decay)
    choosing = int(params.section(Subset).val_size)
    part = TrainingData(
        views=[stored["train"][:images], stored["train_flip"][:images]],
        labels=data["train"][1][:images],
        val=stored["val"][:choosing],
        val_labels=data["val"][1][:choosing],
        images=data["train"][0][:images].numpy(),
    )
    spent = checkpoint.with_suffix(".json")
    clock, seconds = time.process_time(), read_json(spent)["seconds"] if spent.is_file() else 0.0

    def after_epoch(history):
        nonlocal clock, seconds
        seconds, clock = seconds + time.process_time() - clock, time.process_time()
        write_json(spent, {"seconds": seconds})
        last = history.rows[-1]
        shown = " ".join(f"{key} {last[key]:.4f}" for key in ("train_loss", "train_accuracy", "val_accuracy"))
        print(f"  epoch {last['epoch']}: {shown}, {seconds:.0f} CPU s", flush=True)

    recipe.train(split_model, part, checkpoint=checkpoint, after_epoch=after_epoch)
    return seconds


def accuracy(split, split_model, stored, labels):
    """Share of right predictions and its 95 % interval."""
    hits = int((split_model.predict(stored).argmax(1) == labels).sum())
    low, high = wilson(hits, len(labels))
    return {split: round(hits / len(labels), 4), f"{split}_low": round(low, 4), f"{split}_high": round(high, 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", nargs="+", default=BLOCKS, choices=[*BLOCKS])
    parser.add_argument("--images", nargs="+", type=int, default=IMAGES, choices=IMAGES)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings: a try, not a line")
    parser.add_argument("--test", action="store_true", help="fill in the test column")
    args = parser.parse_args()
    values = with_settings(read_yaml("params.yaml"), args.set)
    params = check_params(values)
    options, device = params.section(Model), set_up_torch(params.runtime.device, params.runtime.threads)
    rows = read_csv(TABLE) if TABLE.is_file() and not args.set else []
    todo = []
    for images, blocks in itertools.product(args.images, args.blocks):
        if blocks == "all" and images > 5_000 and device.type == "cpu":
            continue
        line = check_params(with_settings(values, [] if args.set else FITTED.get(blocks, [])))
        frozen = line.section(Freeze).model_dump() | {"trainable_blocks": blocks}
        settings = key_of(line.section(Train).model_dump(), frozen)
        known = next((row for row in rows if (row["images"], row["blocks"]) == (str(images), blocks)), None)
        if not known or known["settings"] != settings or (args.test and not known["test"]):
            todo.append((images, blocks, line, settings))
    if not todo:
        return print(f"{TABLE} has every line; delete those that are to be run anew")

    precision = resolve_precision(options.precision, device)
    data = load_images(params.seed, int(params.section(Subset).val_size))

    def pretrained():
        model = build_model(options.name, pretrained=True, image_size=options.image_size, seed=params.seed)
        return to_device(model, device, precision), preprocessing(model, options.crop_pct)

    model, preprocess = pretrained()
    folder = WORK / key_of(options.model_dump(), params.seed, str(precision), str(device))
    folder.mkdir(parents=True, exist_ok=True)
    stored, pass_seconds = stored_activations(model, preprocess, device, precision, data, folder)

    for images, blocks, line, settings in todo:
        print(f"{images} images, {blocks} blocks {' '.join(args.set)}", flush=True)
        model, preprocess = pretrained()
        model.reset_classifier(10)
        torch.nn.init.zeros_(model.head.weight)
        torch.nn.init.zeros_(model.head.bias)
        model.to(device)
        count = "all" if blocks == "all" else int(blocks)
        freeze(model, count, line.section(Freeze).parameters)
        split_model = SplitModel(model, count, preprocess, device, precision)
        checkpoint = folder / f"{images}_{blocks}_{key_of(settings, imported_code(), library_versions())}.pt"
        seconds = train_line(line, split_model, stored[blocks], data, images, checkpoint)
        row = {"images": images, "blocks": blocks}
        row |= accuracy("val", split_model, stored[blocks]["val"], data["val"][1])
        row |= dict.fromkeys(("test", "test_low", "test_high"), "")
        if args.test:
            row |= accuracy("test", split_model, stored[blocks]["test"], data["test"][1])
        row |= {"pass_cpu_s": round(pass_seconds[blocks] * 2 * images, 1), "train_cpu_s": round(seconds, 1)}
        row["settings"] = settings
        print(" ", row, flush=True)
        if not args.set:
            rows = [row, *(other for other in rows if (other["images"], other["blocks"]) != (str(images), blocks))]
            order = {blocks: position for position, blocks in enumerate(BLOCKS)}
            rows.sort(key=lambda row: (int(row["images"]), order[row["blocks"]]))
            write_csv(TABLE, rows)
    return None


if __name__ == "__main__":
    main()
