"""download: network, VIT_DATA_DIR or data.folder -> data/raw (images, labels, files, hashes of each
part)"""

from functools import partial
from typing import Any

import numpy as np

from vit_finetune.core.files import new_folder, new_rows, require_disk, write_json, write_split
from vit_finetune.core.process import progress, run_stage
from vit_finetune.data.dataset import Dataset, channel_statistics, class_counts, pixel_hashes
from vit_finetune.data.sources import load_dataset
from vit_finetune.params import Data, read_params

MORE = " and others, see data/raw/dataset.json"


def main() -> None:
    params = read_params()
    data = params.data
    with new_folder("data/raw") as raw:
        dataset = load_dataset(
            data, raw, params.runtime.threads, bar=partial(progress, label="download", unit="image")
        )
        in_memory = [
            images for images in dataset.images.values() if not isinstance(images, np.memmap)
        ]
        require_disk("download", raw, sum(images.nbytes for images in in_memory))
        for name in ("images", "labels", "files", "sizes"):
            for part, array in getattr(dataset, name).items():
                if not isinstance(array, np.memmap):  # which load_dataset wrote
                    write_split(raw, part, **{name: array})
        for part, images in dataset.images.items():
            with new_rows(raw / f"{part}_hashes.npy", (16,), np.uint8) as append:
                for hashes in pixel_hashes(images):
                    append(hashes)
        write_json(raw / "dataset.json", describe(data, dataset))
    for left_out, why in (
        (dataset.broken, "cannot be read as images"),
        (dataset.ignored, "are no images of a class"),
    ):
        if left_out:
            print(
                f"download: left out {len(left_out)} that {why}: {left_out[0]}{MORE if len(left_out) > 1 else ''}"
            )


def describe(data: Data, dataset: Dataset) -> dict[str, Any]:
    mean, std = channel_statistics(dataset.images["train"])
    return {
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


if __name__ == "__main__":
    run_stage("download", main, smaller="data.image_size")
