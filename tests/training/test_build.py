from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segfocal.config.schema import Config
from segfocal.data.cases import Case
from segfocal.errors import RunFailedError, UserError
from segfocal.inference.device import resolve_amp, resolve_device
from segfocal.labels import LabelScheme
from segfocal.training.build import CasePreparation, num_loader_workers, slow_loading
from segfocal.training.case_store import CaseStore
from segfocal.training.ranks import ALONE, Ranks


def test_a_cpu_is_never_given_bfloat16_unasked():
    cpu = torch.device("cpu")
    assert resolve_amp("auto", cpu) is None
    assert resolve_amp("bf16", cpu) is torch.bfloat16
    with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:N, got gpu"):
        resolve_device("gpu")


def test_cases_beyond_the_memory_budget_are_read_at_each_access():
    reads = []

    def prepare(case):
        reads.append(case)
        return {"image": torch.zeros(25)}

    store = CaseStore([Path("a"), Path("b"), Path("c")], prepare, budget_bytes=150, num_threads=1)
    assert sorted(store.cached) == [0]
    before = len(reads)
    for number in range(3):
        store[number]
    assert len(reads) == before + 2


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "c7: out of memory while it was prepared. Set a larger data.spacing_mm.",
        ),
        (ValueError("no such axis"), "c7 could not be prepared: ValueError: no such axis"),
    ],
)
def test_a_case_that_cannot_be_prepared_is_named(cause, told):
    def wrapped_by_monai(case):
        raise RuntimeError("applying transform <Spacingd at 0x1>") from cause

    config = Config.model_validate({"data": {"root": "a"}})
    dataset = SimpleNamespace(scheme=SCHEME, channels=("T1",))
    prepare = CasePreparation(
        config, SimpleNamespace(dataset=dataset, channels=("T1",)), for_training=False
    )
    prepare.preprocessing = wrapped_by_monai
    with pytest.raises(RunFailedError) as error:
        prepare(Case("c7", (Path("a.nii"),), None))
    assert str(error.value) == told


SCHEME = LabelScheme(("background", "lesion"), (0, 1))


def described(data=None, train=None, *, scheme=SCHEME, seen=("T1",), for_training=True):
    """What a cached case is said to be made by, under these settings."""
    config = Config.model_validate({"data": {"root": "a", **(data or {})}, "train": train or {}})
    dataset = SimpleNamespace(scheme=scheme, channels=("T1", "T2"))
    plan = SimpleNamespace(dataset=dataset, channels=seen)
    return CasePreparation(config, plan, for_training=for_training).description


@pytest.mark.parametrize(
    "changed",
    [
        {"data": {"normalize": "none"}},
        {"data": {"normalize": (-100, 300)}},
        {"data": {"spacing_mm": (1, 1, 2)}},
        {"data": {"pad": False}},
        {"data": {"channel_dim": 3}},
        {"data": {"affine_tolerance_mm": 0.2}},
        {"data": {"resample_channels": True}},
        {"train": {"patch_size": (16, 16, 24)}},
        {"train": {"foreground_by": "lesion"}},
        {"scheme": LabelScheme(("background", "lesion"), (0, 2))},
        {"seen": ("T2",)},
        {"for_training": False},
    ],
    ids=str,
)
def test_a_case_prepared_in_another_way_is_another_case_to_the_cache(changed):
    assert described(**changed) != described()


@pytest.mark.parametrize(
    "changed",
    [
        {"data": {"root": "b"}},
        {"data": {"num_workers": 2}},
        {"data": {"cache_dir": "c"}},
        {"train": {"lr": 0.5}},
        {"train": {"augment": {"scale": 0.0}}},
    ],
    ids=str,
)
def test_what_comes_after_the_cache_makes_no_new_files(changed):
    assert described(**changed) == described()


@pytest.mark.parametrize("package", ["torch", "monai", "numpy", "scipy", "nibabel", "pynrrd"])
def test_another_version_of_a_package_makes_new_files(monkeypatch, package):
    pytest.importorskip({"pynrrd": "nrrd"}.get(package, package))
    from importlib import metadata

    before, version = described(), metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "0.0" if name == package else version(name)
    )
    assert described() != before


@pytest.fixture
def cores(monkeypatch):
    def have(count):
        monkeypatch.setattr("segfocal.training.build.available_cores", lambda: count)

    return have


def ranks_here(count):
    ranks = Ranks()
    ranks.num_here = count
    return ranks


@pytest.mark.parametrize(
    ("num_cores", "num_ranks", "expected"),
    [(16, 1, 4), (4, 1, 3), (1, 1, 0), (16, 4, 3), (4, 4, 0), (4, 8, 0)],
)
def test_patches_for_a_gpu_are_made_by_processes_as_the_cores_allow(
    cores, num_cores, num_ranks, expected
):
    cores(num_cores)
    ranks = ranks_here(num_ranks)
    assert num_loader_workers("auto", torch.device("cuda"), ranks) == expected
    assert num_loader_workers("auto", torch.device("cpu"), ranks) == 0
    for device in ("cpu", "cuda"):
        assert num_loader_workers(7, torch.device(device), ranks) == 7


def test_a_gpu_that_waits_for_patches_is_told_of_with_the_number_to_set(cores):
    cores(16)
    cuda = torch.device("cuda")
    assert slow_loading(0.43, 4, cuda, ALONE) == (
        "loader 43% of the time went into waiting for patches, which 4 processes made. Set "
        "data.num_workers: 8; the result stays the same."
    )
    assert "which the training process itself made. Set data.num_workers: 2;" in slow_loading(
        0.43, 0, cuda, ALONE
    )
    assert "which 1 process made. Set data.num_workers: 2;" in slow_loading(0.43, 1, cuda, ALONE)
    assert "Set data.num_workers: 15;" in slow_loading(0.43, 10, cuda, ALONE)
    assert "Set data.num_workers: 3;" in slow_loading(0.43, 2, cuda, ranks_here(4))


def test_nobody_is_told_to_take_cores_that_are_not_there_or_compute(cores):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    cores(16)
    assert slow_loading(0.19, 4, cuda, ALONE) == ""
    assert slow_loading(0.9, 0, cpu, ALONE) == ""
    assert slow_loading(0.9, 15, cuda, ALONE) == ""
    assert slow_loading(0.9, 3, cuda, ranks_here(4)) == ""
