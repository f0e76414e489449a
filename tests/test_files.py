import errno
import os
import stat

import pytest

from segfocal.errors import UserError
from segfocal.files import (
    atomic_folder,
    atomic_write,
    is_disk_full,
    make_writable,
    read_json,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail():
        with atomic_write(path) as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_nothing_is_visible_until_the_block_ends(tmp_path):
    path = tmp_path / "case.nii.gz"
    with atomic_write(path) as stream:
        stream.write(b"half")
        assert not path.exists()
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".")
        assert not temporary.name.endswith(".nii.gz")
    assert path.read_bytes() == b"half"
    assert names(tmp_path) == ["case.nii.gz"]


def test_the_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    events = []

    def synced(handle):
        events.append((names(tmp_path), os.fstat(handle).st_size))

    monkeypatch.setattr(os, "fsync", synced)
    with atomic_write(tmp_path / "a") as stream:
        stream.write(b"x" * 5)
    (before, size), (after, _) = events
    assert before != ["a"]
    assert size == 5
    assert after == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_json(tmp_path / "ours.json", {})
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("plain", "ours.json")]
    assert modes[0] == modes[1]


def test_json_comes_back(tmp_path):
    plain = {"names": ["oedème"], "n": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", plain)
    assert read_json(tmp_path / "a.json") == plain


def test_nan_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{\n"a": 1,\n"b" 2\n}', r"a.json:3: is not valid JSON: Expecting ':' delimiter"),
        (b'{"a": 1,}', r"a.json:1: is not valid JSON"),
        (b"", r"a.json:1: is not valid JSON"),
        (b"[1]", r"a.json: expected a JSON object, got list"),
        (b'{"a": {"b": 1, "b": 2}}', r"a.json: key 'b' stands twice"),
        (b'{"a": "\xff"}', r"a.json: is not JSON: byte 7 is not UTF-8"),
    ],
)
def test_what_is_not_a_json_object_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(UserError, match=message) as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a.json: cannot be read: No such file"):
        read_json(tmp_path / "a.json")


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        write_json(tmp_path / "a.json", {})
    assert error.value.filename == str(tmp_path / "a.json")
    assert is_disk_full(error.value)
    assert not is_disk_full(OSError(errno.EACCES, "no"))


def test_a_folder_that_is_missing_is_told_with_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_json(tmp_path / "none" / "a.json", {})
    assert error.value.filename == str(tmp_path / "none" / "a.json")


def test_a_folder_is_made_and_left_empty_or_told_why_not(tmp_path):
    make_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        make_writable(tmp_path / "file")
    assert str(error.value) == f"{tmp_path / 'file'} cannot be written: File exists. Use another."


def test_a_folder_is_visible_when_its_block_ends(tmp_path):
    path = tmp_path / "new" / "a"
    with atomic_folder(path) as folder:
        (folder / "f").write_text("x")
        assert not path.exists()
    assert names(path) == ["f"]
    assert names(tmp_path / "new") == ["a"]


def test_a_folder_whose_block_fails_is_not_left(tmp_path):
    def fail():
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "f").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == []


def test_a_folder_is_not_put_in_the_place_of_what_holds_something(tmp_path):
    def late():
        with atomic_folder(tmp_path / "a"):
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "mine").write_text("x")

    with pytest.raises(OSError, match="not empty"):
        late()
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["mine"]
