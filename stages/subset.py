"""subset: data/raw -> data/subset (images, labels, source indices of train, val, test), class counts, samples"""

from vit_finetune.figures import class_balance, sample_grid, save_png
from vit_finetune.files import new_folder, read_json, read_split, write_csv, write_json, write_split
from vit_finetune.metrics import class_counts
from vit_finetune.params import read_params
from vit_finetune.params.subset import Subset
from vit_finetune.runtime import run_stage
from vit_finetune.split import train_val_test


def main() -> None:
    params = read_params()
    sizes = params.section(Subset)
    dataset = read_json("data/raw/dataset.json")
    parts = {part: read_split("data/raw", part, "images", "labels") for part in dataset["counts"]}
    labels_of = {part: labels for part, (_, labels) in parts.items()}
    chosen = train_val_test(labels_of, **sizes.model_dump(), seed=params.seed)
    labels_by_split = {}
    with new_folder("data/subset") as folder:
        for split, indices in chosen.items():
            images, labels = (array[indices] for array in parts.get(split, parts["train"]))
            absent = [name for k, name in enumerate(dataset["classes"]) if k not in labels]
            if absent:
                raise ValueError(
                    f"subset.{split}_size is {len(labels)}: no image of {', '.join(absent)} is among them; use more"
                )
            write_split(folder, split, images=images, labels=labels, indices=indices)
            labels_by_split[split] = labels
            if split == "train":
                grid = sample_grid(images, labels, dataset["classes"])
        write_json(folder / "dataset.json", {key: dataset[key] for key in ("name", "classes", "image_shape", "fit")})

    counts = class_counts(labels_by_split, dataset["classes"])
    sizes_found = {split: len(labels) for split, labels in labels_by_split.items()}
    write_json("metrics/subset.json", {"images": sizes_found, "per_class": counts})
    write_csv(
        "plots/class_balance.csv",
        [
            {"split": split, "class": name, "images": count}
            for split, by_class in counts.items()
            for name, count in by_class.items()
        ],
    )
    save_png(class_balance(counts), "plots/class_balance.png")
    save_png(grid, "plots/samples.png")


if __name__ == "__main__":
    run_stage("subset", main)
