"""The public names, for `__init__.py` to load on first use and for type checkers to read."""

from .brats_lesionwise import (
    BRATS_RULES as BRATS_RULES,
    BratsScore as BratsScore,
    score_brats_lesions as score_brats_lesions,
)
from .calibration import (
    THRESHOLDS as THRESHOLDS,
    ProbabilityTable as ProbabilityTable,
    Reliability as Reliability,
    best_threshold as best_threshold,
    dice_by_threshold as dice_by_threshold,
    probability_table as probability_table,
    reliability as reliability,
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
from .curves import (
    Area as Area,
    auroc as auroc,
    average_precision as average_precision,
    precision_recall_curve as precision_recall_curve,
    roc_curve as roc_curve,
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
from .free_response import (
    Froc as Froc,
    LesionCandidates as LesionCandidates,
    froc as froc,
    lesion_candidates as lesion_candidates,
)
from .lesionwise import (
    Lesion as Lesion,
    LesionCounts as LesionCounts,
    LesionMatch as LesionMatch,
    count_lesions as count_lesions,
    match_lesions as match_lesions,
)
from .overlap import dice as dice
from .probability_evaluation import (
    CurveReport as CurveReport,
    RegionCurves as RegionCurves,
    evaluate_probabilities as evaluate_probabilities,
    summarise_probabilities as summarise_probabilities,
)
from .score_bins import (
    ScoreHistogram as ScoreHistogram,
    score_histogram as score_histogram,
)
from .surface import (
    SurfaceScore as SurfaceScore,
    surface_score as surface_score,
)
