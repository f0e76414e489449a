"""segfocal-compare: methods beside each other on the same cases, with intervals and tests."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from segfocal.cli import common

EPILOG = """examples:
  segfocal-compare scores/dicece scores/dicefocal
  segfocal-compare nnU-Net=scores/a ours=scores/b ensemble=scores/c --out comparison
  segfocal-compare runs/a runs/b
  segfocal-compare "ce=runs/ce_fold*" "focal=runs/focal_fold*"
  segfocal-compare scores/a scores/b --patient "{patient}_T*"
  segfocal-compare scores/a

a method is a folder that segfocal-evaluate --out wrote, or a training run (its validation cases)
exit status: 0 all compared, 1 some cases are not in all folders, 2 a mistake in the arguments"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    parser = common.make_parser(
        "segfocal-compare",
        "Compare methods on the same cases: differences of Dice, surface distances and lesions "
        "with confidence intervals over patients and permutation tests.",
        EPILOG,
    )
    parser.add_argument(
        "folders", nargs="+", metavar="[NAME=]DIR", help="the scores of a method; the first is the "
        "baseline",
    )  # fmt: skip
    parser.add_argument("--baseline", metavar="NAME", help="compare to this method instead")
    parser.add_argument(
        "--patient",
        metavar="PATTERN",
        help="what case ids look like, e.g. {patient}_T*: scans of one patient are not taken for "
        "independent (default: BIDS ids by subject, every other case a patient)",
    )
    parser.add_argument(
        "--measures",
        nargs="+",
        default=(),
        metavar="MEASURE",
        help="dice, nsd, hd95_mm, assd_mm, lesion_f1, sensitivity, false_positives, lesion_dice, "
        "lesion_hd95_mm (default: what was measured; files hold all of it, the tables Dice, "
        "HD95, NSD, lesion F1 and BraTS' scores)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="cases that are not in all folders are as they should be",
    )
    common.add_scores_options(parser)
    args = parser.parse_args(argv)
    common.run("segfocal-compare", lambda: _work(args), debug=args.debug)


def _work(args: object) -> None:
    options = vars(args)
    from segfocal.evaluation.compare import CompareRequest, compare

    status = compare(
        CompareRequest(
            folders=tuple(options["folders"]),
            baseline=options["baseline"],
            patient=options["patient"],
            measures=tuple(options["measures"]),
            out=options["out"],
            allow_missing=options["allow_missing"],
            as_json=options["as_json"],
            quiet=options["quiet"],
        )
    )
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
