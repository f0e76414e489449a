import base64

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.image.metadata import PLUGIN_NAME as IMAGES
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS
from tensorboard.plugins.text.metadata import PLUGIN_NAME as TEXT
from tensorboard.util.tensor_util import make_ndarray

from segfocal.reports.trackers.tensorboard import TensorBoard
from segfocal.reports.trackers.tracker import Ending, Kept, TrackedRun
from tests.reports.trackers.told import STAMP, end, row, run, tell

# 2 x 1 grey pixels
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAAAAADRSSBWAAAAC0lEQVR4nGNgaAAAAIMAgcK5TkwAAAAASUVORK5CYII="
)


def events(folder):
    read = EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0})
    return read.Reload()


def curve(read, tag):
    return [(point.step, point.value) for point in read.Scalars(tag)]


def texts(read, tag):
    return [make_ndarray(entry.tensor_proto).item().decode() for entry in read.Tensors(tag)]


def test_numbers_have_the_epoch_for_their_step_and_what_was_not_measured_is_not_there(tmp_path):
    tell("tensorboard", run(tmp_path, note=""), row(1), row(2, dice=0.5), end())
    read = events(tmp_path / "tensorboard")
    assert curve(read, "loss") == [(1, 1.0), (2, 0.5)]
    assert curve(read, "dice") == [(2, 0.5)]
    assert sorted(read.Tags()["scalars"]) == ["dice", "epoch", "loss"]


def test_a_picture_is_the_file_byte_for_byte(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    tell("tensorboard", run(tmp_path, note=""), row(3, tmp_path / "a.png"), end())
    (image,) = events(tmp_path / "tensorboard").Images("sample")
    assert (image.step, image.width, image.height) == (3, 2, 1)
    assert image.encoded_image_string == PNG


def test_what_is_told_can_be_read_while_the_run_goes_on(tmp_path):
    tracker = TensorBoard()
    begun = TrackedRun(tmp_path, "a", "", {"data": "4 cases"}, {"train.epochs": 3}, epoch=0)
    tracker.open(begun, Kept())
    assert "| train.epochs | 3 |" in texts(events(tmp_path / "tensorboard"), "settings")[0]
    tracker.log(1, {"loss": 0.5}, None)
    assert curve(events(tmp_path / "tensorboard"), "loss") == [(1, 0.5)]
    tracker.close(Ending("done"))


def test_each_page_of_tensorboard_shows_its_own_and_texts_stand_beside_their_epoch(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    told = run(tmp_path, epoch=2, note="")
    tell("tensorboard", told, row(3, tmp_path / "a.png"), row(4), end())
    read = events(tmp_path / "tensorboard")
    tags = {"run": TEXT, "settings": TEXT, "end": TEXT, "loss": SCALARS, "sample": IMAGES}
    for tag, page in tags.items():
        assert read.SummaryMetadata(tag).plugin_data.plugin_name == page, tag
    steps = {tag: [entry.step for entry in read.Tensors(tag)] for tag in ("run", "settings", "end")}
    assert steps == {"run": [2], "settings": [2], "end": [4]}


def test_the_stamp_names_the_curves_and_stands_in_every_text_and_description(tmp_path):
    tell("tensorboard", run(tmp_path), row(1), end())
    read = events(tmp_path / "tensorboard" / STAMP)
    assert {"run", "settings", "end"} == set(read.Tags()["tensors"])
    for tag in ("run", "settings", "end"):
        assert all(f"| note | {STAMP} |" in text for text in texts(read, tag))
    assert read.SummaryMetadata("loss").summary_description == STAMP


def test_settings_facts_and_end_are_tables_of_text(tmp_path):
    tell("tensorboard", run(tmp_path, note="", odd="a|b"), row(1), end("failed", best_epoch=1))
    read = events(tmp_path / "tensorboard")
    assert texts(read, "settings")[0].splitlines()[:5] == [
        *("| | |", "|---|---|", "| loss.gamma | 2.0 |", "| train.epochs | 3 |"),
        "| loss.alpha | null |",
    ]
    assert "| odd | a\\|b |" in texts(read, "settings")[0]
    assert "| data | 4 cases trained, 2 validated |" in texts(read, "run")[0]
    assert texts(read, "end") == ["| | |\n|---|---|\n| status | failed |\n| best_epoch | 1 |"]


@pytest.mark.parametrize("saved", [0, 1, 2])
def test_a_run_that_goes_on_has_each_epoch_once_as_it_was_done_last(tmp_path, saved):
    """Epochs after the checkpoint are stale; those before it, that were not sent, are caught up."""
    folder = tmp_path / "tensorboard"
    tell("tensorboard", run(tmp_path, note=""), *(row(e, loss=9.0) for e in range(1, 3)))
    again = [row(epoch, loss=5.0) for epoch in range(1, 5)]
    tell("tensorboard", run(tmp_path, epoch=saved, note=""), *again, end())
    expected = [(e, 9.0 if e <= saved else 5.0) for e in range(1, 5)]
    assert curve(events(folder), "loss") == expected


def test_epochs_that_never_reached_it_are_caught_up(tmp_path):
    tell("tensorboard", run(tmp_path, note=""), row(1))
    tell("tensorboard", run(tmp_path, epoch=3, note=""), row(1), row(2), row(3), row(4), end())
    assert [step for step, _ in curve(events(tmp_path / "tensorboard"), "loss")] == [1, 2, 3, 4]


def test_epochs_are_not_there_twice_where_its_memory_is_gone(tmp_path):
    tell("tensorboard", run(tmp_path, note=""), row(1), row(2))
    (tmp_path / ".trackers" / "tensorboard.json").unlink()
    tell("tensorboard", run(tmp_path, epoch=2, note=""), row(1), row(2), row(3), end())
    assert [step for step, _ in curve(events(tmp_path / "tensorboard"), "loss")] == [1, 2, 3]


def test_a_run_whose_training_was_killed_is_told_as_interrupted(tmp_path):
    """And the process is given its time for that; not so after a goodbye."""
    told = []
    answers = tell("tensorboard", run(tmp_path, note=""), row(1), killed=lambda: told.append(1))
    assert [*answers[-1]] == ["opened"]
    assert told == [1]
    (text,) = texts(events(tmp_path / "tensorboard"), "end")
    assert text.endswith("| status | interrupted |")
    answers = tell("tensorboard", run(tmp_path), end(), killed=lambda: told.append(2))
    assert answers[-1] == {"closed": True}
    assert told == [1]


def test_a_training_that_ended_before_its_first_epoch_leaves_nothing(tmp_path):
    assert tell("tensorboard") == [{"reached": True}]
    assert list(tmp_path.iterdir()) == []
