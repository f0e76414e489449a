"""The pictures of a run: `progress_figure` and `sample_figure`."""

from segfocal.reports.progress_figure import progress_figure
from segfocal.reports.sample_figure import sample_figure

__all__ = ["progress_figure", "sample_figure"]
