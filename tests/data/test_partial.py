from pathlib import Path

import numpy as np
import pytest

from segfocal.data.cases import Case
from segfocal.data.partial import (
    annotated_outputs,
    annotated_parts,
    annotated_targets,
    check_annotated,
    declare_partial,
)
from segfocal.errors import UserError
from segfocal.labels import LabelScheme

ORGANS = LabelScheme(("background", "liver", "spleen", "kidney"), (0, 5, 7, 9))
BRATS = LabelScheme.preset("brats18-22")


def case(case_id, annotated=None, source=""):
    return Case(case_id, (Path("i"),), Path("l"), annotated, source)


def line(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_everything_is_annotated_unless_something_is_said():
    assert annotated_outputs(ORGANS, None) == (True,) * 4
    assert annotated_targets(ORGANS, None) == (True,) * 3
    assert annotated_outputs(BRATS, None) == annotated_targets(BRATS, None) == (True,) * 3


def test_background_is_known_wherever_a_class_is():
    assert annotated_outputs(ORGANS, ("kidney", "liver")) == (True, True, False, True)
    assert annotated_targets(ORGANS, ("kidney", "liver")) == (True, False, True)


T, F = True, False


@pytest.mark.parametrize(
    ("scheme", "annotated", "background", "classes", "regions"),
    [
        (ORGANS, None, T, (T, T, T), ()),
        (ORGANS, ("kidney", "liver"), F, (T, F, T), ()),
        (ORGANS, ("kidney", "liver", "spleen"), T, (T, T, T), ()),
        (BRATS, None, T, (T, T, T), (T, T, T)),
        (BRATS, ("WT",), T, (F, F, F), (T, F, F)),
        (BRATS, ("ET",), F, (F, F, T), (F, F, T)),
        (BRATS, ("TC", "oedema"), T, (F, T, F), (F, T, F)),
    ],
)
def test_background_is_told_where_the_named_ones_hold_every_class(
    scheme, annotated, background, classes, regions
):
    assert annotated_parts(scheme, annotated) == (background, *classes, *regions)


def test_a_region_is_known_by_its_name_or_by_all_its_classes():
    assert annotated_outputs(BRATS, ("WT",)) == (True, False, False)
    assert annotated_outputs(BRATS, ("enhancing",)) == (False, False, True)
    assert annotated_outputs(BRATS, ("enhancing", "necrotic core")) == (False, True, True)
    assert annotated_outputs(BRATS, ("WT", "enhancing")) == (True, False, True)


def test_names_that_are_none_are_refused():
    assert line(annotated_outputs, ORGANS, ("livr",)) == (
        "annotated: 'livr' is neither a class nor a region. Did you mean liver?"
    )
    assert line(annotated_outputs, ORGANS, ("xyz",)) == (
        "annotated: 'xyz' is neither a class nor a region. Known: liver, spleen, kidney."
    )
    assert line(annotated_outputs, BRATS, ("oedema",)).startswith(
        "annotated: oedema leaves no output to learn from. Expected at least one of WT, TC, ET"
    )
    assert line(annotated_outputs, ORGANS, ()).startswith("annotated: nothing leaves no output")


def test_a_label_that_holds_what_nobody_looked_for_is_refused():
    classes = np.array([0, 1, 2, 255], np.uint8)
    check_annotated(case("c"), classes, ORGANS)
    check_annotated(case("c", ("liver", "spleen")), classes, ORGANS)
    assert line(check_annotated, case("c", ("liver",)), classes, ORGANS) == (
        "label holds spleen (7), but the case is declared annotated for liver alone. Add spleen "
        "there, or mend the label."
    )
    whole = np.array([0, 1, 2, 3], np.uint8)
    check_annotated(case("c", ("WT",)), whole, BRATS)
    assert "label holds oedema (2)" in line(check_annotated, case("c", ("TC",)), whole, BRATS)


def test_cases_are_declared_by_id_pattern_or_source():
    cases = (case("btcv_1"), case("btcv_2"), case("x"), case("y", source="lits"), case("z"))
    partial = {"btcv_*": ["spleen", "liver"], "lits": ["liver"], "z": ["kidney"]}
    declared = declare_partial(cases, partial, ORGANS)
    assert [c.annotated for c in declared] == [
        ("spleen", "liver"),
        ("spleen", "liver"),
        None,
        ("liver",),
        ("kidney",),
    ]
    assert declare_partial(cases, {}, ORGANS) == cases


@pytest.mark.parametrize(
    ("partial", "message"),
    [
        ({"kits_*": ["kidney"]}, "data.partial: kits_*: meets no case. Expected an id, a pattern"),
        ({"a*": ["liver"], "a1": ["liver"]}, "data.partial: a* and a1 both meet a1. Keep one."),
        ({"a1": ["lever"]}, "data.partial: a1: annotated: 'lever' is neither a class nor a region"),
        ({"b1": ["liver"]}, "data.partial: b1: b1 is declared annotated for spleen by the list."),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(partial, message):
    cases = (case("a1"), case("b1", ("spleen",)))
    assert line(declare_partial, cases, partial, ORGANS).startswith(message)


def test_what_the_list_declares_is_checked_too():
    assert line(declare_partial, (case("a1", ("lever",)),), {}, ORGANS).startswith(
        "a1: annotated: 'lever' is neither a class nor a region."
    )
