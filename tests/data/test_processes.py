import os

import pytest

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
