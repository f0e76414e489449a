"""Partial labels: what a case says nothing of, because nobody looked for it there.

A case names what it was annotated for: classes, or regions where there are regions. A voxel that is
background in its label file may then hold any of the others. Of a class that nobody annotated the
case says nothing: it is masked out of the loss, not scored, and not counted.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from segfocal.data.cases import Case, naming
from segfocal.data.defects import DefectError
from segfocal.errors import UserError
from segfocal.labels import ClassMap, LabelScheme


def annotated_outputs(scheme: LabelScheme, annotated: Collection[str] | None) -> tuple[bool, ...]:
    """For each network output, whether a case says anything of it.

    With regions: those that are named, and those all of whose classes are. Without: background,
    and the classes that are named.

    Args:
        scheme: What label values mean.
        annotated: Names of classes or regions; None for a case that was annotated for everything.

    Returns:
        One bool for each of `scheme.output_names`: a row of the loss's mask `(B, C, *S)`.

    Raises:
        UserError: If a name is neither a class nor a region, or no output is left.

    Example:
        >>> scheme = LabelScheme(("background", "liver", "spleen"), (0, 1, 2))
        >>> annotated_outputs(scheme, ("spleen",))
        (True, False, True)
    """
    if annotated is None:
        return (True,) * scheme.num_outputs
    targets = annotated_targets(scheme, annotated)
    return targets if scheme.regions else (True, *targets)


def annotated_targets(scheme: LabelScheme, annotated: Collection[str] | None) -> tuple[bool, ...]:
    """As `annotated_outputs`, for each of `scheme.target_names`."""
    if annotated is None:
        return (True,) * len(scheme.target_names)
    known = (*scheme.names[1:], *(region.name for region in scheme.regions))
    for name in annotated:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            cure = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
            raise UserError(f"annotated: {name!r} is neither a class nor a region. {cure}")
    classes = {scheme.names.index(name) for name in annotated if name in scheme.names}
    if scheme.regions:
        known_targets = tuple(
            region.name in annotated or classes.issuperset(region.classes)
            for region in scheme.regions
        )
    else:
        known_targets = tuple(index in classes for index in range(1, scheme.num_classes))
    if not any(known_targets):
        raise UserError(
            f"annotated: {', '.join(annotated) or 'nothing'} leaves no output to learn from. "
            f"Expected at least one of {', '.join(scheme.target_names)}, or take the case out by "
            f"data.exclude."
        )
    return known_targets


def annotated_parts(scheme: LabelScheme, annotated: Collection[str] | None) -> tuple[bool, ...]:
    """For each class, background first, then each region: whether a case tells its voxels.

    A class is told where it is named, or a region of it alone is; a region as in
    `annotated_targets`. Background is what is left where the named ones hold every class:
    elsewhere a voxel labelled 0 may be anything that nobody looked for.

    Args:
        scheme: What label values mean.
        annotated: As in `annotated_outputs`.

    Raises:
        UserError: As `annotated_outputs`.

    Example:
        >>> scheme = LabelScheme(("background", "liver", "spleen"), (0, 1, 2))
        >>> annotated_parts(scheme, ("spleen",))
        (False, False, True)
    """
    if annotated is None:
        return (True,) * (scheme.num_classes + len(scheme.regions))
    members = {name: {index} for index, name in enumerate(scheme.names) if index}
    members |= {region.name: set(region.classes) for region in scheme.regions}
    targets = annotated_targets(scheme, annotated)
    named = [members[name] for name in annotated]
    told = set().union(*named)
    classes = [{index} in named for index in range(1, scheme.num_classes)]
    background = told == set(range(1, scheme.num_classes))
    return (background, *classes, *(targets if scheme.regions else ()))


def check_annotated(case: Case, classes: ClassMap, scheme: LabelScheme) -> None:
    """Refuses a label that holds what its case is declared not to be annotated for.

    Args:
        case: The case.
        classes: The class indices in its label: every voxel's, or each once.
        scheme: What they mean.

    Raises:
        DefectError: Naming the class and the declaration.
    """
    if case.annotated is None:
        return
    targets = annotated_targets(scheme, case.annotated)
    said = {
        index
        for members, is_annotated in zip(scheme.target_classes, targets, strict=True)
        if is_annotated
        for index in members
    }
    for index in range(1, scheme.num_classes):
        if index not in said and np.any(classes == index):
            raise DefectError(
                f"label holds {scheme.names[index]} ({scheme.values[index]}), but the case is "
                f"declared annotated for {', '.join(case.annotated)} alone. Add "
                f"{scheme.names[index]} there, or mend the label.",
                "undeclared-label",
            )


def declare_partial(
    cases: Sequence[Case], partial: Mapping[str, Sequence[str]], scheme: LabelScheme
) -> tuple[Case, ...]:
    """The cases with what `data.partial` declares about them.

    Args:
        cases: The cases.
        partial: A case's id, a pattern of ids (`btcv_*`) or a source of the list, to the names of
            what those cases were annotated for.
        scheme: What label values mean.

    Raises:
        UserError: If a key meets no case, two meet one case, the list declares the same case, or
            a name is unknown.
    """
    met: dict[str, str] = {}
    for key, names in partial.items():
        found = [c.case_id for c in cases if c.source == key or fnmatch.fnmatchcase(c.case_id, key)]
        if not found:
            raise UserError(
                f"data.partial: {key}: meets no case. Expected an id, a pattern of ids such as "
                f"{cases[0].case_id[:4]}*, or a source of the list."
            )
        for case_id in found:
            if case_id in met:
                raise UserError(
                    f"data.partial: {met[case_id]} and {key} both meet {case_id}. Keep one."
                )
            met[case_id] = key
        with naming(f"data.partial: {key}"):
            annotated_targets(scheme, names)
    declared = []
    for case in cases:
        if case.case_id in met and case.annotated is not None:
            raise UserError(
                f"data.partial: {met[case.case_id]}: {case.case_id} is declared annotated for "
                f"{', '.join(case.annotated)} by the list. Keep one."
            )
        by = met.get(case.case_id)
        declared.append(
            case if by is None else dataclasses.replace(case, annotated=tuple(partial[by]))
        )
    for case in declared:
        with naming(case.case_id):
            annotated_targets(scheme, case.annotated)
    return tuple(declared)
