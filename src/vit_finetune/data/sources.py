"""The sources of images by their name in params.yaml. A new one: a module with a class of `Source`,
a line here, its name in params.py."""

from vit_finetune.data.cifar import open_cifar
from vit_finetune.data.digits import open_digits
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
        return open_digits()
    return open_cifar(data.name)
