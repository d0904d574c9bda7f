"""The sources of images by their name in params.yaml. A new one: a module, a line here, its name in
params.py."""

from collections.abc import Callable, Iterable
from pathlib import Path

from vit_finetune.core.experiment_copies import require_whole
from vit_finetune.data.cifar import load_cifar
from vit_finetune.data.dataset import Dataset
from vit_finetune.data.digits import load_digits
from vit_finetune.data.folder import load_folder
from vit_finetune.params import Data


def load_dataset(
    data: Data, into: Path, threads: int | None = None, bar: Callable[[range], Iterable[int]] = iter
) -> Dataset:
    """The whole data set that `data.name` names.

    Args:
        into: the folder where the images of a folder are kept as `<part>_images.npy`, one after the
            other.
        threads: that decode files side by side; one for each core by default.
        bar: shows progress over files.

    Raises:
        UserError: files are missing, damaged or out of reach; the message names them and the way
            out.
    """
    if data.name == "folder":
        require_whole(
            data.folder, ", or set data.folder to the absolute path of a folder outside the project"
        )
        return load_folder(**data.model_dump(exclude={"name"}), into=into, threads=threads, bar=bar)
    return load_digits() if data.name == "digits" else load_cifar(data.name)
