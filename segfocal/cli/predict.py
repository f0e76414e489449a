"""segfocal-predict: a checkpoint and images to label NIfTI files on the images' own grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segfocal.cli import common
from segfocal.errors import UserError

EPILOG = """examples:
  segfocal-predict --ckpt runs/a/best.pt -i Dataset101_Sarcoma/imagesTs -o predictions
  segfocal-predict --ckpt runs/a/best.pt -i scan.nii.gz -o predictions --tta flips"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    parser = common.make_parser(
        "segfocal-predict", "Segment volumes with a trained checkpoint.", EPILOG
    )
    parser.add_argument(
        "--ckpt",
        type=Path,
        action="append",
        required=True,
        metavar="RUN/best.pt",
        help="checkpoint of a training: best.pt, or last.pt for its last epoch",
    )
    parser.add_argument(
        "-i", "--input", type=Path, required=True, metavar="IN", help="data set, folder or file"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the labels"
    )
    parser.add_argument("--tta", choices=("none", "flips"), help="default: what the run declares")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="leave the predictions that OUT already holds",
    )
    args = parser.parse_args(argv)
    common.run("segfocal-predict", lambda: _work(args), debug=args.debug)


def _work(args: object) -> None:
    options = vars(args)
    if len(options["ckpt"]) > 1:
        raise UserError(
            f"--ckpt: expected one checkpoint, got {len(options['ckpt'])}. Predict with each into "
            f"a folder of its own: this version has no ensembles."
        )
    from segfocal.inference.predict_cases import PredictRequest, predict_cases
    from segfocal.reports.console import Console

    console = Console(quiet=options["quiet"])
    predict_cases(
        PredictRequest(
            checkpoint=options["ckpt"][0],
            source=options["input"],
            output=options["output"],
            tta=options["tta"],
            device=options["device"],
            go_on=options["go_on"],
        ),
        console.line,
        console.warning,
    )


if __name__ == "__main__":
    main()
