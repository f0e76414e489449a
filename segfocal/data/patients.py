"""Which cases are scans of one patient: they train together or validate together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from segfocal.errors import UserError

_PATIENT = "{patient}"
_BIDS = "{patient}_ses-*"


def patients_of(
    case_ids: Sequence[str], pattern: str | None, *, layout: str = ""
) -> dict[str, str]:
    """The patient of each case, read off its id.

    Args:
        case_ids: Ids of the cases.
        pattern: What an id looks like: `{patient}` stands for the patient, `*` for anything, as in
            `{patient}_T*`. None takes each case for a patient, and in BIDS the subject for one.
        layout: Layout of the data set.

    Raises:
        UserError: If the pattern has not one `{patient}`, or an id does not fit it.

    Example:
        >>> patients_of(["P1_T1", "P1_T2", "P2_T1"], "{patient}_T*")
        {'P1_T1': 'P1', 'P1_T2': 'P1', 'P2_T1': 'P2'}
    """
    if pattern is None:
        if layout != "bids":
            return {case_id: case_id for case_id in case_ids}
        rule = _compiled(_BIDS)
        found = {case_id: rule.fullmatch(case_id) for case_id in case_ids}
        return {case_id: match["patient"] if match else case_id for case_id, match in found.items()}
    rule = _compiled(pattern)
    patients = {}
    for case_id in case_ids:
        match = rule.fullmatch(case_id)
        if match is None:
            raise UserError(
                f"{case_id} does not fit {pattern}. Write it as the case ids "
                f"look, as {{patient}}_T*, or set it to null where every case is a patient."
            )
        patients[case_id] = match["patient"]
    return patients


def _compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression; each part is as short as the rest allows."""
    if pattern.count(_PATIENT) != 1:
        raise UserError(f"expected {{patient}} once, as in {{patient}}_T*, got {pattern}.")
    parts = re.split(r"(\{patient\}|\*)", pattern)
    meaning = {_PATIENT: "(?P<patient>.+?)", "*": ".*?"}
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))
