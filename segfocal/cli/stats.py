"""segfocal-stats: what a data set holds, and what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from segfocal.cli import common

EPILOG = """examples:
  segfocal-stats --data Task04_Hippocampus
  segfocal-stats --data Task04_Hippocampus --check
  segfocal-stats --data Task04_Hippocampus --suggest my.yaml
  segfocal-stats --config my.yaml --check --accept empty-label

exit status with --check: 0 no problem, 1 problems found, 2 a mistake in the arguments"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    parser = common.make_parser(
        "segfocal-stats",
        "Count classes, lesions and intensities of a data set, derive class weights, or list "
        "everything that is wrong with its files.",
        EPILOG,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--layout", metavar="NAME", help="auto (default), msd, nnunet, brats, bids, list, folder"
    )
    common.add_config_options(parser)
    parser.add_argument(
        "--check", action="store_true", help="list every problem of every case, with its cure"
    )
    parser.add_argument(
        "--accept",
        nargs="+",
        default=[],
        metavar="KIND",
        help="with --check: kinds of doubt (what only a person can judge) that are as they should "
        "be, e.g. empty-label",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON to write, a picture beside it (default stats.json; --check, --json: none)",
    )
    parser.add_argument(
        "--suggest",
        type=Path,
        metavar="FILE",
        help="YAML to write: a config to start from, with a reason for every setting",
    )
    common.add_workers_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    args = parser.parse_args(argv)
    common.run("segfocal-stats", lambda: _work(args), debug=args.debug)


def _work(args: object) -> None:
    options = vars(args)
    from segfocal.training.survey import SurveyRequest, survey

    status = survey(
        SurveyRequest(
            data=options["data"],
            config=options["config"],
            overrides=tuple(options["set"]),
            layout=options["layout"],
            check=options["check"],
            accept=tuple(options["accept"]),
            out=options["out"],
            workers=options["workers"],
            suggest=options["suggest"],
            as_json=options["json"],
            quiet=options["quiet"],
        )
    )
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
