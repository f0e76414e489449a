"""Python's garbage collector is kept out of imports, and of nothing else."""

import gc

import pytest

from segfocal.imports import without_collections


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_as_it_was_afterwards_and_after_a_failure(enabled):
    (gc.enable if enabled else gc.disable)()
    with without_collections():
        assert not gc.isenabled()
    assert gc.isenabled() is enabled
    with pytest.raises(ImportError), without_collections():
        raise ImportError("a package that is missing")
    assert gc.isenabled() is enabled
