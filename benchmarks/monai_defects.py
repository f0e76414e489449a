"""MONAI's losses and segfocal's on the inputs where they differ on purpose, in one run.

    python benchmarks/monai_defects.py [--size 96] [--write docs/losses.md]

Prints a Markdown table; every number in it was measured in this run. With `--write` the table takes
the place of the one between the markers of that page. Exit status 1 where segfocal's number is not
the promised one.
"""

import argparse
import platform
import sys
import warnings
from pathlib import Path

import monai
import torch
from defects import bad_input, family, meaning, memory, numerics, torch_rules
from defects.row import NOT_YET, Row

BEGIN = "<!-- benchmarks/monai_defects.py: begin -->"
END = "<!-- benchmarks/monai_defects.py: end -->"

INTRODUCTION = """\
MONAI's losses are widely used, and on most inputs segfocal's give the same number. The rows below
are the exceptions: each is a case chosen for its difference, measured on MONAI {monai} and on
segfocal in one run of `python benchmarks/monai_defects.py` (torch {torch}, Python {python}, CPU).
Some are errors, some are choices that surprise. Who has to keep MONAI's numbers finds them in
`segfocal.compat.monai`.
"""


def measure(size: int) -> list[Row]:
    """Every row, in the order of the contract."""
    rooms = (meaning, numerics, bad_input, torch_rules, family)
    rows = [row() for room in rooms for row in room.ROWS]
    return [*rows, memory.dice_focal(size)]


def as_markdown(rows: list[Row]) -> str:
    lines = ["| MONAI's trap | measured | MONAI | segfocal |", "|---|---|---|---|"]
    for row in rows:
        mark = " **wrong**" if row.is_right is False else ""
        lines.append(f"| {row.trap} | {row.measured} | {row.monai} | {row.ours}{mark} |")
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Replace what stands between the markers; add them to a page without, or to a new one."""
    block = f"{BEGIN}\n{text}\n{END}"
    if not page.exists():
        page.write_text(f"# Losses\n\n## Beside MONAI's\n\n{block}\n")
        return
    old = page.read_text()
    if BEGIN in old:
        before, rest = old.split(BEGIN, 1)
        page.write_text(before + block + rest.split(END, 1)[1])
    else:
        page.write_text(f"{old.rstrip()}\n\n## Beside MONAI's\n\n{block}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=96, help="edge of the volume of the memory row")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch.jit")
    rows = measure(args.size)
    introduction = INTRODUCTION.format(
        monai=monai.__version__,
        torch=torch.__version__.split("+")[0],
        python=platform.python_version(),
    )
    text = f"{introduction}\n{as_markdown(rows)}"
    print(text)
    wrong = [row.trap for row in rows if row.is_right is False]
    missing = sum(NOT_YET in row.ours for row in rows)
    if missing:
        print(f"\n{missing} rows wait for a loss that segfocal.losses does not have.")
    for trap in wrong:
        print(f"segfocal's number is wrong: {trap}", file=sys.stderr)
    if args.write and not wrong:
        write(args.write, text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
