"""The sources of images by their name in params.yaml. A new one: a module, a line here, its name in params/data.py."""

from collections.abc import Callable, Iterable
from pathlib import Path

from vit_finetune.core.experiment_copies import require_whole
from vit_finetune.data.cifar import load_cifar
from vit_finetune.data.dataset import Dataset
from vit_finetune.data.digits import load_digits
from vit_finetune.data.folder import load_folder
from vit_finetune.params.data import Data

IMAGES = "data/images"  # where `folder` looks


def load_dataset(
    data: Data, into: Path, threads: int | None = None, bar: Callable[[list[Path]], Iterable[Path]] = iter
) -> Dataset:
    """The whole data set that `data.name` names.

    Args:
        into: the folder where the images of `folder` are kept, one after the other, as `<part>_images.npy`.
        threads: that decode files side by side; as many as there are cores by default.
        bar: shows progress over files.

    Raises:
        UserError: files are missing, damaged or out of reach; the message names them and the way out.
    """
    if data.name == "folder":
        require_whole(IMAGES)
        return load_folder(IMAGES, **data.model_dump(exclude={"name"}), into=into, threads=threads, bar=bar)
    return load_digits() if data.name == "digits" else load_cifar(data.name)
