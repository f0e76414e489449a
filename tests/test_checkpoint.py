import contextlib
import errno
import io
import os
import pickle
import signal
from dataclasses import replace

import pytest
import torch

from segfocal import checkpoint as module
from segfocal.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from segfocal.errors import UserError
from segfocal.labels import LabelScheme


def make():
    return Checkpoint(
        model={"weight": torch.arange(4.0)},
        config={"loss": {"gamma": 2.0}},
        scheme=LabelScheme.preset("brats23", ignore_values=(9,)),
        channels=("T1", "FLAIR"),
        file_channels=("FLAIR", "T1"),
        alpha={"weights": [1.0, 2.0]},
        versions={"segfocal": "0.1.0"},
        progress={"epoch": 3},
        synthetic=True,
        resume={"step": 7},
    )


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make())
    loaded = load_checkpoint(str(path))
    assert torch.equal(loaded.model["weight"], torch.arange(4.0))
    assert replace(loaded, model={}) == replace(make(), model={})
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make())

    def half(_payload, stream):
        stream.write(b"PK half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, make())
    assert load_checkpoint(path).progress == {"epoch": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("room", [0, 100, 1000])
def test_a_full_disk_is_called_that_and_not_by_what_torch_makes_of_it(tmp_path, monkeypatch, room):
    class FullDisk(io.RawIOBase):
        free = room

        def writable(self):
            return True

        def write(self, data):
            self.free -= len(data)
            if self.free < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(data)

    @contextlib.contextmanager
    def on_a_full_disk(path):
        yield FullDisk()

    monkeypatch.setattr(module, "atomic_write", on_a_full_disk)
    large = replace(make(), model={"weight": torch.zeros(10_000)})
    with pytest.raises(OSError, match="No space") as error:
        save_checkpoint(tmp_path / "last.pt", large)
    assert error.value.errno == errno.ENOSPC


def test_what_torch_refuses_to_write_is_told_as_torch_tells_it(tmp_path, monkeypatch):
    def refused(_payload, _stream):
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(module.torch, "save", refused)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        save_checkpoint(tmp_path / "last.pt", make())
    assert not any(tmp_path.iterdir())


def test_what_a_gpu_wrote_is_read_where_there_is_none(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:0")
        save_checkpoint(tmp_path / "last.pt", make())
    assert b"cuda:0" in (tmp_path / "last.pt").read_bytes()
    weight = load_checkpoint(tmp_path / "last.pt").model["weight"]
    assert weight.device.type == "cpu"
    assert torch.equal(weight, torch.arange(4.0))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at_write", [1, 3, -1])
def test_an_interrupt_while_a_checkpoint_is_written_stays_one(
    tmp_path, monkeypatch, number, at_write
):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make())
    writes = []

    class Interrupted(io.BytesIO):
        def write(self, data):
            writes.append(1)
            if len(writes) == at_write:
                signal.raise_signal(number)
            return super().write(data)

    def torch_save(payload, _stream, save=torch.save):
        with Interrupted() as stream:
            save(payload, stream)
        if at_write < 0:
            signal.raise_signal(number)

    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.torch, "save", torch_save)
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, make())
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert load_checkpoint(path).progress == {"epoch": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_truncated_file_is_called_damaged(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(path, make())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged or not a checkpoint of segfocal"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    path = tmp_path / "bomb.pt"
    torch.save({"format": 1, "scheme": {}, "model": Bomb()}, path)
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_foreign_and_newer_files_are_told_apart(tmp_path):
    for foreign in ({"state_dict": {}}, {"format": 1, "model": {}}, {"scheme": {}}):
        torch.save(foreign, tmp_path / "foreign.pt")
        with pytest.raises(UserError, match=r"foreign\.pt is not a checkpoint of segfocal"):
            load_checkpoint(tmp_path / "foreign.pt")
    newer = {"format": 99, "scheme": {}, "versions": {"segfocal": "9.0"}}
    torch.save(newer, tmp_path / "newer.pt")
    with pytest.raises(UserError, match=r"format 99, this segfocal reads 1.*\(9\.0\)"):
        load_checkpoint(tmp_path / "newer.pt")
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")


def test_weights_come_from_a_checkpoint_with_all_that_it_tells(tmp_path):
    save_checkpoint(tmp_path / "a.pt", make())
    weights, told = load_weights(str(tmp_path / "a.pt"))
    assert torch.equal(weights["weight"], torch.arange(4.0))
    assert told.channels == ("T1", "FLAIR")


@pytest.mark.parametrize("under", [None, "model", "state_dict"])
def test_weights_come_from_a_plain_state_dict(tmp_path, under):
    state = torch.nn.Conv3d(1, 2, 3).state_dict()
    torch.save(state if under is None else {under: state, "epoch": 3}, tmp_path / "a.pt")
    weights, told = load_weights(tmp_path / "a.pt")
    assert told is None
    assert weights.keys() == state.keys()
    assert torch.equal(weights["bias"], state["bias"])


@pytest.mark.parametrize("held", [{}, {"epoch": 3}, [torch.ones(1)], torch.ones(2), {"model": {}}])
def test_a_file_without_weights_is_told(tmp_path, held):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt holds no weights: expected a checkpoint of segfoc"):
        load_weights(tmp_path / "a.pt")


def test_a_module_is_not_loaded_for_its_weights(tmp_path):
    torch.save(torch.nn.Conv3d(1, 2, 3), tmp_path / "a.pt")
    with pytest.raises(UserError) as error:
        load_weights(tmp_path / "a.pt")
    assert str(error.value) == (
        f"{tmp_path / 'a.pt'} is damaged or not a checkpoint of segfocal: expected tensors and "
        "plain values alone, got objects (torch.nn.modules.conv.Conv3d) that could run code as "
        "they are loaded. Pass best.pt or last.pt of a run; --init-from also takes a state dict."
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"lr: 0.01\n", "torch.save did not write it"),
        (pickle.dumps({"model": [1.0, 2.0]}), "torch.save did not write it"),
        (b"\x1f\x8b\x08\x00" + bytes(40), "torch.save did not write it"),
    ],
    ids=["nothing", "text", "a pickle", "gzip"],
)
@pytest.mark.parametrize("load", [load_checkpoint, load_weights])
def test_what_torch_did_not_write_is_told_so_in_one_line(tmp_path, recwarn, load, content, what):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value) == (
        f"{path} is not a checkpoint of segfocal: {what}. Pass best.pt or last.pt of a run; "
        "--init-from also takes a state dict."
    )
    assert not recwarn.list


def test_a_torchscript_program_is_called_one(tmp_path, recwarn):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / "model.ts")
    recwarn.clear()  # that scripting is deprecated
    with pytest.raises(UserError, match=r"not a checkpoint of segfocal: it is a TorchScript progr"):
        load_weights(tmp_path / "model.ts")
    assert not recwarn.list


def test_weights_in_the_format_before_zip_are_read(tmp_path):
    state = {"weight": torch.arange(3.0)}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_weights(tmp_path / "a.pt")[0]["weight"], torch.arange(3.0))


def test_weights_of_another_format_are_refused_as_the_checkpoint_is(tmp_path):
    torch.save({"format": 99, "scheme": {}, "versions": {}}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="has checkpoint format 99"):
        load_weights(tmp_path / "a.pt")


def test_weights_alone_are_no_checkpoint_and_what_takes_them_is_told(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "a.pt")
    assert str(error.value).endswith(
        "a.pt is not a checkpoint of segfocal. It holds weights alone, which --init-from takes."
    )
