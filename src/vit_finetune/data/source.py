"""What a source of images is: CIFAR, digits, or a folder of the user's."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import encode_names
from vit_finetune.data.groups import numbered


class Image(NamedTuple):
    """An image of a source.

    Attributes:
        pixels: (H, W, 3), in the shape that all images of the source have.
        label: index of its class.
        size: height and width of the image before it was fitted to that shape; None if it was not.
    """

    pixels: NDArray[np.uint8]
    label: int
    size: tuple[int, int] | None = None


class Unreadable(NamedTuple):
    """A file that is no image that can be read, and why."""

    reason: str


class Source(ABC):
    """A data set that can be read image by image.

    Attributes:
        classes: names in label order.
        image_shape: (H, W, 3), of every image.
        files: of each part, the names of its images as `encode_names` returns them. The parts are
            `train` and `test`, and `val` where the data set has one.
        fit: how images are brought to `image_shape`.
        checksums: md5 of each original file; empty where the data come with a package or are the
            user's.
        groups: of each part, a number for each of `files`; equal numbers are one group, which must
            stay in one part.
        ignored: files among the user's images that belong to no class.
        notes: sentences for the user.
    """

    classes: list[str]
    image_shape: tuple[int, int, int]
    files: dict[str, NDArray[np.bytes_]]
    groups: dict[str, NDArray[np.int64]]
    fit: str = "crop"
    checksums: Mapping[str, str] = {}
    ignored: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def count(self) -> int:
        """Number of files of all parts."""
        return sum(len(files) for files in self.files.values())

    @property
    def size(self) -> int:
        """Bytes of all images."""
        height, width, channels = self.image_shape
        return self.count * height * width * channels

    @abstractmethod
    def read(self, part: str) -> Iterator[Image | Unreadable]:
        """An image, or why it is none, for each of `files[part]`, in that order."""

    @abstractmethod
    def require_usable(
        self, labels: Mapping[str, NDArray[np.int64]], unreadable: Sequence[str]
    ) -> None:
        """Called when all was read: UserError if it is no data set to work with.

        Args:
            labels: of each part, those of the images that could be read.
            unreadable: the other files, each with the reason.
        """


class ArraySource(Source):
    """A data set that is in memory as a whole."""

    def __init__(
        self,
        classes: list[str],
        images: Mapping[str, NDArray[np.uint8]],
        labels: Mapping[str, NDArray[np.int64]],
        checksums: Mapping[str, str] | None = None,
    ) -> None:
        """Images (N, H, W, 3) and labels (N,) of each part; a name is part and index, `test/12`."""
        self.classes = classes
        height, width, channels = images["train"].shape[1:]
        self.image_shape = (height, width, channels)
        self.files = {
            part: encode_names(f"{part}/{index}" for index in range(len(of_part)))
            for part, of_part in labels.items()
        }
        self.groups = numbered(self.files)  # each image is its own
        self.checksums = checksums or {}
        self.images = images
        self.labels = labels

    def read(self, part: str) -> Iterator[Image | Unreadable]:
        for pixels, label in zip(self.images[part], self.labels[part], strict=True):
            yield Image(pixels, int(label))

    def require_usable(
        self, labels: Mapping[str, NDArray[np.int64]], unreadable: Sequence[str]
    ) -> None:
        """Nothing can be missing."""
