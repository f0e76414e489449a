import errno
import os
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import segfocal
from segfocal.config.load import config_of
from segfocal.data.cases import Case
from segfocal.errors import UserError
from segfocal.training.build import CasePreparation
from segfocal.training.case_cache import (
    _OWN_CODE,
    SUFFIX,
    CacheFolderError,
    CaseCache,
    code_fingerprint,
    default_folder,
    file_hash,
    remove_unused,
)
from segfocal.training.preflight import preflight
from tests.data.nifti_files import msd


@pytest.fixture
def case(tmp_path):
    image, label = tmp_path / "a_0000.nii.gz", tmp_path / "a.nii.gz"
    image.write_bytes(b"image bytes")
    label.write_bytes(b"label bytes")
    return Case("a/1", (image,), label)


class Preparing:
    """Counts how often a case is prepared; what it makes is the source's bytes."""

    def __init__(self):
        self.calls = 0

    def __call__(self, case):
        self.calls += 1
        raw = case.images[0].read_bytes() + case.label.read_bytes()
        return {"image": torch.frombuffer(bytearray(raw), dtype=torch.uint8), "case_id": "a"}


def text_of(file):
    return bytes(file.load(verify=True)["image"].numpy()).decode()


@pytest.fixture
def cache(tmp_path):
    return CaseCache(tmp_path / "cache", {"spacing": [1, 1, 1]})


def test_a_case_is_prepared_once_and_found_again(case, cache):
    prepare = Preparing()
    first, found_first = cache.fetch(case, prepare)
    second, found_second = cache.fetch(case, prepare)
    assert (found_first, found_second, prepare.calls) == (False, True, 1)
    assert text_of(first) == text_of(second) == "image byteslabel bytes"


def test_a_source_rewritten_with_the_same_size_and_time_is_never_served_stale(case, cache):
    prepare = Preparing()
    cache.fetch(case, prepare)
    for path, text in ((case.images[0], b"IMAGE bytes"), (case.label, b"label BYTES")):
        status = path.stat()
        path.write_bytes(text)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        file, found = cache.fetch(case, prepare)
        assert not found
        assert text.decode() in text_of(file)
    assert len(list(cache.folder.iterdir())) == 1


def test_a_source_that_was_only_touched_is_found(case, cache):
    cache.fetch(case, Preparing())
    os.utime(case.images[0], (1, 1))
    assert cache.fetch(case, Preparing())[1]


def test_another_description_is_another_file_and_both_are_kept(case, cache):
    prepare = Preparing()
    cache.fetch(case, prepare)
    other = replace(cache, description={"spacing": [1, 1, 2]})
    assert not other.fetch(case, prepare)[1]
    assert cache.fetch(case, prepare)[1]
    assert other.fetch(case, prepare)[1]


def test_a_file_of_another_description_under_the_same_name_is_not_served(case, cache):
    cache.fetch(case, Preparing())
    other = replace(cache, description={"spacing": [2, 2, 2]})
    shutil.copy(cache.path(case), other.path(case))
    assert not other.fetch(case, Preparing())[1]


def test_the_same_id_in_another_data_set_is_another_case(case, cache, tmp_path):
    cache.fetch(case, Preparing())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (*case.images, case.label):
        shutil.copy(path, elsewhere)
    twin = Case("a/1", (elsewhere / "a_0000.nii.gz",), elsewhere / "a.nii.gz")
    assert cache.path(twin) != cache.path(case)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_file_is_noticed_told_in_one_line_and_replaced(case, cache, damage):
    told = []
    cache = replace(cache, on_note=told.append)
    path = cache.fetch(case, Preparing())[0].path
    whole = path.read_bytes()
    broken = {
        "flip": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
        "cut": whole[:-1],
        "empty": b"",
        "other": b"<html>" * 100,
    }[damage]
    path.write_bytes(broken)
    prepare = Preparing()
    file, found = cache.fetch(case, prepare)
    assert (found, prepare.calls) == (False, 1)
    assert text_of(file) == "image byteslabel bytes"
    reason = {
        "flip": "its checksum is wrong",
        "cut": f"it has {len(whole) - 1} bytes instead of {len(whole)}",
        "empty": "it does not begin as a case file does",
        "other": "it does not begin as a case file does",
    }[damage]
    assert told == [f"cache  a/1: {path} is damaged ({reason}); prepared anew"]
    assert cache.fetch(case, prepare)[1]


def test_a_source_that_changes_while_it_is_read_is_refused_and_nothing_is_kept(case, cache):
    def prepare(case):
        case.images[0].write_bytes(b"written meanwhile")
        return {"image": torch.zeros(1)}

    with pytest.raises(UserError) as error:
        cache.fetch(case, prepare)
    assert str(error.value) == (
        "a/1: its files changed while they were read. Start again when nothing writes to them."
    )
    assert not cache.folder.exists()


def test_a_missing_source_is_named(case, cache):
    case.label.unlink()
    with pytest.raises(UserError, match=r"a\.nii\.gz: cannot be read: No such file"):
        cache.fetch(case, Preparing())


