"""Work in several threads: in order, and never far ahead of who reads."""

import threading
import time

import pytest
import torch

from vit_finetune.core.threads import ordered_map, parallel_map


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_ordered_map_keeps_the_order_however_long_each_item_takes(threads):
    def slow_at_first(i):
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i * i

    assert list(ordered_map(slow_at_first, range(20), threads)) == [i * i for i in range(20)]


@pytest.mark.parametrize("items", [[], [7]])
def test_ordered_map_of_few_items(items):
    assert list(ordered_map(str, items, 4)) == list(map(str, items))


def test_ordered_map_really_runs_several_at_once():
    barrier = threading.Barrier(3, timeout=20)  # breaks, and raises, unless three wait at once
    assert sorted(ordered_map(lambda _: barrier.wait(), range(6), 3)) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_ordered_map_never_takes_more_than_two_items_a_thread_ahead(threads):
    taken = 0

    def items():
        nonlocal taken
        while taken < 40:
            taken += 1
            yield taken

    ahead = [taken - result for result in ordered_map(lambda i: i, items(), threads)]
    assert len(ahead) == 40
    assert max(ahead) == 2 * threads - 1


def test_ordered_map_takes_nothing_before_the_first_result_is_asked_for():
    items = iter(range(3))
    ordered_map(str, items, 2)
    assert next(items) == 0


def test_ordered_map_passes_an_exception_on_at_its_place():
    def check(i):
        if i == 4:
            raise ValueError("image 4 has a NaN")
        return i

    results = ordered_map(check, range(1000), 2)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="image 4 has a NaN"):
        next(results)
    assert list(results) == []


def test_ordered_map_passes_an_exception_of_the_items_on():
    def items():
        yield 1
        raise OSError("disk is gone")

    with pytest.raises(OSError, match="disk is gone"):
        list(ordered_map(str, items(), 2))


def test_ordered_map_stops_when_its_reader_does():
    done = []
    results = ordered_map(done.append, range(10_000), 2)
    next(results)
    results.close()
    assert len(done) <= 5
    assert threading.active_count() < 50


@pytest.mark.parametrize(
    ("threads", "items", "each"), [(4, None, 1), (4, 2, 2), (3, 2, 1), (2, 8, 1), (4, 1, 4)]
)
def test_cores_are_shared_out_among_the_items_of_a_cpu_and_given_back(threads, items, each):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with parallel_map(torch.device("cpu"), items) as mapped:
            assert torch.get_num_threads() == each
            assert [*mapped(str, range(9))] == list("012345678")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_gpu_takes_one_item_after_the_other():
    with parallel_map(torch.device("meta"), 5) as mapped:
        names = {*mapped(lambda _: threading.current_thread().name, range(5))}
    assert names == {threading.current_thread().name}
