"""Images are read in order; of a file larger than memory, rows are read without waste."""

import ctypes
import mmap
import os
import sys
import time

import numpy as np
import pytest
import torch

from vit_finetune.activations.views import (
    ActivationView,
    ImageView,
    announce,
    read_at_random,
)


@pytest.mark.parametrize("rows", [slice(1, 4), range(1, 4), [1, 2, 3], torch.tensor([1, 2, 3])])
def test_rows_of_images_are_read_whole(rows):
    images = np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)
    np.testing.assert_array_equal(ImageView(images)[rows], images[1:4])


def test_rows_are_taken_in_the_order_asked_for_and_as_a_copy():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1).repeat(3, axis=3)
    taken = ImageView(images)[torch.tensor([3, 1, 1])]
    assert taken[:, 0, 0, 0].tolist() == [3, 1, 1]
    taken.zero_()
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


ROW = 16 * mmap.PAGESIZE
ROWS = 400
FEW = 12  # pages that a file system may add to those of a row


@pytest.fixture(params=["activations", "images"])
def on_disk(request, tmp_path):
    """A view of a file that the disk has and memory has not, and a function that tells which of its
    pages are in memory."""
    path = tmp_path / "rows.npy"
    offset = 128 if request.param == "images" else 0  # the header of a .npy file
    path.write_bytes(np.random.default_rng(0).bytes(offset + ROW * ROWS))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if request.param == "images":
        shape = (ROWS, 16, ROW // 16 // 4, 4)
        array = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape)
        view = ImageView(array)
    else:
        array = np.memmap(path, dtype=np.uint8, mode="c", shape=(ROWS, ROW))
        view = ActivationView(array, torch.float32, (ROWS, ROW // 4))

    def resident():
        pages = -(-(offset + ROWS * ROW) // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * pages)()
        address = ctypes.c_void_p(array.ctypes.data - offset)
        length = ctypes.c_size_t(pages * mmap.PAGESIZE)
        assert ctypes.CDLL(None).mincore(address, length, states) == 0
        return {page for page, state in enumerate(states) if state & 1}

    def pages_of(*rows):
        pages = set()
        for row in rows:
            first = (offset + row * ROW) // mmap.PAGESIZE
            last = (offset + (row + 1) * ROW - 1) // mmap.PAGESIZE
            pages |= {*range(first, last + 1)}
        return pages

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


def test_a_view_in_memory_needs_no_advice():
    view = ImageView(np.zeros((4, 1, 1, 3), np.uint8))
    read_at_random(view)
    announce(view, torch.tensor([3, 1]))
