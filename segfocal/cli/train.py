"""segfocal-train: a config and a folder of NIfTI files to a validated checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from segfocal.cli import common
from segfocal.errors import UserError
from segfocal.training.launch import Launch, read_launch

EPILOG = """examples:
  segfocal-train --demo
  segfocal-train --config sarcoma.yaml --set data.root=Dataset101_Sarcoma
  segfocal-train --config my.yaml --out runs/a --resume
  torchrun --nproc-per-node 4 --no-python segfocal-train --config my.yaml

exit status: 0 done, 1 failed, 2 a mistake in arguments, config or data, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    started_s = time.monotonic()
    parser = common.make_parser(
        "segfocal-train",
        "Train a 3D segmentation network with focal+Dice losses that honour ignore labels.",
        EPILOG,
    )
    common.add_config_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the run (default: runs/NAME of the config)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in that folder; without --config by its own config.yaml",
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="CKPT",
        help="start from the weights of another run or a MONAI bundle",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config, every file and the network; train and write nothing",
    )
    parser.add_argument(
        "--demo", action="store_true", help="write a synthetic phantom, train on it, report"
    )
    launch = read_launch(os.environ)
    args = common.parse(parser, argv, is_first=launch is None or launch.is_first)
    several = launch is not None and launch.world_size > 1
    name = f"segfocal-train (rank {launch.rank})" if launch and several else "segfocal-train"
    common.run(name, lambda: _work(args, started_s, launch), debug=args.debug)


def _work(args: object, started_s: float, launch: Launch | None) -> None:
    if launch is not None and not launch.is_first:
        from segfocal.training.follow import follow

        follow(launch)
        return
    options = vars(args)
    if options["demo"]:
        if options["config"] or options["resume"] or options["init_from"] or options["dry_run"]:
            raise UserError(
                "--demo brings its own data and config; it takes --set, --out, --quiet."
            )
        from segfocal.training.demo import run_demo

        run_demo(
            options["out"],
            options["set"],
            quiet=options["quiet"],
            started_s=started_s,
            launch=launch,
        )
        return
    from segfocal.training.run import TrainRequest, train

    train(
        TrainRequest(
            config=options["config"],
            overrides=tuple(options["set"]),
            out=options["out"],
            resume=options["resume"],
            init_from=options["init_from"],
            dry_run=options["dry_run"],
            quiet=options["quiet"],
            started_s=started_s,
        ),
        launch=launch,
    )


if __name__ == "__main__":
    main()
