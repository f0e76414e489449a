"""How numbers and epochs read in a line of text: the one place that formats them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from segfocal.metrics.case_score import RegionSummary
from segfocal.reports.history import EpochRecord

SEPARATOR = " · "

_SHOWN = 8
"""Classes that a line names before it counts the others."""


def fraction(value: float) -> str:
    """A number from 0 to 1 with three digits, a dash where it is undefined.

    Example:
        >>> fraction(0.8871), fraction(1.0), fraction(float("nan"))
        ('.887', '1.000', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds, or seconds.

    Example:
        >>> duration(15130), duration(125), duration(7.4)
        ('4h12', '2m05', '7s')
    """
    total = round(seconds)
    if total >= 3600:
        return f"{total // 3600}h{total % 3600 // 60:02d}"
    return f"{total // 60}m{total % 60:02d}" if total >= 60 else f"{total}s"


def significant(value: float) -> str:
    """Three significant digits, without an exponent for everyday sizes.

    Example:
        >>> significant(12.345), significant(0.00123), significant(0.0)
        ('12.3', '0.00123', '0')
    """
    return f"{value:.3g}"


def header_line(versions: Mapping[str, str], device: str, precision: str, seed: int) -> str:
    """`segfocal 0.1 · torch 2.13 · cuda:0 H100 80GB · bf16 · seed 7`."""
    parts = [f"{name} {version}" for name, version in versions.items()]
    return SEPARATOR.join([*parts, device, precision, f"seed {seed}"])


def data_line(
    name: str,
    num_train: int,
    num_val: int,
    channels: Sequence[str],
    targets: Sequence[str],
    *,
    overlapping: bool,
    note: str = "",
) -> str:
    """`data   MSD Task01: 388 train / 96 val · channels FLAIR,T1w · regions WT,TC,ET`."""
    kind = "regions" if overlapping else "classes"
    shown = list(targets[:_SHOWN]) if len(targets) > _SHOWN + 1 else list(targets)
    more = f" and {len(targets) - len(shown)} more" if len(shown) < len(targets) else ""
    parts = [
        f"data   {name}: {num_train} train / {num_val} val",
        f"channels {','.join(channels)}",
        f"{kind} {','.join(shown)}{more}",
    ]
    return SEPARATOR.join([*parts, note] if note else parts)


def files_line(
    layout: str,
    labels_from: str,
    labels: Mapping[str, int],
    *,
    ignore_values: Sequence[int] = (),
    num_partial: int = 0,
) -> str:
    """`files  brats · labels by brats23: 0 background, 3 enhancing · 2 cases annotated in part`.

    Args:
        layout: How the files lie.
        labels_from: Who says what the values mean.
        labels: Class name to file value.
        ignore_values: File values that nobody annotated.
        num_partial: Cases that were annotated for some of the classes alone.
    """
    told = [f"{value} {name}" for name, value in labels.items()]
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN + 1 else ""
    shown = ", ".join(told[:_SHOWN] if more else told)
    parts = [f"files  {layout}", f"labels by {labels_from}: {shown}{more}"]
    if ignore_values:
        parts.append(f"ignore {','.join(map(str, ignore_values))}")
    if num_partial:
        parts.append(f"{num_partial} case{'s' if num_partial > 1 else ''} annotated in part")
    return SEPARATOR.join(parts)


def doubts_line(doubts: Sequence[tuple[str, str]]) -> str:
    """`doubts forms STS_006 · empty-label c1, c2, c3 and 4 more · segfocal-stats --check ...`.

    Args:
        doubts: Kind and case of each.
    """
    cases: dict[str, list[str]] = {}
    for kind, case_id in doubts:
        cases.setdefault(kind, [])
        if case_id not in cases[kind]:
            cases[kind].append(case_id)
    parts = [
        f"{kind} {', '.join(ids[:3])}" + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
        for kind, ids in cases.items()
    ]
    parts[0] = f"doubts {parts[0]}"
    return SEPARATOR.join([*parts, "segfocal-stats --check says what to look at"])


def blank_line(blank: Sequence[tuple[str, Sequence[str]]]) -> str:
    """`doubt  one value in every voxel: c1 (T1w, T2w), c2 (T1w) and 3 more cases. Was it ...`.

    Args:
        blank: Case and names of its channels.
    """
    named = ", ".join(f"{case_id} ({', '.join(names)})" for case_id, names in blank[:4])
    left = len(blank) - 4
    more = f" and {left} more case{'s' if left > 1 else ''}" if left > 0 else ""
    return (
        f"doubt  one value in every voxel: {named}{more}. Was it converted wrongly? "
        f"segfocal-stats --check tells of each."
    )


def alpha_line(
    scheme: str,
    alpha: Mapping[str, float],
    *,
    num_cases: int | None = None,
    ignore_values: Sequence[int] = (),
    ignored_fraction: float | None = None,
) -> str:
    """`alpha  balanced, from 388 cases: WT .12 TC .34 · ignore 255: 0.4% of voxels`."""
    source = scheme if num_cases is None else f"{scheme}, from {num_cases} cases"
    weights = " ".join(f"{name} {significant(value)}" for name, value in alpha.items())
    line = f"alpha  {source}: {weights}" if weights else f"alpha  {source}"
    if ignore_values:
        values = ",".join(str(value) for value in ignore_values)
        share = "" if ignored_fraction is None else f": {100 * ignored_fraction:.1f}% of voxels"
        line += f"{SEPARATOR}ignore {values}{share}"
    return line


def loss_text(loss: float, terms: Mapping[str, float]) -> str:
    """`loss 0.412 (focal .021 dice .391)`."""
    parts = " ".join(f"{name} {fraction(value)}" for name, value in terms.items())
    return f"loss {loss:.3f} ({parts})" if parts else f"loss {loss:.3f}"


def epoch_line(
    record: EpochRecord,
    num_epochs: int | None,
    *,
    memory_gb: float | None = None,
    eta_s: float | None = None,
) -> str:
    """`epoch  12/300 loss 0.412 (focal .021 dice .391) lr 1.0e-04 3.1 it/s 6.8 GB ETA 4h12`."""
    parts = [
        epoch_label(record.epoch, num_epochs),
        loss_text(record.loss, record.terms),
        f"lr {record.lr:.1e}",
        pace_text(record.steps_per_s, memory_gb=memory_gb, eta_s=eta_s),
    ]
    return " ".join(parts)


def epoch_label(epoch: int, num_epochs: int | None) -> str:
    """`epoch  12/300`, right-aligned so that lines stand under each other."""
    if num_epochs is None:
        return f"epoch {epoch:>4}"
    return f"epoch {epoch:>{max(3, len(str(num_epochs)))}}/{num_epochs}"


def pace_text(
    steps_per_s: float, *, memory_gb: float | None = None, eta_s: float | None = None
) -> str:
    """`3.1 it/s 6.8 GB ETA 4h12`; seconds per step where a step takes longer than one."""
    pace = (
        f"{steps_per_s:.1f} it/s" if steps_per_s >= 1 else f"{1 / max(steps_per_s, 1e-9):.1f} s/it"
    )
    parts = [pace]
    if memory_gb is not None:
        parts.append(f"{memory_gb:.1f} GB")
    if eta_s is not None:
        parts.append(f"ETA {duration(eta_s)}")
    return " ".join(parts)


def val_text(summary: Mapping[str, RegionSummary], mean: float, *, best: bool) -> str:
    """`WT .887 TC .801 mean .844 best | TC lesions found 71/88, 19 FP | n=96, 4 without TC`.

    Lesions are those of the last region, the innermost. A region that some case lacks is named
    at the end, and so are the cases where the model predicted it all the same (Dice 0).
    """
    dice = " ".join(f"{name} {fraction(region.dice)}" for name, region in summary.items())
    scores = f"{dice} mean {fraction(mean)}" if len(summary) > 1 else dice
    name, inner = list(summary.items())[-1]
    lesions = (
        f"{name} lesions found {inner.lesions_found}/{inner.lesions}, {inner.false_positives} FP"
    )
    return f"{scores}{' best' if best else ''} | {lesions} | {cases_text(summary)}"


def cases_text(summary: Mapping[str, RegionSummary]) -> str:
    """`n=96, 4 without ET (1 false alarm)`."""
    parts = [f"n={next(iter(summary.values())).n}"] if summary else ["n=0"]
    for name, region in summary.items():
        if region.n_empty:
            alarms = region.n_false_alarm
            plural = "s" if alarms > 1 else ""
            alarm = f" ({alarms} false alarm{plural})" if alarms else ""
            parts.append(f"{region.n_empty} without {name}{alarm}")
    return ", ".join(parts)
