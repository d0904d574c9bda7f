"""A folder of the user's own images."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.errors import UserError
from vit_finetune.core.threads import ordered_map
from vit_finetune.data.folder_layout import read_layout, some
from vit_finetune.data.image_files import LARGEST, UNREADABLE, fit_image, open_image
from vit_finetune.data.source import Image, Source, Unreadable
from vit_finetune.params import Data

TOGETHER = 8  # files that a thread decodes before it hands them over
FEW_LEVELS = 4096  # 16-bit images whose largest value is less would be nearly black


class FolderSource(Source):
    """The images of `data.folder`, fitted to squares as the section `data` says."""

    def __init__(self, data: Data, threads: int) -> None:
        """List the files.

        Args:
            threads: that decode files side by side.

        Raises:
            UserError: as of `read_layout`.
        """
        self._folder = Path(data.folder)
        self._skip_unreadable = data.broken == "skip"
        self._side = data.image_size
        self._threads = threads
        self._largest: int | None = None  # of the values of 16-bit images that were read
        layout = read_layout(data)
        self._labels = layout.labels
        self.classes = layout.classes
        self.files = layout.files
        self.image_shape = (data.image_size, data.image_size, 3)
        self.fit = data.fit
        self.groups = layout.groups
        self.ignored = layout.ignored
        self.notes = layout.notes

    def read(self, part: str) -> Iterator[Image | Unreadable]:
        """Decoded side by side, a few in memory at a time."""
        files = self.files[part]
        labels = self._labels[part]

        def decode(start: int) -> list[tuple[Image | Unreadable, int | None]]:
            rows = range(start, min(start + TOGETHER, len(files)))
            return [self._decode(files[row], int(labels[row])) for row in rows]

        starts = range(0, len(files), TOGETHER)
        for image, largest in itertools.chain.from_iterable(
            ordered_map(decode, starts, self._threads)
        ):
            if largest is not None:
                self._largest = max(largest, self._largest or 0)
            yield image

    def _decode(self, file: bytes, label: int) -> tuple[Image | Unreadable, int | None]:
        """An image, or why it is none; and its largest value if it has 16 bits."""
        try:
            image = open_image(f"{self._folder}/{os.fsdecode(file)}")
        except UNREADABLE as error:
            return Unreadable(str(error)), None
        pixels = fit_image(image, (self._side, self._side), self.fit)
        return Image(pixels, label, (image.height, image.width)), image.info.get(LARGEST)

    def require_usable(
        self, labels: Mapping[str, NDArray[np.int64]], unreadable: Sequence[str]
    ) -> None:
        """UserError if there are unreadable files and `broken` is not `skip`, 16-bit images that
        use a small part of their range, or classes with too few images to train on."""
        if unreadable and not self._skip_unreadable:
            raise UserError(
                f"{len(unreadable)} of {self.count} files in {self._folder} cannot be read as "
                f"images: {some(unreadable)}; remove them, or set data.broken to skip"
            )
        if self._largest is not None and self._largest < FEW_LEVELS:
            raise UserError(
                f"the 16-bit images in {self._folder} use only 0..{self._largest} of 0..65535 and "
                "would be nearly black; save them with 8 bits, or multiply their values by 16 if "
                "they have 12 bits"
            )
        self._require_enough(labels)

    def _require_enough(self, labels: Mapping[str, NDArray[np.int64]]) -> None:
        """Every class needs an image to train on, and one more to validate with where there is no
        such part. Given parts need an image."""
        for part, of_part in labels.items():
            if not len(of_part):
                raise UserError(
                    f"{self._folder}: {part} has no images; add some, or remove its folder"
                )
        needed = 1 if "val" in labels else 2
        counts = np.bincount(labels["train"], minlength=len(self.classes))
        few = [
            f"{name} ({count})"
            for name, count in zip(self.classes, counts, strict=True)
            if count < needed
        ]
        if few:
            raise UserError(
                f"{self._folder}: classes with too few training images: {some(few)}; each needs at "
                f"least {needed}; add images or remove the folder"
            )
