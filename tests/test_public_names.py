"""What `__init__.pyi` promises to editors and type checkers is what a package gives."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from monai.transforms.transform import Transform

import segfocal
import segfocal.inference
import segfocal.losses
import segfocal.metrics
import segfocal.transforms

LAZY = (segfocal, segfocal.inference, segfocal.metrics, segfocal.transforms)


def exports(package):
    """Name to the module that the stub takes it from; None for a submodule."""
    tree = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname: (node.module, alias.name, node.level)
        for node in imports
        for alias in node.names
    }


@pytest.mark.parametrize("package", LAZY, ids=lambda package: package.__name__)
def test_every_name_of_a_stub_is_there_and_no_other(package):
    found = exports(package)
    assert sorted(found) == sorted(package.__all__)
    for exported, (module, name, level) in found.items():
        assert (exported, level) == (name, 1)
        if module is None:
            expected = importlib.import_module(f"{package.__name__}.{name}")
        else:
            expected = getattr(importlib.import_module(f"{package.__name__}.{module}"), name)
        assert getattr(package, name) is expected


def test_every_loss_is_at_the_top_and_every_transform_in_its_room():
    assert set(segfocal.losses.__all__) < set(segfocal.__all__)
    modules = [
        importlib.import_module(f"segfocal.transforms.{found.name}")
        for found in pkgutil.iter_modules(segfocal.transforms.__path__)
    ]
    ours = {
        name
        for module in modules
        for name, value in vars(module).items()
        # The place first: under Python 3.10 an alias as `list[int]` passes for a type, too.
        if getattr(value, "__module__", None) == module.__name__
        and isinstance(value, type)
        and issubclass(value, Transform)
    }
    assert ours <= set(segfocal.transforms.__all__)


def test_rooms_are_reached_from_the_package_and_their_names_cost_no_torch():
    code = (
        "import sys, segfocal\n"
        "import segfocal.transforms, segfocal.metrics\n"
        "dir(segfocal), dir(segfocal.transforms), dir(segfocal.metrics)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "segfocal.numpy.focal_loss, segfocal.compat, segfocal.metrics.dice\n"
        "assert segfocal.__version__\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_type_checker_finds_a_misspelt_name_and_argument(tmp_path):
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(
        "from segfocal import DiceFocalLos\n"
        "from segfocal import DiceFocalLoss\n"
        "from segfocal.transforms import MapIgnored\n"
        "DiceFocalLoss(sofmax=True)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    for line in (
        'script.py:1: error: Module "segfocal" has no attribute "DiceFocalLos"',
        'script.py:3: error: Module "segfocal.transforms" has no attribute "MapIgnored"',
        'script.py:4: error: Unexpected keyword argument "sofmax" for "DiceFocalLoss"',
    ):
        assert line in done.stdout
