import gc
from pathlib import Path

import pytest
import torch

from segfocal.data.phantom.dataset import write_phantom


def pytest_collection_modifyitems(items):
    no_gpu = pytest.mark.skip(reason="no CUDA device here")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)


def pytest_collection_finish():
    """What the imports made stays: to look through it again and again is a fifth of the time."""
    gc.freeze()


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """A small phantom data set in MSD layout, written once a session. Read it, don't change it."""
    root = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(root, num_cases=6, num_test=1, seed=3, shape=(32, 36, 28))
    return root
