"""download: network, VIT_DATA_DIR or data.folder -> data/raw (images, labels, files and hashes of
each part)"""

from vit_finetune.core.files import new_folder
from vit_finetune.core.processors import available_threads
from vit_finetune.data.dataset import write_dataset
from vit_finetune.data.sources import name_of, open_source
from vit_finetune.stage import Stage


def main(stage: Stage) -> None:
    data = stage.params.data
    threads = available_threads()

    source = open_source(data, threads)
    with new_folder("data/raw") as folder:
        stage.require_disk(folder, source.size)
        sentences = write_dataset(folder, name_of(data), source, threads)
    stage.record_versions()
    for sentence in sentences:
        stage.say(sentence)
