"""docs/data.md is true: each tree is written, its config loaded, its cases read."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from segfocal.config.load import check_config
from segfocal.data.verify import load_case
from segfocal.training.preflight import open_dataset
from tests.data.nifti_files import image_of, save

PAGE = Path("docs/data.md").read_text()
EXAMPLE = re.compile(
    r"```text\n(?P<tree>.*?)```\n(?:```csv\n(?P<csv>.*?)```\n)?```yaml\n(?P<yaml>.*?)```", re.DOTALL
)
EXAMPLES = {match["tree"].split("/", 1)[0]: match for match in EXAMPLE.finditer(PAGE)}
IS_LABEL = re.compile(r"(_seg|_msk|_MASK)\.|/(labels|masks|seg)/")


def write(path, values):
    """Labels hold every declared value."""
    if IS_LABEL.search(str(path)):
        data = np.resize(np.array(values, np.uint8), (6, 5, 4))
    else:
        data = image_of((6, 5, 4))
    if path.suffix == ".nrrd":
        nrrd = pytest.importorskip("nrrd")
        path.parent.mkdir(parents=True, exist_ok=True)
        directions = np.diag([-1.0, -2.0, 3.0])
        header = {"space": "left-posterior-superior", "space directions": directions}
        nrrd.write(str(path), data, header, index_order="F")
    else:
        save(path, data)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_reads_as_the_page_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = EXAMPLES[name]
    values = {"BraTS2021": (0, 1, 2, 4), "brain": (0, 1, 2, 4, 9), "abdomen": (0, 1)}
    paths = [Path(line) for line in example["tree"].splitlines()]
    for path in paths:
        write(path, values.get(name, (0, 1)))
    if example["csv"]:
        (Path(name) / "cases.csv").write_text(example["csv"])
    settings = yaml.safe_load(example["yaml"])
    dataset, channels = open_dataset(check_config(settings, name))
    num_labels = sum(bool(IS_LABEL.search(str(path))) for path in paths)
    assert len(dataset.cases) == num_labels
    assert list(channels) == settings["data"].get("channels", list(dataset.channels))
    for case in dataset.cases:
        loaded = load_case(case, dataset.scheme, dataset.channels)
        assert loaded.image.shape == (len(dataset.channels), 6, 5, 4)


def test_the_examples_are_all_there():
    assert list(EXAMPLES) == [
        *("BraTS2021", "isles22", "clinic", "study", "mixed"),
        *("MSLesSeg", "brain", "abdomen"),
    ]
    assert PAGE.count("```yaml") == len(EXAMPLES)


def test_what_the_partial_example_declares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in EXAMPLES["abdomen"]["tree"].splitlines():
        write(Path(line), (0, 1))
    dataset, _ = open_dataset(check_config(yaml.safe_load(EXAMPLES["abdomen"]["yaml"]), "x"))
    declared = {case.case_id: case.annotated for case in dataset.cases}
    assert declared == {"btcv_1": None, "lits_1": ("liver",), "lits_2": ("liver",)}


def test_the_settings_that_the_page_names_exist():
    from segfocal.config.schema import setting_names

    for name in re.findall(r"`((?:data|loss)\.[a-z_]+)", PAGE):
        assert name in setting_names(), name
