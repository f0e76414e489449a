"""Partial labels from the declaration to the gradient, the score and the table."""

import csv
import json

import numpy as np
import pytest
import torch
from monai.transforms.compose import Compose
from torch.nn import functional as F

from segfocal.checkpoint import load_checkpoint
from segfocal.config.schema import LossConfig
from segfocal.errors import UserError
from segfocal.labels import IGNORE_CLASS, LabelScheme
from segfocal.training import learner
from segfocal.training.learner import annotation_mask
from segfocal.training.losses import loss_terms, make_loss
from segfocal.training.patches import PatchDataset
from tests.runs import tiny_run

REGIONS = LabelScheme.preset("msd-task01")
CLASSES = LabelScheme(("background", "liver", "spleen", "kidney"), (0, 1, 2, 3))
SHAPE = (4, 5, 6)


def batch(scheme, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, scheme.num_outputs, *SHAPE, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 4, (2, 1, *SHAPE), generator=generator, dtype=torch.uint8)
    label[0, :, 0] = IGNORE_CLASS
    return logits.requires_grad_(), label


def gradient(logits, value):
    (found,) = torch.autograd.grad(value, logits)
    return found


@pytest.mark.parametrize("name", ["DiceFocalLoss", "DiceLoss", "FocalLoss"])
def test_a_region_nobody_looked_for_gets_no_gradient(name):
    terms = loss_terms(make_loss(LossConfig(name=name), REGIONS, None))
    logits, label = batch(REGIONS)
    annotated = torch.tensor([[True, False, False], [True, True, True]])
    value = terms(logits, label, annotation_mask(annotated, logits))["loss"]
    found = gradient(logits, value)
    assert (found[0, 1:] == 0).all()
    assert (found[0, 0, 1:] != 0).all()
    assert (found[1] != 0).all()


def test_what_lies_in_the_label_of_such_a_region_changes_nothing():
    terms = loss_terms(make_loss(LossConfig(), REGIONS, None))
    logits, label = batch(REGIONS)
    whole_alone = torch.where((label > 0) & (label < 4), 1, label)
    annotated = torch.tensor([[True, False, False], [True, False, False]])
    mask = annotation_mask(annotated, logits)
    assert torch.equal(terms(logits, label, mask)["loss"], terms(logits, whole_alone, mask)["loss"])


def test_regions_are_the_binary_loss_of_the_annotated_ones_alone():
    """gamma 0: the mean of torch's own binary cross-entropy over valid voxels."""
    config = LossConfig(name="FocalLoss", gamma=0.0)
    terms = loss_terms(make_loss(config, REGIONS, None))
    logits, label = batch(REGIONS)
    annotated = torch.tensor([[True, False, True], [False, True, False]])
    value = terms(logits, label, annotation_mask(annotated, logits))["loss"]
    losses = []
    for case, row in enumerate(annotated.tolist()):
        for channel, members in enumerate(REGIONS.target_classes):
            if row[channel]:
                target = torch.isin(label[case, 0], torch.tensor(members, dtype=torch.uint8))
                every = F.binary_cross_entropy_with_logits(
                    logits[case, channel], target.double(), reduction="none"
                )
                losses.append(every[label[case, 0] != IGNORE_CLASS])
    assert value.item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-12)


def test_classes_are_the_cross_entropy_over_the_annotated_ones_alone():
    """gamma 0: torch's cross-entropy on the logits of the annotated classes, case by case."""
    config = LossConfig(name="FocalLoss", gamma=0.0)
    terms = loss_terms(make_loss(config, CLASSES, None))
    logits, label = batch(CLASSES)
    label[0][label[0] == 2] = 0  # a case that nobody looked for spleens in holds none
    annotated = torch.tensor([[True, True, False, True], [True, True, True, True]])
    value = terms(logits, label, annotation_mask(annotated, logits))["loss"]
    first = label[0, 0].long()
    renumbered = torch.where(first == 3, 2, first)
    sums = [
        F.cross_entropy(logits[:1, [0, 1, 3]], renumbered[None], ignore_index=IGNORE_CLASS,
                        reduction="sum"),
        F.cross_entropy(logits[1:], label[1:, 0].long(), reduction="sum"),
    ]  # fmt: skip
    voxels = (label != IGNORE_CLASS).sum()
    assert value.item() == pytest.approx((sum(sums) / voxels).item(), rel=1e-12)
    assert (gradient(logits, value)[0, 2] == 0).all()


