import pytest

from tests.export.run_folders import write_run


@pytest.fixture
def run_folder(phantom, tmp_path):
    """Makes the folder of a run over the phantom, with settings over the tiny ones."""

    def make(*settings, **changes):
        return write_run(phantom, tmp_path / "run", *settings, **changes)

    return make
