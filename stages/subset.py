"""subset: data/raw -> data/subset (images, labels, files, indices of train, val and test),
problems, class counts"""

from vit_finetune.core.arrays import read_split
from vit_finetune.core.files import new_folder, write_bytes, write_csv, write_json
from vit_finetune.data.checks import COLUMNS, find_problems, in_words
from vit_finetune.data.dataset import RAW, Dataset, balance_rows, class_counts
from vit_finetune.data.figures import sample_grid
from vit_finetune.data.split import handle_leaks, train_val_test
from vit_finetune.data.subset import subset_size, write_subset
from vit_finetune.stage import Stage
from vit_finetune.style import font_warnings, png

PROBLEMS = "plots/image_problems.csv"


def main(stage: Stage) -> None:
    settings = stage.params.subset
    seed = stage.params.seed
    raw = Dataset.read(RAW)

    problems = find_problems(raw)
    write_csv(PROBLEMS, (problem.row() for problem in problems), COLUMNS)
    for line in in_words(problems, PROBLEMS):
        stage.say(line)

    sizes = settings.model_dump(exclude={"leaks"})
    drawn = train_val_test(raw.labels, **sizes, seed=seed)
    chosen = handle_leaks(settings.leaks, drawn, raw.labels, raw.same, seed)
    with new_folder("data/subset") as folder:
        stage.require_disk(folder, subset_size(raw, chosen))
        labels = write_subset(folder, raw, chosen)

    counts = class_counts(labels, raw.classes)
    images = {split: len(indices) for split, indices in chosen.items()}
    write_json("metrics/subset.json", {"images": images, "problems": len(problems)})
    write_csv("plots/class_balance.csv", balance_rows(counts))
    (train_images,) = read_split("data/subset", "train", "images")
    samples = sample_grid(train_images, labels["train"], raw.classes)
    write_bytes("plots/samples.png", png(samples))
    stage.record_versions()
    for warning in font_warnings([samples]):
        stage.warn(warning)
