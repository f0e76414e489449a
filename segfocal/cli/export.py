"""segfocal-export: a trained run as a MONAI bundle or an ONNX file."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from segfocal.cli import common

EPILOG = """examples:
  segfocal-export --run runs/a --format bundle
  segfocal-export --run runs/a --format bundle --out bundles/tumour
  segfocal-export --run runs/a --format onnx --out tumour.onnx
  segfocal-export --ckpt runs/a/last.pt --format onnx

a bundle runs with MONAI and segfocal: pip install 'segfocal[bundle]'
writing ONNX needs pip install 'segfocal[onnx]'"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    parser = common.make_parser(
        "segfocal-export", "Write a trained run as a MONAI bundle or an ONNX file.", EPILOG
    )
    parser.add_argument(
        "--run", type=Path, metavar="RUN", help="folder of the run; its best.pt is exported"
    )
    parser.add_argument(
        "--ckpt",
        type=Path,
        metavar="FILE",
        help="a checkpoint to export in place of RUN/best.pt; --run is then not needed",
    )
    parser.add_argument(
        "--format",
        choices=("bundle", "onnx"),
        required=True,
        help="bundle: a folder that `python -m monai.bundle run` takes; onnx: the network alone",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="folder of the bundle, or the .onnx file (default: bundle or model.onnx in RUN)",
    )
    parser.add_argument(
        "--fixed-size",
        action="store_true",
        help="onnx: for windows of the patch's size alone (transformers, which torch else takes "
        "very long over)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    args = parser.parse_args(argv)
    common.run("segfocal-export", lambda: _work(args), debug=args.debug)


def _work(args: object) -> None:
    options = vars(args)
    from segfocal.export.run import ExportRequest, export
    from segfocal.reports.console import Console

    console = Console(quiet=options["quiet"] or options["json"])
    told = export(
        ExportRequest(
            format=options["format"],
            run=options["run"],
            checkpoint=options["ckpt"],
            out=options["out"],
            fixed_size=options["fixed_size"],
        ),
        console.line,
    )
    if options["json"]:
        sys.stdout.write(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
