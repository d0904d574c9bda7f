"""subset: data/raw -> data/subset (images, labels, source indices of train, val, test), class counts, samples"""

from vit_finetune.core.files import (
    copy_rows,
    files_of,
    new_folder,
    read_json,
    read_split,
    write_bytes,
    write_csv,
    write_files,
    write_json,
    write_split,
)
from vit_finetune.core.process import run_stage
from vit_finetune.data.dataset import balance_rows, class_counts
from vit_finetune.data.figures import class_balance, sample_grid
from vit_finetune.data.split import require_every_class, train_val_test
from vit_finetune.params import read_params
from vit_finetune.params.subset import Subset
from vit_finetune.style import png


def main() -> None:
    params = read_params()
    dataset = read_json("data/raw/dataset.json")
    classes = dataset["classes"]
    parts = {part: read_split("data/raw", part, "images", "labels") for part in dataset["counts"]}
    labels_of = {part: labels for part, (_, labels) in parts.items()}
    chosen = train_val_test(labels_of, **params.section(Subset).model_dump(), seed=params.seed)
    labels_by_split = {}
    with new_folder("data/subset") as folder:
        for split, indices in chosen.items():
            part = split if split in parts else "train"
            images, labels = parts[part][0], parts[part][1][indices]
            require_every_class(split, labels, classes, labels_of.get(split, labels_of["train"]))
            copy_rows(folder, split, "images", images, indices)
            write_split(folder, split, labels=labels, indices=indices)
            files = files_of("data/raw", part)
            write_files(folder, split, [files[index] for index in indices])
            labels_by_split[split] = labels
        samples = sample_grid(*read_split(folder, "train", "images", "labels"), classes)
        write_json(folder / "dataset.json", {key: dataset[key] for key in ("name", "classes", "image_shape", "fit")})

    counts = class_counts(labels_by_split, classes)
    sizes = {split: len(labels) for split, labels in labels_by_split.items()}
    write_json("metrics/subset.json", {"images": sizes})
    write_csv("plots/class_balance.csv", balance_rows(counts))
    write_bytes("plots/class_balance.png", png(class_balance(counts)))
    write_bytes("plots/samples.png", png(samples))


if __name__ == "__main__":
    run_stage("subset", main, smaller="subset.train_size")
