"""subset: data/raw -> data/subset (images, labels, files, indices of train, val and test),
problems, class counts"""

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
from vit_finetune.data.checks import COLUMNS, RawData, Tally, problems
from vit_finetune.data.dataset import balance_rows, class_counts
from vit_finetune.data.figures import sample_grid
from vit_finetune.data.split import handle_leaks, require_every_class, train_val_test
from vit_finetune.params import read_params
from vit_finetune.params.subset import Subset
from vit_finetune.style import font_warnings, png

PROBLEMS = "plots/image_problems.csv"


def main() -> None:
    params, raw, tally = read_params(), RawData.read("data/raw"), Tally()
    settings, classes = params.section(Subset), raw.description["classes"]
    write_csv(PROBLEMS, tally.of(problems(raw)), COLUMNS)
    for line in tally.in_words(PROBLEMS):
        print(f"subset: {line}")
    drawn = train_val_test(raw.labels, **settings.model_dump(exclude={"leaks"}), seed=params.seed)
    chosen = handle_leaks(settings.leaks, drawn, raw.labels, raw.same, params.seed)
    images = {part: read_split("data/raw", part, "images")[0] for part in raw.labels}
    labels_by_split = {}
    with new_folder("data/subset") as folder:
        require_disk("subset", folder, sum(map(len, chosen.values())) * images["train"][0].nbytes)
        for split, indices in chosen.items():
            part = split if split in images else "train"
            labels = labels_by_split[split] = raw.labels[part][indices]
            require_every_class(split, labels, classes, raw.labels[part])
            copy_rows(folder, split, "images", images[part], indices)
            write_split(
                folder, split, labels=labels, indices=indices, files=raw.files[part][indices]
            )
            if raw.padded:
                write_split(folder, split, content=raw.content(part)[indices])
        samples = sample_grid(
            read_split(folder, "train", "images")[0], labels_by_split["train"], classes
        )
        described = {key: raw.description[key] for key in ("name", "classes", "image_shape", "fit")}
        write_json(folder / "dataset.json", described)

    counts = class_counts(labels_by_split, classes)
    sizes = {split: len(labels) for split, labels in labels_by_split.items()}
    write_json("metrics/subset.json", {"images": sizes, "problems": sum(tally.counts.values())})
    write_csv("plots/class_balance.csv", balance_rows(counts))
    write_bytes("plots/samples.png", png(samples))
    for warning in font_warnings([samples]):
        print(f"subset: warning: {warning}")


if __name__ == "__main__":
    run_stage("subset", main)
