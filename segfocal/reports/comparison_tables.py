"""What `segfocal-compare` prints: a table for each measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from rich import box
from rich.table import Table

from segfocal.metrics.comparison_measures import Measure
from segfocal.metrics.method_comparison import MEAN, ClassComparison, Difference
from segfocal.metrics.patient_sums import Estimate
from segfocal.reports.evaluation_tables import millimetres
from segfocal.reports.text import fraction

_NONE = "-"


def comparison_table(
    measure: Measure, classes: Mapping[str, ClassComparison], baseline: str, level: float
) -> Table:
    """One measure: each method of each class, and how far it is from the baseline."""
    percent = f"{100 * level:g}% CI"
    better = "higher" if measure.higher_is_better else "lower"
    is_alone = not any(one.differences for one in classes.values())
    title = f"{measure.title} ({better} is better)"
    table = Table(
        title=title if is_alone else f"{title}, differences from {baseline}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("\nclass", overflow="fold", min_width=4)
    table.add_column("\nmethod", overflow="fold", min_width=6)
    headings = [f"\n{percent}", "differ-\nence", f"\n{percent}", "better:\nworse", "p\n(Holm)"]
    if is_alone:
        headings = headings[:1]
    for heading in ("\ncases", "\nvalue", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    tell = number_teller(measure)
    for name, one in classes.items():
        if name == MEAN:
            table.add_section()
        first = True
        for method, value in one.values.items():
            beside = one.differences.get(method)
            cells = [] if beside is None else _beside(beside, tell, shows_cases=name != MEAN)
            table.add_row(
                name.removesuffix(" of classes") if first else "",
                method,
                str(one.num_cases) if first and name != MEAN else "",
                tell(value.value),
                _interval(value, tell),
                *cells,
            )
            first = False
    return table


def number_teller(measure: Measure) -> Callable[[float], str]:
    """How numbers of the measure are written."""
    return {"fraction": fraction, "mm": millimetres, "count": millimetres}[measure.unit]


def signed(value: float, tell: Callable[[float], str]) -> str:
    """A difference with its sign.

    Example:
        >>> signed(0.0291, fraction), signed(-1.5, millimetres), signed(math.nan, fraction)
        ('+.029', '-1.50', '-')
    """
    if math.isnan(value):
        return _NONE
    text = tell(abs(value))
    return text if text == tell(0.0) else ("-" if value < 0 else "+") + text


def p_text(p_value: float) -> str:
    """A p-value.

    Example:
        >>> p_text(0.0004), p_text(0.0312), p_text(1.0), p_text(math.nan)
        ('<.001', '.031', '1.000', '-')
    """
    return "<.001" if p_value < 0.001 else fraction(p_value)


def _beside(one: Difference, tell: Callable[[float], str], *, shows_cases: bool) -> tuple[str, ...]:
    far = one.estimate
    return (
        signed(far.value, tell),
        _interval(far, lambda value: signed(value, tell)),
        f"{one.better}:{one.worse}" if shows_cases else "",
        p_text(one.p_adjusted),
    )


def _interval(of: Estimate, tell: Callable[[float], str]) -> str:
    return _NONE if math.isnan(of.low) else f"{tell(of.low)} {tell(of.high)}"
