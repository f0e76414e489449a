"""segfocal-predict: a checkpoint and images to label NIfTI files on the images' own grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segfocal.cli import common

EPILOG = """examples:
  segfocal-predict --ckpt runs/a/best.pt -i Dataset101_Sarcoma/imagesTs -o predictions
  segfocal-predict --ckpt runs/a/best.pt -i scan.nii.gz -o predictions --tta flips
  segfocal-predict --ckpt runs/a/best.pt --ckpt runs/b/best.pt -i scans -o predictions
  segfocal-predict --ckpt runs/a-fold*/best.pt --held-out -i Dataset101_Sarcoma/imagesTr -o folds

exit status: 0 all predicted, 1 some could not be, 2 a mistake in arguments or headers,
130 interrupted"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    parser = common.make_parser(
        "segfocal-predict", "Segment volumes with a trained checkpoint.", EPILOG
    )
    parser.add_argument(
        "--ckpt",
        type=Path,
        action="extend",
        nargs="+",
        required=True,
        metavar="RUN/best.pt",
        help="best.pt of a run, or last.pt for its last epoch; several are an ensemble",
    )
    parser.add_argument(
        "-i",
        "--input",
        type=Path,
        required=True,
        metavar="IN",
        help="data set, folder, list or file",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the labels"
    )
    parser.add_argument(
        "--tta",
        choices=("none", "flips"),
        help="flips: average over mirrored windows (default: infer.tta of the run)",
    )
    common.add_set_option(
        parser,
        "settings of infer over the run's, e.g. infer.threshold=0.4 infer.min_lesion_mm3=30",
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="leave the predictions that OUT already holds, predict the others",
    )
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="each case by the runs that validated on it, no other (cross-validation)",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also write the probability of each output, to OUT/probabilities",
    )
    args = parser.parse_args(argv)
    common.run("segfocal-predict", lambda: _work(args), debug=args.debug)


def _work(args: object) -> None:
    options = vars(args)
    from segfocal.inference.predict_cases import PredictRequest, predict_cases
    from segfocal.reports.console import Console

    console = Console(quiet=options["quiet"])
    predict_cases(
        PredictRequest(
            checkpoints=options["ckpt"],
            source=options["input"],
            output=options["output"],
            tta=options["tta"],
            device=options["device"],
            go_on=options["go_on"],
            probabilities=options["probabilities"],
            held_out=options["held_out"],
            overrides=options["set"],
        ),
        console.line,
        console.warning,
    )


if __name__ == "__main__":
    main()
