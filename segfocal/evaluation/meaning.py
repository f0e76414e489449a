"""What the label values mean, and who says so: the run, a config, a dataset.json or the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segfocal.config.load import LoadedConfig
from segfocal.data.defects import DefectError
from segfocal.data.label_values import count_label_values
from segfocal.data.layouts.descriptor import FILE_NAME, Descriptor, told_scheme
from segfocal.errors import UserError
from segfocal.evaluation.label_files import nearby_descriptor
from segfocal.evaluation.references import References, ignore_values
from segfocal.files import read_json
from segfocal.labels import IGNORE_CLASS, LabelScheme

_OVERRIDES = ("data.labels", "data.regions_class_order", "loss.ignore_index")


def declared_scheme(
    loaded: LoadedConfig,
    config: Path | None,
    references: References,
    places: Sequence[Path],
) -> tuple[LabelScheme | None, str]:
    """The scheme that somebody declared; None where nobody did.

    In this order: what is set by `--set` or in the config; what the run beside config.yaml was
    trained with (its stats.json); the data set of the references; a dataset.json in or above one of
    `places`; the data set that the config trains on.

    Args:
        loaded: The config.
        config: Its file; None without one.
        references: The references, with the scheme of their data set.
        places: Folders of references and predictions, in this order.

    Raises:
        UserError: If a declaration contradicts itself.
    """
    data = loaded.config.data
    ignore = ignore_values(loaded)
    overridden = any(loaded.lines.get(name) == "--set" for name in _OVERRIDES)
    if config is not None and not overridden:
        trained = _scheme_of_run(config.parent)
        if trained is not None:
            return trained, str(config.parent / "stats.json")
    if data.labels is not None:
        if data.labels == "auto":
            return None, ""
        told = told_scheme(data.labels, data.regions_class_order, ignore)
        who = f"data.labels: {data.labels}" if isinstance(data.labels, str) else "data.labels"
        return told.ignoring(ignored_near(places[0])), who
    if references.scheme is not None:
        return references.scheme, references.labels_from
    descriptors = [nearby_descriptor(place) for place in places]
    if config is not None and (data.root / FILE_NAME).is_file():
        descriptors.append(Descriptor.read(data.root))
    for descriptor in descriptors:
        if descriptor is not None:
            return descriptor.scheme(None, None, ignore), str(descriptor.path)
    return None, ""


def ignored_near(folder: Path) -> tuple[int, ...]:
    """The values that a dataset.json in or above a folder of references calls `ignore`."""
    descriptor = nearby_descriptor(folder)
    return () if descriptor is None else descriptor.ignored


def scheme_of_files(paths: Sequence[Path], ignore: Sequence[int], max_voxels: int) -> LabelScheme:
    """A class for every value > 0 in any of the files; those that cannot be read say nothing here.

    Args:
        paths: Label files, references and predictions.
        ignore: Values that are no class.
        max_voxels: Voxels of a file above which its header is not believed.

    Raises:
        UserError: If there is no such value, one is negative, or there are more than 254.
    """
    found: set[int] = set()
    for path in paths:
        try:
            found.update(count_label_values(path, max_voxels=max_voxels).values.tolist())
        except DefectError:
            continue
    classes = sorted(found - {0} - set(ignore))
    if not classes or classes[0] < 0 or len(classes) >= IGNORE_CLASS:
        shown = ",".join(map(str, classes[:8])) + (",..." if len(classes) > 8 else "")
        raise UserError(
            f"the label files hold {len(classes)} values besides 0 ({shown or 'none'}). Expected 1 "
            f"to {IGNORE_CLASS - 1} of them, all > 0; declare them: --set "
            f"'data.labels={{background: 0, lesion: 1}}', and what nobody annotated: --set "
            f"loss.ignore_index=-1."
        )
    named = {f"label {value}": value for value in classes}
    return LabelScheme.from_mapping({"background": 0, **named}, None, ignore)


def _scheme_of_run(folder: Path) -> LabelScheme | None:
    """The scheme in a run's stats.json; None where this is no run."""
    if not (folder / "stats.json").is_file() or not (folder / "split.json").is_file():
        return None
    counts = read_json(folder / "stats.json").get("counts")
    if not isinstance(counts, dict) or "scheme" not in counts:
        return None
    return LabelScheme.from_dict(counts["scheme"])
