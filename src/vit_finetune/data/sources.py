"""The sources of images by their name in params.yaml. A new one: a module with a class of `Source`,
a line here, its name in params.py."""

from pathlib import Path

from vit_finetune.data.cifar import load_cifar
from vit_finetune.data.digits import load_digits
from vit_finetune.data.folder import FolderSource
from vit_finetune.data.source import Source
from vit_finetune.params import Data


def open_source(data: Data, threads: int) -> Source:
    """The data set that `data.name` names.

    Args:
        threads: that decode files side by side.

    Raises:
        UserError: files are missing, damaged or out of reach; the message names them and the way
            out.
    """
    if data.name == "folder":
        return FolderSource(data, threads)
    if data.name == "digits":
        return load_digits()
    return load_cifar(data.name)


def name_of(data: Data) -> str:
    """What outputs and data/corrections.csv call the data set: `data.name`, or of `folder` the name
    of that folder."""
    if data.name != "folder":
        return data.name
    name = Path(data.folder).resolve().name
    return name if name.isprintable() else ascii(name)
