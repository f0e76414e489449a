import os
import signal

import pytest

from segfocal.data import processes as module
from segfocal.data.processes import in_processes


def doubled(item):
    return 2 * item


def dies_at_3(item):
    if item == 3:
        os._exit(9)
    return 2 * item


def no_memory_at_3(item):
    if item == 3:
        raise MemoryError
    return 2 * item


def minus_one(item):
    return -1


@pytest.mark.parametrize("workers", [1, 2])
def test_results_stand_in_the_order_of_the_items_equal_ones_included(workers):
    items = [5, 1, 5, 0]
    assert in_processes(items, doubled, minus_one, workers=workers) == [10, 2, 10, 0]


@pytest.mark.parametrize("workers", [1, 2])
def test_of_each_result_that_is_held_which_the_caller_keeps(workers):
    came = []
    got = in_processes(
        range(4), doubled, minus_one, workers=workers, kept=lambda one: came.append(one) or one + 1
    )
    assert got == [1, 3, 5, 7]
    assert sorted(came) == [0, 2, 4, 6]


def test_a_process_that_dies_costs_its_own_item_alone():
    calls = []
    got = in_processes(range(6), dies_at_3, minus_one, workers=2, on_done=lambda: calls.append(1))
    assert got == [0, 2, 4, -1, 8, 10]
    assert len(calls) == 6


@pytest.mark.parametrize("workers", [1, 2])
def test_want_of_memory_costs_its_own_item_alone(workers):
    assert in_processes([2, 3], no_memory_at_3, minus_one, workers=workers) == [4, -1]


def test_another_error_is_raised():
    with pytest.raises(TypeError):
        in_processes([None], doubled, minus_one)


def hears_interrupts(_item):
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
def test_processes_start_deaf_to_ctrl_c_and_hear_it_once_they_work(monkeypatch):
    masks = []

    class Recorded(module.ProcessPoolExecutor):
        def submit(self, *arguments):
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            return super().submit(*arguments)

    monkeypatch.setattr(module, "ProcessPoolExecutor", Recorded)
    assert in_processes([1, 2], hears_interrupts, minus_one, workers=2) == [True, True]
    assert all(signal.SIGINT in mask for mask in masks)
    assert hears_interrupts(0)
