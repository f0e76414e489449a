"""Sharing tasks among threads: every task once, and no error is lost."""

import threading

import pytest
import torch

from segfocal.ops.cpu_threads import share_out


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("num_tasks", [0, 1, 2, 23, 24, 25, 1000])
def test_every_task_runs_once(num_tasks):
    done = []
    share_out(lambda first, last: done.extend(range(first, last)), num_tasks)
    assert sorted(done) == list(range(num_tasks))


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_a_helper_is_raised_to_the_caller():
    caller = threading.current_thread()
    in_helper = threading.Event()

    def run(_first, _last):
        if threading.current_thread() is caller:
            in_helper.wait(10)  # so that a helper gets a task
        else:
            in_helper.set()
            raise MemoryError("no room for a block")

    with pytest.raises(MemoryError, match="no room for a block"):
        share_out(run, 100)


def test_one_thread_is_the_callers_own():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        threads = set()
        share_out(lambda _first, _last: threads.add(threading.current_thread()), 10)
        assert threads == {threading.current_thread()}
    finally:
        torch.set_num_threads(before)
