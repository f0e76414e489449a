"""Sharing tasks among threads: every task once, on threads of either kind, and no error is lost."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from segfocal.ops import cpu_threads
from segfocal.ops.cpu_threads import on_openmp_threads, on_python_threads, openmp, share_out

WAYS = [
    pytest.param(
        on_openmp_threads,
        marks=pytest.mark.skipif(openmp() is None, reason="this torch has no GNU or Intel OpenMP"),
    ),
    on_python_threads,
]


@pytest.fixture(params=WAYS, ids=["openmp", "python"])
def way(request, monkeypatch):
    """Two threads, whatever the machine has, of one kind."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    if request.param is on_python_threads:
        monkeypatch.setattr(cpu_threads, "openmp", lambda: None)
    yield request.param
    torch.set_num_threads(before)


def test_openmp_is_there_where_torch_was_built_with_it():
    built_with = torch.__config__.parallel_info()
    if sys.platform == "linux" and "OpenMP 2" in built_with:
        assert openmp() is not None


@pytest.mark.parametrize("num_tasks", [0, 1, 2, 15, 16, 17, 1000])
def test_every_task_runs_once(way, num_tasks):
    done, lock = [], threading.Lock()

    def run(first, last):
        with lock:
            done.extend(range(first, last))

    share_out(run, num_tasks)
    assert sorted(done) == list(range(num_tasks))


def test_two_threads_work_at_once(way):
    both = threading.Barrier(2, timeout=30)
    first_of_thread = {}

    def run(first, _last):
        if first_of_thread.setdefault(threading.get_ident(), first) == first:
            both.wait()

    share_out(run, 64)
    assert len(first_of_thread) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_on_any_thread_reaches_the_caller(way, error):
    caller = threading.get_ident()
    for on_the_callers in (True, False):

        def run(_first, _last, on_the_callers=on_the_callers):
            if (threading.get_ident() == caller) == on_the_callers:
                raise error("here")
            time.sleep(0.02)

        with pytest.raises(error, match="here"):
            share_out(run, 64)


def test_one_thread_is_the_callers_own(way):
    torch.set_num_threads(1)
    threads = set()
    share_out(lambda _first, _last: threads.add(threading.get_ident()), 10)
    assert threads == {threading.get_ident()}


def test_work_can_share_out_work(way):
    done = []

    def run(first, last):
        share_out(lambda *piece: done.append(piece), last - first)

    share_out(run, 16)
    assert done


FORK = """
import os, signal, torch
from segfocal.ops.cpu_threads import share_out
torch.set_num_threads(2)
done = []
share_out(lambda first, last: done.append(last - first), 64)
child = os.fork()
if child == 0:
    signal.alarm(30)
    share_out(lambda first, last: done.append(last - first), 64)
    os._exit(0 if sum(done) == 128 else 1)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_still_computes():
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "0"
