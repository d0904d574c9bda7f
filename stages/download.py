"""download: network, VIT_DATA_DIR or data/images -> data/raw (uint8 images and labels of each part, dataset.json)"""

from functools import partial

from vit_finetune.core.files import new_folder, write_json, write_split
from vit_finetune.core.process import progress, run_stage
from vit_finetune.data.dataset import channel_statistics, class_counts
from vit_finetune.data.sources import load_dataset
from vit_finetune.params import read_params
from vit_finetune.params.data import Data

MORE = " and others, see data/raw/dataset.json"


def main() -> None:
    data = read_params().section(Data)
    dataset = load_dataset(data, bar=partial(progress, label="download", unit="image"))
    for left_out, why in ((dataset.broken, "cannot be read as images"), (dataset.ignored, "are no images of a class")):
        if left_out:
            print(f"download: left out {len(left_out)} that {why}: {left_out[0]}{MORE if len(left_out) > 1 else ''}")
    mean, std = channel_statistics(dataset.images["train"])
    description = {
        "name": data.name,
        "classes": dataset.classes,
        "counts": class_counts(dataset.labels, dataset.classes),
        "image_shape": list(dataset.images["train"].shape[1:]),
        "fit": data.fit if data.name == "folder" else "crop",
        "broken": dataset.broken,
        "ignored": dataset.ignored,
        "channel_mean": mean,
        "channel_std": std,
        "md5": dataset.checksums,
    }
    with new_folder("data/raw") as raw:
        for split, images in dataset.images.items():
            write_split(raw, split, images=images, labels=dataset.labels[split])
        write_json(raw / "dataset.json", description)


if __name__ == "__main__":
    run_stage("download", main, smaller="data.image_size")
