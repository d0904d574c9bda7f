"""subset: data/raw -> data/subset (images, labels, files, indices of train, val and test), problems, class counts"""

from vit_finetune.core.files import (
    copy_rows,
    new_folder,
    read_split,
    require_disk,
    write_bytes,
    write_csv,
    write_json,
    write_split,
)
from vit_finetune.core.process import run_stage
from vit_finetune.data.checks import COLUMNS, Kept, Tally, problems
from vit_finetune.data.dataset import balance_rows, class_counts
from vit_finetune.data.figures import class_balance, sample_grid
from vit_finetune.data.split import handle_leaks, require_every_class, train_val_test
from vit_finetune.params import read_params
from vit_finetune.params.subset import Subset
from vit_finetune.style import png

PROBLEMS = "plots/image_problems.csv"


def main() -> None:
    params, kept, tally = read_params(), Kept.read("data/raw"), Tally()
    settings, classes = params.section(Subset), kept.description["classes"]
    write_csv(PROBLEMS, tally.of(problems(kept)), COLUMNS)
    for line in tally.in_words(PROBLEMS):
        print(f"subset: {line}")
    drawn = train_val_test(kept.labels, **settings.model_dump(exclude={"leaks"}), seed=params.seed)
    chosen = handle_leaks(settings.leaks, drawn, kept.labels, kept.same, params.seed)
    images = {part: read_split("data/raw", part, "images")[0] for part in kept.labels}
    labels_by_split = {}
    with new_folder("data/subset") as folder:
        require_disk("subset", folder, sum(map(len, chosen.values())) * images["train"][0].nbytes)
        for split, indices in chosen.items():
            part = split if split in images else "train"
            labels = labels_by_split[split] = kept.labels[part][indices]
            require_every_class(split, labels, classes, kept.labels[part])
            copy_rows(folder, split, "images", images[part], indices)
            write_split(folder, split, labels=labels, indices=indices, files=kept.files[part][indices])
            if kept.padded:
                write_split(folder, split, content=kept.content(part)[indices])
        samples = sample_grid(read_split(folder, "train", "images")[0], labels_by_split["train"], classes)
        described = {key: kept.description[key] for key in ("name", "classes", "image_shape", "fit")}
        write_json(folder / "dataset.json", described)

    counts = class_counts(labels_by_split, classes)
    sizes = {split: len(labels) for split, labels in labels_by_split.items()}
    write_json("metrics/subset.json", {"images": sizes, "problems": sum(tally.counts.values())})
    write_csv("plots/class_balance.csv", balance_rows(counts))
    write_bytes("plots/class_balance.png", png(class_balance(counts)))
    write_bytes("plots/samples.png", png(samples))


if __name__ == "__main__":
    run_stage("subset", main)
