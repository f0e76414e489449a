import os
import pickle
from dataclasses import replace

import pytest
import torch

from segfocal.data.cases import Case
from segfocal.training import memory
from segfocal.training.case_cache import CacheFolderError, CaseCache
from segfocal.training.case_store import CaseStore
from segfocal.training.memory import available_bytes


@pytest.fixture
def cases(tmp_path):
    found = []
    for number in range(5):
        path = tmp_path / f"{number}.nii"
        path.write_bytes(bytes([number]))
        found.append(Case(f"case{number}", (path,), None))
    return found


class Preparing:
    def __init__(self):
        self.read = []

    def __call__(self, case):
        self.read.append(case.case_id)
        value = case.images[0].read_bytes()[0]
        return {"image": torch.full((25,), float(value)), "case_id": case.case_id}


class PreparingLarge(Preparing):
    def __call__(self, case):
        return {**super().__call__(case), "rest": torch.zeros(10_000)}


def store(cases, prepare, mode, tmp_path, budget_bytes=250, **options):
    cache = CaseCache(tmp_path / "cache", {"of": "test"})
    return CaseStore(
        cases,
        prepare,
        mode=mode,
        cache=options.pop("cache", cache),
        budget_bytes=budget_bytes,
        num_threads=1,
        **options,
    )


def values(made):
    held = [made[n] for n in range(len(made))]
    return [(case["case_id"], float(case["image"][0])) for case in held]


@pytest.mark.parametrize("mode", ["auto", "ram", "disk", "none"])
def test_the_cases_are_the_same_wherever_they_are_kept(cases, tmp_path, mode):
    made = store(cases, Preparing(), mode, tmp_path)
    assert values(made) == [(f"case{n}", float(n)) for n in range(5)]
    assert values(store(cases, Preparing(), mode, tmp_path)) == values(made)


@pytest.mark.parametrize(
    ("mode", "in_memory", "on_disk", "read_again"),
    [("auto", 2, 3, 0), ("ram", 2, 0, 3), ("disk", 0, 5, 0), ("none", 0, 0, 5)],
)
def test_each_mode_keeps_what_it_says(cases, tmp_path, mode, in_memory, on_disk, read_again):
    prepare = Preparing()
    made = store(cases, prepare, mode, tmp_path)
    assert (len(made.cached), len(made.files)) == (in_memory, on_disk)
    before = len(prepare.read)
    values(made)
    assert len(prepare.read) == before + read_again


def test_the_next_run_finds_the_files_and_prepares_nothing(cases, tmp_path):
    store(cases, Preparing(), "disk", tmp_path)
    prepare = Preparing()
    made = store(cases, prepare, "disk", tmp_path)
    values(made)
    assert prepare.read == []
    assert made.num_found == 5


def test_the_summary_tells_sizes_budget_and_place(cases, tmp_path):
    folder = tmp_path / "cache"
    told = {m: store(cases, Preparing(), m, tmp_path).summary() for m in ("auto", "ram", "none")}
    assert told["auto"] == (
        f"2 in memory (0 MB of at most 0 MB), 3 on disk (0 MB in {folder}, written now; mapped)"
    )
    assert told["ram"] == "2 in memory (0 MB of at most 0 MB), 3 prepared anew at every access"
    none_fits = store(cases, Preparing(), "ram", tmp_path, budget_bytes=3)
    assert none_fits.summary() == (
        "0 in memory (0 MB of at most 0 MB), 5 prepared anew at every access"
    )
    assert told["none"] == "5 prepared anew at every access"
    again = store(cases, Preparing(), "disk", tmp_path)
    assert again.summary() == f"5 on disk (0 MB in {folder}, 3 found there; mapped)"


def test_progress_is_told_once_for_each_case_that_is_kept(cases, tmp_path):
    for mode, count in (("auto", 5), ("ram", 2), ("disk", 5), ("none", 0)):
        ticks = []
        store(cases, Preparing(), mode, tmp_path, on_case=lambda ticks=ticks: ticks.append(1))
        assert len(ticks) == count


def test_a_folder_that_cannot_be_written_stops_disk_and_auto_goes_on_and_says_so(cases, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = CaseCache(tmp_path / "file", {})
    with pytest.raises(CacheFolderError, match="cannot be written"):
        store(cases, Preparing(), "disk", tmp_path, cache=cache)
    told = []
    made = store(cases, Preparing(), "auto", tmp_path, cache=cache, on_note=told.append)
    assert values(made) == [(f"case{n}", float(n)) for n in range(5)]
    (line,) = told
    assert line == (
        f"cache  data.cache_dir: {tmp_path / 'file'} cannot be written: File exists. Set it to "
        f"another folder, or data.cache: ram."
    )


def test_a_case_in_memory_is_a_copy_of_what_was_prepared(cases, tmp_path):
    made_of = {}

    def prepare(case):
        made_of[case.case_id] = torch.zeros(25)
        return {"image": made_of[case.case_id], "case_id": case.case_id}

    made = store(cases, prepare, "ram", tmp_path, budget_bytes=10_000)
    made_of["case0"].fill_(9)
    assert len(made.cached) == 5
    assert float(made[0]["image"].abs().max()) == 0


def test_a_loader_process_maps_files_of_its_own(cases, tmp_path):
    made = store(cases, PreparingLarge(), "disk", tmp_path)
    held = values(made)
    sent = pickle.dumps(made)
    assert len(sent) < 20_000
    assert values(pickle.loads(sent)) == held


def test_the_memory_that_is_free_is_what_the_kernel_or_the_container_leaves(monkeypatch, tmp_path):
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 16 kB\nMemFree: 2 kB\nMemAvailable:    8 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", info)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert available_bytes() == 8192
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert available_bytes() == 8192
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_bytes() == 4900
    (tmp_path / "memory.current").write_text("6000\n")
    assert available_bytes() == 0
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "absent")
    (tmp_path / "memory.max").unlink()
    pages = {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert available_bytes() == 3 * 4096


def test_a_description_of_another_pipeline_makes_other_files(cases, tmp_path):
    first = store(cases, Preparing(), "disk", tmp_path)
    other = replace(CaseCache(tmp_path / "cache", {}), description={"of": "another"})
    second = store(cases, Preparing(), "disk", tmp_path, cache=other)
    assert second.num_found == 0
    assert {f.path for f in first.files.values()}.isdisjoint(f.path for f in second.files.values())
