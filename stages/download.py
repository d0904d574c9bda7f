"""download: network, VIT_DATA_DIR or data/images -> data/raw (uint8 images and labels of each part, dataset.json)"""

from functools import partial

import numpy as np

from vit_finetune.datasets import channel_statistics, load_dataset, load_folder
from vit_finetune.files import new_folder, write_json, write_split
from vit_finetune.params import read_params
from vit_finetune.params.data import Data
from vit_finetune.runtime import progress, run_stage

OWN = "data/images"


def main() -> None:
    data = read_params().section(Data)
    if data.name == "folder":
        bar = partial(progress, label="download", unit="image")
        dataset = load_folder(OWN, **data.model_dump(exclude={"name"}), bar=bar)
    else:
        dataset = load_dataset(data.name)
    if dataset.broken:
        print(
            f"download: left out {len(dataset.broken)} files that cannot be read as images, see data/raw/dataset.json"
        )
    if dataset.ignored:
        print(f"download: {len(dataset.ignored)} files are no images by their names, such as {dataset.ignored[0]}")
    mean, std = channel_statistics(dataset.images["train"])
    counts = {
        split: dict(zip(dataset.classes, np.bincount(labels, minlength=len(dataset.classes)).tolist(), strict=True))
        for split, labels in dataset.labels.items()
    }
    with new_folder("data/raw") as raw:
        for split, images in dataset.images.items():
            write_split(raw, split, images=images, labels=dataset.labels[split])
        write_json(
            raw / "dataset.json",
            {
                "name": data.name,
                "classes": dataset.classes,
                "counts": counts,
                "image_shape": list(dataset.images["train"].shape[1:]),
                "fit": data.fit if data.name == "folder" else "crop",
                "broken": dataset.broken,
                "channel_mean": mean,
                "channel_std": std,
                "md5": dataset.checksums,
            },
        )


if __name__ == "__main__":
    run_stage("download", main)
