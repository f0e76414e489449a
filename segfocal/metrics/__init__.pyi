"""The public names, for `__init__.py` to load on first use and for type checkers to read."""

from .case_score import (
    CaseScore as CaseScore,
    RegionScore as RegionScore,
    RegionSummary as RegionSummary,
    mean_dice as mean_dice,
    region_masks as region_masks,
    score_case as score_case,
    score_region as score_region,
    summarise as summarise,
)
from .lesionwise import (
    LesionCounts as LesionCounts,
    count_lesions as count_lesions,
)
from .overlap import dice as dice
