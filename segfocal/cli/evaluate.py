"""segfocal-evaluate: predicted label maps against references, in tables and files."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from segfocal.cli import common

EPILOG = """examples:
  segfocal-evaluate --pred predictions --ref Dataset101_Sarcoma/labelsTs
  segfocal-evaluate --pred predictions --ref Dataset101_Sarcoma --allow-missing --out scores
  segfocal-evaluate --pred predictions --ref labels --config runs/a/config.yaml
  segfocal-evaluate --pred predictions --ref BraTS23 --lesionwise brats-gli
  segfocal-evaluate --pred predictions --ref labels --set data.labels=brats18-22
  segfocal-evaluate --pred predictions --ref labels --probabilities softmax --out scores

files belong together by case name: CASE.nii.gz as segfocal-predict and nnU-Net write it
exit status: 0 all evaluated, 1 some could not be, 2 a mistake in the arguments"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    parser = common.make_parser(
        "segfocal-evaluate",
        "Measure predicted label maps against references: Dice, surface distances in mm, volumes, "
        "lesions found and missed.",
        EPILOG,
    )
    parser.add_argument(
        "--pred", type=Path, required=True, metavar="OUT", help="predictions: a folder, or one file"
    )
    parser.add_argument(
        "--ref",
        type=Path,
        required=True,
        metavar="LABELS",
        help="references: a folder of labels, one file, a list (CSV ...), or a data set",
    )
    common.add_config_options(parser)
    parser.add_argument(
        "--lesionwise",
        dest="lesions",
        choices=("plain", "brats-gli", "brats-met"),
        default="plain",
        help="how lesions are matched: touched or not (default), or scored as BraTS 2023 does",
    )
    parser.add_argument(
        "--tolerance",
        dest="tolerance_mm",
        type=float,
        default=2.0,
        metavar="MM",
        help="distance at which a surface counts as right in the surface Dice (default 2)",
    )
    parser.add_argument(
        "--lesion-sizes",
        dest="lesion_edges_mm3",
        type=float,
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="MM3",
        help="volumes that part lesions by size (default 10 100 1000 10000)",
    )
    probabilities = parser.add_mutually_exclusive_group()
    probabilities.add_argument(
        "--probabilities",
        type=Path,
        metavar="DIR",
        help="probabilities, CASE_CLASS.nii.gz (default: OUT/probabilities, where there is one)",
    )
    probabilities.add_argument(
        "--no-probabilities",
        dest="ignore_probabilities",
        action="store_true",
        help="look at label maps alone",
    )
    parser.add_argument(
        "--candidates",
        dest="candidate_threshold",
        type=float,
        default=0.1,
        metavar="P",
        help="probability above which voxels make up candidates for lesions (default 0.1)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="references without a prediction are as they should be",
    )
    common.add_workers_option(parser)
    common.add_scores_options(parser)
    args = parser.parse_args(argv)
    common.run("segfocal-evaluate", lambda: _work(args), debug=args.debug)


def _work(args: object) -> None:
    options = vars(args)
    from segfocal.evaluation.run import EvaluationRequest, evaluate

    fields = {field.name for field in dataclasses.fields(EvaluationRequest)} & options.keys()
    request = EvaluationRequest(
        **{name: options[name] for name in fields}, overrides=tuple(options["set"])
    )
    status = evaluate(request)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