def test_the_mask_takes_no_memory_and_is_left_out_where_all_is_annotated():
    logits = torch.zeros(2, 3, 8, 8, 8)
    annotated = torch.tensor([[True, False, True], [True, True, True]])
    mask = annotation_mask(annotated, logits)
    assert mask.shape == logits.shape
    assert mask.untyped_storage().nbytes() == 6
    assert annotation_mask(torch.ones(2, 3, dtype=torch.bool), logits) is None
    assert annotation_mask(None, logits) is None


def test_a_patch_carries_what_its_case_was_annotated_for():
    cases = [
        {"image": torch.zeros(1, 2, 2, 2), "label": torch.zeros(1, 2, 2, 2), "case_id": name}
        for name in "ab"
    ]
    partial = PatchDataset(cases, Compose([]), seed=0, annotated=[(True, False), (True, True)])
    assert partial[0, 0, 0]["annotated"].tolist() == [True, False]
    assert partial[0, 0, 1]["annotated"].tolist() == [True, True]
    whole = PatchDataset(cases, Compose([]), seed=0, annotated=[(True, True)] * 2)
    assert "annotated" not in whole[0, 0, 0]


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("partial") / "run"
    split = out.parent / "split.json"
    ids = sorted(path.name[:11] for path in (phantom / "labelsTr").glob("*.nii.gz"))
    split.write_text(json.dumps({"train": ids[:4], "val": ids[4:]}))
    partial = f"data.partial={{{ids[0]}: [WT], {ids[1]}: [WT, TC], {ids[5]}: [WT]}}"
    masks = []

    def recorded(annotated, logits):
        mask = annotation_mask(annotated, logits)
        masks.append(mask if mask is None else mask.flatten(2).any(2))
        return mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "annotation_mask", recorded)
        tiny_run(phantom, out, f"data.split={split}", partial, "train.batch_size=4")
    return out, ids, masks


def test_a_run_masks_what_was_not_annotated(run):
    """A batch of four has each training case once."""
    _, _, masks = run
    assert len(masks) == 4
    for mask in masks:
        assert sorted(mask.tolist()) == [
            [True, False, False],
            [True, True, False],
            [True, True, True],
            [True, True, True],
        ]


def test_a_run_says_how_many_cases_were_annotated_in_part(run):
    out, _, _ = run
    assert " · 3 cases annotated in part\n" in (out / "log.txt").read_text()


def test_a_run_scores_only_what_was_annotated(run):
    out, ids, _ = run
    rows = list(csv.DictReader((out / "val_cases.csv").read_text().splitlines()))
    scored = {(row["case"], row["region"]): row["ref_voxels"] != "" for row in rows}
    assert scored == {
        **{(ids[4], region): True for region in ("WT", "TC", "ET")},
        (ids[5], "WT"): True,
        (ids[5], "TC"): False,
        (ids[5], "ET"): False,
    }
    assert all(row["dice"] == row["lesions"] == "" for row in rows if row["ref_voxels"] == "")
    assert "not annotated" in (out / "report.html").read_text()


def test_a_run_records_what_was_annotated(run):
    out, ids, _ = run
    data = json.loads((out / "stats.json").read_text())["data"]
    assert data["annotated"] == {ids[0]: ["WT"], ids[1]: ["WT", "TC"], ids[5]: ["WT"]}
    assert (data["layout"], data["labels_from"]) == ("msd", "data.labels: msd-task01")
    assert "3 cases annotated in part" in (out / "log.txt").read_text()


def test_alpha_of_a_region_comes_from_the_cases_annotated_for_it(run):
    out, ids, _ = run
    stats = json.loads((out / "stats.json").read_text())
    cases = stats["counts"]["cases"]
    members = {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}
    known = {"WT": ids[:4], "TC": ids[1:4], "ET": ids[2:4]}
    for name, weight in zip(stats["alpha"]["names"], stats["alpha"]["weights"], strict=True):
        rows = np.array([cases[case_id][:-1] for case_id in known[name]])
        share = rows[:, list(members[name])].sum() / rows.sum()
        positives, negatives = 1 / share, 1 / (1 - share)
        ratio = min(positives / negatives, 3.0)  # alpha_max_ratio of the phantom's config
        assert weight == pytest.approx(ratio / (1 + ratio))
    assert load_checkpoint(out / "last.pt").alpha["options"]["annotated"] == "by region"


def test_a_region_that_no_training_case_was_annotated_for_is_refused(phantom, tmp_path):
    with pytest.raises(UserError) as caught:
        tiny_run(phantom, tmp_path / "run", "data.partial={PHANTOM_*: [WT, TC]}", dry_run=True)
    assert str(caught.value) == (
        "No training case is annotated for ET: nothing to learn it from. Change the split, drop ET "
        "from data.labels, or mend data.partial."
    )