def test_a_folder_that_cannot_be_written_says_what_to_set(case, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = CaseCache(tmp_path / "file", {})
    with pytest.raises(CacheFolderError) as error:
        cache.fetch(case, Preparing())
    assert str(error.value) == (
        f"data.cache_dir: {tmp_path / 'file'} cannot be written: File exists. Set it to another "
        f"folder, or data.cache: ram."
    )


def test_two_writers_at_once_leave_one_whole_file(case, cache):
    gate = threading.Barrier(2)

    def prepare(case):
        gate.wait(10)
        return {"image": torch.full((200_000,), 7.0)}

    files = []
    threads = [
        threading.Thread(target=lambda: files.append(cache.fetch(case, prepare)[0]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(cache.folder.iterdir())) == 1
    for file in files:
        assert bool((file.load(verify=True)["image"] == 7).all())


def test_what_another_run_made_meanwhile_is_served_and_not_replaced(case, cache):
    # Rounding may differ between two runs (threads); whoever has opened the first file maps it yet.
    made = {}

    def slow(case):
        made["first"], _ = cache.fetch(case, lambda _: {"image": torch.zeros(50)})
        return {"image": torch.full((50,), 1e-16)}

    second, found = cache.fetch(case, slow)
    assert not found
    assert bool((made["first"].load(verify=False)["image"] == 0).all())
    assert bool((second.load(verify=True)["image"] == 0).all())


def test_a_full_disk_says_so_and_leaves_nothing(case, cache, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheFolderError) as error:
        cache.fetch(case, Preparing())
    assert str(error.value) == (
        f"data.cache_dir: {cache.folder} cannot be written: No space left on device. Set it to "
        f"another folder, or data.cache: ram."
    )
    assert list(cache.folder.iterdir()) == []


def test_a_folder_that_only_may_be_read_serves_what_is_in_it(case, cache, monkeypatch):
    # Also where the tests run as root, whom permission bits do not stop.
    cache.fetch(case, Preparing())

    def refused(*_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr("segfocal.training.case_cache.write_case_file", refused)
    monkeypatch.setattr("pathlib.Path.unlink", refused)
    assert cache.fetch(case, Preparing())[1]
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert remove_unused(cache.folder) == 0
    case.label.write_bytes(b"other bytes")
    with pytest.raises(CacheFolderError, match="cannot be written: Permission denied"):
        cache.fetch(case, Preparing())


def test_what_a_killed_run_was_writing_goes_after_a_day(case, cache):
    file, _ = cache.fetch(case, Preparing())
    left, at_work = (cache.folder / f".{file.path.name}.{n}-ab.tmp" for n in (1, 2))
    for path in (left, at_work):
        path.write_bytes(b"x" * 50)
    os.utime(left, (time.time() - 2 * 86_400,) * 2)
    assert remove_unused(cache.folder) == 50
    assert sorted(cache.folder.iterdir()) == sorted([at_work, file.path])


def test_a_name_with_a_slash_stays_inside_the_folder(case, cache):
    assert cache.path(replace(case, case_id="../../etc/passwd")).parent == cache.folder


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_the_folder_is_for_the_user_alone(case, cache):
    cache.fetch(case, Preparing())
    assert cache.folder.stat().st_mode & 0o077 == 0


def test_files_unused_for_long_go_and_nothing_else_does(case, cache):
    file, _ = cache.fetch(case, Preparing())
    old = cache.folder / f"old{SUFFIX}"
    old.write_bytes(b"x" * 100)
    mine = cache.folder / "notes.txt"
    mine.write_bytes(b"x")
    long_ago = time.time() - 31 * 86_400
    os.utime(old, (long_ago, long_ago))
    os.utime(mine, (long_ago, long_ago))
    assert remove_unused(cache.folder) == 100
    assert sorted(p.name for p in cache.folder.iterdir()) == sorted([file.path.name, "notes.txt"])
    assert remove_unused(cache.folder / "absent") == 0


def test_use_keeps_a_file(case, cache):
    path = cache.fetch(case, Preparing())[0].path
    os.utime(path, (1, 1))
    assert cache.fetch(case, Preparing())[1]
    assert remove_unused(cache.folder) == 0


def test_the_hash_is_of_the_bytes(tmp_path):
    import hashlib

    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    assert file_hash(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_a_changed_source_file_of_ours_changes_the_fingerprint(tmp_path, monkeypatch):
    package = tmp_path / "segfocal"
    shutil.copytree(
        Path(segfocal.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    before = code_fingerprint()
    monkeypatch.setattr(segfocal, "__file__", str(package / "__init__.py"))
    assert code_fingerprint() == before
    for name in ("transforms/normalize.py", "data/nifti.py", "training/case_tree.py", "labels.py"):
        changed = package / name
        changed.write_text(changed.read_text() + "\n# one comment more\n")
        assert code_fingerprint() != before
        before = code_fingerprint()


@pytest.mark.parametrize("foreground_by", ["voxel", "lesion"])
def test_all_our_code_that_prepares_a_case_is_in_the_fingerprint(tmp_path, foreground_by):
    data = {"root": str(msd(tmp_path)), "val_fraction": 0.5, "spacing_mm": [1, 1, 1]}
    settings = {"data": data, "train": {"patch_size": [8, 8, 8], "foreground_by": foreground_by}}
    loaded = config_of(settings, [], "test", {})
    plan = preflight(loaded)
    prepare = CasePreparation(loaded.config, plan, for_training=True)
    ran = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, _event, _argument: ran.add(frame.f_code.co_filename))
    try:
        prepare(plan.dataset.cases[0])
    finally:
        sys.setprofile(before)
    package = Path(segfocal.__file__).parent
    own = {
        Path(name).relative_to(package).as_posix() for name in ran if name.startswith(f"{package}")
    }
    assert "data/verify.py" in own
    assert [name for name in sorted(own) if not name.startswith(_OWN_CODE)] == []


def test_the_default_folder_follows_the_systems_convention(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "segfocal"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "segfocal"
