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
from vit_finetune.data import checks
from vit_finetune.data.dataset import balance_rows, class_counts
from vit_finetune.data.figures import class_balance, sample_grid
from vit_finetune.data.split import handle_leaks, require_every_class, train_val_test
from vit_finetune.params import read_params
from vit_finetune.params.subset import Subset
from vit_finetune.style import png

TABLE = "plots/image_problems.csv"


def main() -> None:
    params, dataset = read_params(), read_json("data/raw/dataset.json")
    settings, classes, counts = params.section(Subset), dataset["classes"], dataset["counts"]
    parts = {part: read_split("data/raw", part, "images", "labels", "hashes") for part in counts}
    labels_of = {part: labels for part, (_, labels, _) in parts.items()}
    files = {part: files_of("data/raw", part) for part in parts}
    same = checks.same_pixels({part: hashes for part, (_, _, hashes) in parts.items()})
    problems = [*checks.copies(same, labels_of, files, classes), *checks.rare_classes(counts)]
    if dataset["name"] == "folder":
        sizes = {part: read_split("data/raw", part, "sizes")[0] for part in parts}
        problems += checks.small_images(sizes, labels_of, files, classes, dataset["image_shape"][0])
    problems += checks.left_out(dataset["broken"], dataset["ignored"])
    print(*(f"subset: {line}" for line in checks.in_words(problems, TABLE)), sep="\n", end="\n" * bool(problems))

    drawn = train_val_test(labels_of, **settings.model_dump(exclude={"leaks"}), seed=params.seed)
    chosen = handle_leaks(settings.leaks, drawn, labels_of, same, params.seed)
    labels_by_split = {}
    with new_folder("data/subset") as folder:
        for split, indices in chosen.items():
            part = split if split in parts else "train"
            labels = labels_by_split[split] = labels_of[part][indices]
            require_every_class(split, labels, classes, labels_of[part])
            copy_rows(folder, split, "images", parts[part][0], indices)
            write_split(folder, split, labels=labels, indices=indices)
            write_files(folder, split, [files[part][index] for index in indices])
        samples = sample_grid(read_split(folder, "train", "images")[0], labels_by_split["train"], classes)
        write_json(folder / "dataset.json", {key: dataset[key] for key in ("name", "classes", "image_shape", "fit")})

    sizes_of = {split: len(labels) for split, labels in labels_by_split.items()}
    per_class = class_counts(labels_by_split, classes)
    write_json("metrics/subset.json", {"images": sizes_of, "problems": len(problems)})
    write_csv(TABLE, problems, checks.COLUMNS)
    write_csv("plots/class_balance.csv", balance_rows(per_class))
    write_bytes("plots/class_balance.png", png(class_balance(per_class)))
    write_bytes("plots/samples.png", png(samples))


if __name__ == "__main__":
    run_stage("subset", main, smaller="subset.train_size")
