import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segfocal.config.schema import Config
from segfocal.data.cases import Case
from segfocal.errors import RunFailedError, UserError
from segfocal.inference.device import resolve_amp, resolve_device
from segfocal.labels import LabelScheme
from segfocal.training.build import (
    CasePreparation,
    init_from,
    make_loader,
    make_optimizer,
    num_loader_workers,
    slow_loading,
)
from segfocal.training.case_store import CaseStore
from segfocal.training.ranks import ALONE, Ranks
from segfocal.transforms.pipelines import crop_preparation


def test_a_cpu_is_never_given_bfloat16_unasked():
    cpu = torch.device("cpu")
    assert resolve_amp("auto", cpu) is None
    assert resolve_amp("bf16", cpu) is torch.bfloat16


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", "cuda:", "cuda:-1", "CPU"])
def test_a_device_is_one_that_was_tried(name):
    with pytest.raises(UserError, match=f"^device: expected auto, cpu, cuda or cuda:N, got {name}"):
        resolve_device(name)


def test_a_gpu_is_one_of_those_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"cuda:2 is not there; torch sees 2 GPUs\. Use auto\."):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"cuda is not there; torch sees 0 GPUs\."):
        resolve_device("cuda")


@pytest.mark.parametrize(("capability", "expected"), [(8, torch.bfloat16), (7, torch.float16)])
def test_a_gpu_computes_in_bfloat16_where_it_has_it(monkeypatch, capability, expected):
    # torch itself is asked: it calls a V100 or T4, which emulate bfloat16, able by default
    cuda = torch.cuda
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "_check_bf16_tensor_supported", lambda _device: True, raising=False)
    card = SimpleNamespace(major=capability)
    monkeypatch.setattr(cuda, "get_device_properties", lambda _device: card)
    assert resolve_amp("auto", torch.device("cuda")) is expected
    assert resolve_amp("fp32", torch.device("cuda")) is None


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


def test_a_reader_that_is_not_installed_is_no_part_of_a_cases_preparation(monkeypatch):
    pytest.importorskip("SimpleITK")
    monkeypatch.setattr(
        "segfocal.training.build.find_spec", lambda module: module != "nrrd" or None
    )
    known = described()["versions"]
    assert "pynrrd" not in known
    assert "SimpleITK" in known


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


def settings(train=None, **data):
    return Config.model_validate({"data": {"root": "a", **data}, "train": train or {}})


class TestInitFrom:
    """Plain weights of a network of six kernels."""

    def network(self, fill):
        network = nn.Sequential(*(nn.Conv3d(1, 1, 3) for _ in range(5)), nn.Linear(1, 1))
        for weight in network.parameters():
            nn.init.constant_(weight, fill)
        return network

    def copied(self, path, kept, reshaped=()):
        """What a network of zeros is after the copy of ones, of which some are left out."""
        weights = {n: t for n, t in self.network(1.0).state_dict().items() if n in kept}
        weights |= {name: torch.ones(2, 1, 3, 3, 3) for name in reshaped}
        torch.save({**weights, "unknown": torch.ones(3)}, path)
        network = self.network(0.0)
        plan = SimpleNamespace(dataset=SimpleNamespace(scheme=SCHEME), channels=("T1", "T2"))
        lines = init_from(network, path, plan)
        return {n for n, t in network.state_dict().items() if bool((t == 1).all())}, lines

    def test_half_of_the_kernels_is_enough_and_the_new_ones_are_told(self, tmp_path):
        kept = {"0.weight", "0.bias", "1.weight", "5.weight"}
        ones, lines = self.copied(tmp_path / "w.pt", kept, reshaped=["2.weight"])
        assert ones == kept
        assert lines == [
            (
                f"init   4 of 12 tensors from {tmp_path / 'w.pt'}; new: 1.bias, 2.weight, 2.bias "
                "and 5 more"
            ),
            (
                "doubt  w.pt holds weights alone and does not tell its channels and outputs. "
                "Weights are copied by position; this run has T1,T2 to background,lesion."
            ),
        ]

    def test_three_new_ones_are_named_and_of_more_the_number(self, tmp_path):
        names = [*self.network(0.0).state_dict()]
        for count, told in (
            (3, "4.bias, 5.weight, 5.bias"),
            (4, "4.weight, 4.bias, 5.weight and 1 more"),
        ):
            line = self.copied(tmp_path / "w.pt", names[:-count])[1][0]
            assert line.endswith(f"w.pt; new: {told}")

    def test_fewer_than_half_are_another_network(self, tmp_path):
        """Biases, which fit many a network, do not count."""
        kept = {"0.weight", "5.weight", *(f"{number}.bias" for number in range(6))}
        with pytest.raises(UserError, match=r"w\.pt: 2 of 6 kernels have the name and shape of"):
            self.copied(tmp_path / "w.pt", kept)


