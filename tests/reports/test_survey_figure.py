import itertools
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from segfocal.data.cases import Dataset
from segfocal.data.dataset_stats import DatasetStats
from segfocal.data.group_stats import GroupStats
from segfocal.data.phantom.stamp import STAMP
from segfocal.labels import LabelScheme
from segfocal.reports.survey_figure import draw_survey, survey_figure
from segfocal.statistics.voxel_counts import VoxelCounts


def stats_of(groups, *, synthetic=False, name="Toy"):
    scheme = LabelScheme(("background", "tumour"), (0, 1))
    dataset = Dataset(name, Path(), "msd", ("CT",), scheme, (), synthetic)
    return DatasetStats(dataset, VoxelCounts(scheme), groups, (), {}, {}, {}, {}, "", ())


def groups_of(count, lesions=(1.0, 10.0, 100.0)):
    background = GroupStats("background", "class", (0,), 900, 0.9, 3, 3, ())
    others = [
        GroupStats(f"$structure_{i}$", "class", (i,), 9, 0.1 / 10**i, 3, 3, lesions)
        for i in range(1, count)
    ]
    return (background, *others)


def amount_of(picture, colour):
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(picture[..., :3] - wanted).max(axis=-1) < 0.01).sum())


@pytest.mark.parametrize("count", [2, 5, 42])
def test_every_class_has_its_row(tmp_path, count):
    survey_figure(stats_of(groups_of(count)), tmp_path / "s.png")
    picture = matplotlib.image.imread(tmp_path / "s.png")
    assert picture.shape[0] == pytest.approx(110 * (1.9 + 0.34 * count), abs=2)
    assert amount_of(picture, "#56B4E9") > 500
    assert [path.name for path in tmp_path.iterdir()] == ["s.png"]


def test_bars_shorten_with_the_logarithm_of_the_share(tmp_path):
    survey_figure(stats_of(groups_of(4)), tmp_path / "s.png")
    picture = matplotlib.image.imread(tmp_path / "s.png")
    first, second, third = (amount_of(picture, c) for c in ("#56B4E9", "#F0E442", "#D55E00"))
    assert first - second == pytest.approx(second - third, rel=0.1)


@pytest.mark.parametrize(
    "lesions", [(1_040_000.0, 1_050_000.0), (30_100.0, 94_900.0, 260_000.0), (7.5,)]
)
def test_no_number_lies_on_a_bar_or_a_dot(lesions):
    small = GroupStats("small", "class", (9,), 9, 1e-6, 3, 3, (27.0,))
    figure = draw_survey(stats_of((*groups_of(5, lesions), small)))
    figure.canvas.draw()
    for axes in figure.axes:
        words = [text.get_window_extent() for text in axes.texts]
        ends = [bar.get_window_extent().x1 for bar in axes.patches]
        for line in axes.lines:
            ends += [x for x, _ in axes.transData.transform(line.get_xydata())]
        assert max(ends) + 3 < min(box.x0 for box in words)


def test_ticks_are_round_numbers_in_words_and_keep_apart():
    figure = draw_survey(stats_of(groups_of(7, (30_100.0, 94_900.0, 260_000.0))))
    figure.canvas.draw()
    shares, sizes = ([label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes)
    assert sizes == ["50,000", "100,000", "200,000"]
    assert shares == ["0.0001%", "0.01%", "1%", "100%"]
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(a.x1 + 4 < b.x0 for a, b in itertools.pairwise(boxes))


def test_nothing_but_background_is_drawn_without_lesions(tmp_path):
    groups = (*groups_of(1), GroupStats("tumour", "class", (1,), 0, 0.0, 0, 3, ()))
    survey_figure(stats_of(groups), tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 5000


def test_a_class_that_no_case_was_annotated_for_is_told_so(tmp_path):
    groups = [GroupStats(name, "class", (i,), 0, 0.0, 0, 0, ()) for i, name in enumerate("ab")]
    survey_figure(stats_of(tuple(groups)), tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 5000


def test_the_phantom_is_stamped(tmp_path):
    survey_figure(stats_of(groups_of(2), synthetic=True), tmp_path / "s.png")
    assert STAMP.encode() in (tmp_path / "s.png").read_bytes()
    assert amount_of(matplotlib.image.imread(tmp_path / "s.png"), "#A00000") > 1000
