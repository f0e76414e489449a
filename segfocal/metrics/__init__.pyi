"""The public names, for `__init__.py` to load on first use and for type checkers to read."""

from .brats_lesionwise import (
    BRATS_RULES as BRATS_RULES,
    BratsScore as BratsScore,
    score_brats_lesions as score_brats_lesions,
)
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
from .evaluation import (
    Measures as Measures,
    RegionEvaluation as RegionEvaluation,
    evaluate_classes as evaluate_classes,
)
from .evaluation_summary import (
    RegionReport as RegionReport,
    summarise_evaluations as summarise_evaluations,
)
from .lesionwise import (
    Lesion as Lesion,
    LesionCounts as LesionCounts,
    LesionMatch as LesionMatch,
    count_lesions as count_lesions,
    match_lesions as match_lesions,
)
from .overlap import dice as dice
from .surface import (
    SurfaceScore as SurfaceScore,
    surface_score as surface_score,
)