def test_each_optimizer_has_the_settings_of_the_config():
    network = nn.Linear(1, 1)
    adam = make_optimizer(settings({"lr": 0.5, "weight_decay": 0.25}).train, network)
    assert type(adam) is torch.optim.AdamW
    assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (0.5, 0.25)
    chosen = {"optimizer": "SGD", "lr": 0.5, "weight_decay": 0.25}
    sgd = make_optimizer(settings(chosen).train, network)
    # By hand, for gradients of 1: g = 1 + 0.25 w, v = 0.99 v + g, w = w - 0.5 (g + 0.99 v)
    with torch.no_grad():
        network.weight.fill_(2.0)
    for expected in (0.5075, -1.348815625):
        network.weight.grad = torch.ones(1, 1)
        sgd.step()
        assert network.weight.item() == pytest.approx(expected, abs=1e-6)


class TestLoader:
    SCHEME = LabelScheme(("background", "lesion", "rim"), (0, 1, 2))
    TRAIN = {  # noqa: RUF012
        "patch_size": (8, 8, 8),
        "batch_size": 5,
        "accumulate": 3,
        "steps_per_epoch": 2,
        "seed": 4,
    }

    def loader(self, ranks=ALONE, device="cpu", num_workers="auto", **annotated):
        cases = [Case(f"c{i}", (), None, **annotated) for i in range(3)]
        store = CaseStore(cases, self.prepared, num_threads=1)
        config = settings(self.TRAIN, num_workers=num_workers)
        return make_loader(config, self.SCHEME, store, torch.device(device), ranks)

    def prepared(self, case):
        label = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
        label[0, :4] = 1
        image = torch.full((1, 8, 8, 8), float(case.case_id[1]))
        data = {"image": image, "label": label, "case_id": case.case_id}
        return crop_preparation(self.SCHEME, (8, 8, 8))(data)

    def test_an_epoch_is_a_batch_for_each_forward_pass(self):
        batches = list(self.loader())
        assert [len(batch["image"]) for batch in batches] == [5] * 6
        assert "annotated" not in batches[0]

    def test_patches_carry_what_their_cases_were_annotated_for(self):
        batch = next(iter(self.loader(annotated=("rim",))))
        assert batch["annotated"].tolist() == [[True, False, True]] * 5

    def test_ranks_share_each_batch(self):
        whole = list(self.loader())
        parts = []
        for rank in range(2):
            ranks = ranks_here(2)
            ranks.rank, ranks.count = rank, 2
            parts.append(list(self.loader(ranks)))
        for batch, first, second in zip(whole, *parts, strict=True):
            assert (len(first["image"]), len(second["image"])) == (2, 3)
            assert torch.equal(batch["image"], torch.cat([first["image"], second["image"]]))

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_no_epoch_takes_a_number_from_the_generator_of_dropout(self, num_workers):
        """With processes that stay only the first would, and one more in a resumed run."""
        loader = self.loader(num_workers=num_workers)
        before = torch.get_rng_state()
        for _ in range(2):
            next(iter(loader))
            assert torch.equal(torch.get_rng_state(), before)

    def test_a_gpu_gets_pinned_patches_from_processes_that_stay(self, cores):
        cores(3)
        loader = self.loader(device="cuda")
        assert (loader.num_workers, loader.persistent_workers, loader.pin_memory) == (2, True, True)
        loader = self.loader()
        assert (loader.num_workers, loader.persistent_workers, loader.pin_memory) == (
            0,
            False,
            False,
        )

    @pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
    def test_a_process_that_is_told_to_end_does_so_without_an_error(self):
        """By a scheduler, not by its parent, whose SIGTERM torch itself takes for a farewell."""
        loader = self.loader(num_workers=1)
        assert loader.persistent_workers
        assert loader.multiprocessing_context.get_start_method() == "fork"
        patches = iter(loader)
        next(patches)
        (worker,) = patches._workers
        kill = f"import os, signal; os.kill({worker.pid}, signal.SIGTERM)"
        subprocess.run([sys.executable, "-c", kill], check=True)
        worker.join(30)
        assert worker.exitcode == 0
