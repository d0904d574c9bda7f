"""Images are read in order, as they are or mirrored; of a file larger than memory, rows are read
without waste."""

import ctypes
import mmap
import os
import sys
import time

import numpy as np
import pytest
import torch

from vit_finetune.activations.views import ImageView, announce, image_loader, read_at_random


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_loaded_in_order_whole_and_mirrored_left_to_right(workers):
    images = np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)
    batches = [range(2), range(2, 4), range(4, 5)]
    for mirrored, expected in ((False, images), (True, images[:, :, ::-1])):
        loaded = list(image_loader(ImageView(images, mirrored), batches, workers))
        assert [len(batch) for batch in loaded] == [2, 2, 1]
        np.testing.assert_array_equal(torch.cat(loaded), expected)


def test_rows_are_taken_in_the_order_asked_for_and_as_a_copy():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1).repeat(3, axis=3)
    taken = ImageView(images, False)[torch.tensor([3, 1, 1])]
    assert taken[:, 0, 0, 0].tolist() == [3, 1, 1]
    taken.zero_()
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


ROW, ROWS = 16 * mmap.PAGESIZE, 400
FEW = 12  # pages that a file system may add to those of a row


@pytest.fixture(params=["activations", "images"])
def on_disk(request, tmp_path):
    """A view of a file that the disk has and memory has not, and a function that tells which of its
    pages are."""
    path = tmp_path / "rows.bin"
    path.write_bytes(np.random.default_rng(0).bytes(ROW * ROWS))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if request.param == "images":
        array = np.memmap(path, dtype=np.uint8, mode="r", shape=(ROWS, ROW // 3 // 16, 16, 3))
        view, row, address = ImageView(array, False), array[0].nbytes, array.ctypes.data
    else:
        view = torch.from_file(str(path), shared=False, size=ROW * ROWS, dtype=torch.uint8).view(
            ROWS, ROW
        )
        row, address = ROW, view.data_ptr()

    def resident():
        pages = -(-ROWS * row // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        assert (
            ctypes.CDLL(None).mincore(
                ctypes.c_void_p(address), ctypes.c_size_t(pages * mmap.PAGESIZE), found
            )
            == 0
        )
        return {page for page, there in enumerate(found) if there & 1}

    def pages_of(*rows):
        return {
            p
            for r in rows
            for p in range(r * row // mmap.PAGESIZE, ((r + 1) * row - 1) // mmap.PAGESIZE + 1)
        }

    if resident():
        pytest.skip("this file system keeps files in memory")
    return view, resident, pages_of


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")
def test_rows_in_any_order_are_read_without_what_lies_around_them(on_disk):
    view, resident, pages_of = on_disk
    read_at_random(view)
    view[torch.tensor([200])]
    assert resident() >= pages_of(200)
    assert len(resident()) < len(pages_of(200)) + FEW


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")
def test_rows_that_were_announced_are_read_before_anyone_takes_them(on_disk):
    view, resident, pages_of = on_disk
    announce(view, torch.tensor([300, 7]))
    deadline = time.monotonic() + 30
    while not resident() >= pages_of(300, 7) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert resident() >= pages_of(300, 7)
    assert len(resident()) < len(pages_of(300, 7)) + FEW
