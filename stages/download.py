"""download: network, VIT_DATA_DIR or data.folder -> data/raw (images, labels, files and hashes of
each split)"""

from functools import partial

from vit_finetune.core.files import new_folder, write_json
from vit_finetune.data.dataset import describe, left_out, write_dataset
from vit_finetune.data.sources import load_dataset
from vit_finetune.stage import Stage


def main(stage: Stage) -> None:
    data = stage.params.data
    threads = stage.params.runtime.threads

    with new_folder("data/raw") as folder:
        bar = partial(stage.progress, unit="image")
        dataset = load_dataset(data, folder, threads, bar)
        stage.require_disk(folder, dataset.size_in_memory)
        write_dataset(folder, dataset)
        fit = data.fit if data.name == "folder" else "crop"
        write_json(folder / "dataset.json", describe(dataset, data.name, fit))

    stage.record_versions()
    for sentence in left_out(dataset):
        stage.say(sentence)
