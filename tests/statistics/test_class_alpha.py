import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from segfocal.errors import SegfocalWarning, UserError
from segfocal.labels import LabelScheme
from segfocal.statistics.class_alpha import ClassAlpha, class_alpha, region_alpha
from segfocal.statistics.class_weights import SCHEMES
from segfocal.statistics.voxel_counts import VoxelCounts

THREE = LabelScheme(("background", "oedema", "core"), (0, 1, 2), ignore_values=(9,))
BRATS = LabelScheme.preset("brats23", ignore_values=(9,))


def counts_of(rows, scheme=THREE):
    """Counts from voxels per case and class, the ignored ones last."""
    cases = {f"c{i}": list(row) for i, row in enumerate(rows)}
    return VoxelCounts.from_dict({"scheme": scheme.to_dict(), "cases": cases})


# Background, oedema, core, ignored. The core is in the second case only.
ROWS = [[700, 300, 0, 24], [1800, 150, 50, 0]]


def test_balanced_equals_scikit_learn_on_the_voxels_themselves():
    labels = np.repeat([0, 1, 2], [2500, 450, 50])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    got = class_alpha(counts_of(ROWS), "balanced", normalize="none").weights
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    scaled = class_alpha(counts_of(ROWS), "balanced").weights
    np.testing.assert_allclose(scaled, expected / expected.mean(), rtol=1e-12)


def test_ignored_voxels_change_no_weight():
    without = [[*row[:3], 0] for row in ROWS]
    for scheme in SCHEMES:
        assert class_alpha(counts_of(ROWS), scheme).weights == (
            class_alpha(counts_of(without), scheme).weights
        )


def test_median_frequency_leaves_out_the_volumes_without_the_class():
    # freq: 2500/3000, 450/3000, 50/2000; the median is .15.
    got = class_alpha(counts_of(ROWS), "median_frequency", normalize="none").weights
    np.testing.assert_allclose(got, [0.15 / (2500 / 3000), 1.0, 0.15 / 0.025], rtol=1e-12)


def test_counting_volumes_weighs_by_the_cases_that_hold_the_class():
    # Held by 2, 2 and 1 of the 2 cases: N = 5, C = 3.
    got = class_alpha(counts_of(ROWS), "balanced", unit="volumes", normalize="none").weights
    np.testing.assert_allclose(got, [5 / 6, 5 / 6, 5 / 3], rtol=1e-12)


def test_effective_number_of_volumes_derives_beta_from_the_number_of_cases():
    alpha = class_alpha(counts_of(ROWS), "effective_number", unit="volumes", normalize="none")
    assert alpha.options["beta"] == 0.5
    # E_n = 1 + beta + ...: 1.5 for two volumes, 1 for one.
    np.testing.assert_allclose(alpha.weights, [1 / 1.5, 1 / 1.5, 1.0], rtol=1e-12)


@pytest.mark.parametrize("beta", [0.99, 0.999, 0.9999])
def test_effective_number_warns_where_voxel_counts_saturate_beta(beta):
    rows = [[9_000_000, 90_000, 100_000, 0]] * 3
    with pytest.warns(SegfocalWarning, match=r"saturates: beta 0\.99.* Leave beta out, or count"):
        alpha = class_alpha(counts_of(rows), "effective_number", beta=beta)
    np.testing.assert_allclose(alpha.weights, [1, 1, 1], rtol=1e-3)


@pytest.mark.parametrize("rows", [[[90_000, 90_000, 90_000, 0]], [[130_000, 90_000, 100_000, 0]]])
def test_equal_weights_of_like_counts_are_no_reason_to_warn(rows):
    alpha = class_alpha(counts_of(rows), "effective_number", beta=0.99)
    np.testing.assert_allclose(alpha.weights, [1, 1, 1], rtol=1e-3)


def test_a_beta_that_tells_the_counts_apart_is_no_reason_to_warn():
    alpha = class_alpha(counts_of([[9_000_000, 2_000, 2_000, 0]]), "effective_number", beta=0.999)
    assert alpha.weights[1] / alpha.weights[0] == pytest.approx(1 / (1 - 0.999**2000))
    assert 1.1 < alpha.weights[1] / alpha.weights[0] < 1.2


def test_effective_number_without_beta_does_not_warn_and_tells_classes_apart():
    alpha = class_alpha(counts_of([[9_000_000, 100_000, 1_000, 0]]), "effective_number")
    assert alpha.weights[2] > 50 * alpha.weights[1] > 50 * alpha.weights[0]
    assert alpha.options["beta"] == 1 - 1 / 9_101_000


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("normalize", "total"), [("mean", 3.0), ("sum", 1.0)])
def test_weights_are_normalised_without_changing_their_ratios(scheme, normalize, total):
    raw = class_alpha(counts_of(ROWS), scheme, normalize="none").weights
    scaled = class_alpha(counts_of(ROWS), scheme, normalize=normalize).weights
    assert sum(scaled) == pytest.approx(total)
    np.testing.assert_allclose(np.divide(scaled, scaled[0]), np.divide(raw, raw[0]), rtol=1e-12)


def test_the_cap_cuts_large_weights_to_the_ratio_and_leaves_the_others():
    free = class_alpha(counts_of(ROWS), "balanced", normalize="none").weights
    capped = class_alpha(counts_of(ROWS), "balanced", normalize="none", max_ratio=10).weights
    assert free[2] / free[0] == pytest.approx(50)
    np.testing.assert_allclose(capped, [free[0], free[1], 10 * free[0]], rtol=1e-12)
    level = class_alpha(counts_of(ROWS), "balanced", max_ratio=1).weights
    np.testing.assert_allclose(level, [1, 1, 1], rtol=1e-12)
    scaled = class_alpha(counts_of(ROWS), "balanced", max_ratio=10).weights
    assert np.mean(scaled) == pytest.approx(1)


NO_CORE = [[700, 300, 0, 0], [1800, 200, 0, 5]]


def test_a_class_without_voxels_is_an_error_that_names_it():
    with pytest.raises(UserError) as caught:
        class_alpha(counts_of(NO_CORE))
    assert str(caught.value) == (
        "Class core has no voxel in the training split: alpha is undefined. "
        "Change the split, drop the class, or set loss.alpha."
    )


def test_a_class_without_voxels_can_weigh_nothing_or_as_much_as_the_rarest():
    labels = np.repeat([0, 1], [2500, 500])
    expected = compute_class_weight("balanced", classes=np.arange(2), y=labels)
    zero = class_alpha(counts_of(NO_CORE), empty="zero", normalize="none").weights
    most = class_alpha(counts_of(NO_CORE), empty="max", normalize="none").weights
    np.testing.assert_allclose(zero, [*expected, 0.0], rtol=1e-12)
    np.testing.assert_allclose(most, [*expected, expected[1]], rtol=1e-12)
    assert np.mean(class_alpha(counts_of(NO_CORE), empty="zero").weights[:2]) == pytest.approx(1)


@pytest.mark.parametrize("derive", [class_alpha, region_alpha])
def test_a_split_without_annotated_voxels_is_an_error(derive):
    with pytest.raises(UserError, match="The training split has no annotated voxel"):
        derive(counts_of([[0, 0, 0, 0, 9]], BRATS), empty="zero")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scheme": "sqrt"}, "unknown scheme 'sqrt'"),
        ({"max_ratio": 0.5}, "max_ratio: expected a number >= 1, got 0.5"),
        ({"max_ratio": float("nan")}, "max_ratio: expected a number >= 1, got nan"),
        ({"unit": "cells"}, "unit: expected voxels, lesions or volumes, got 'cells'"),
        ({"empty": "ignore"}, "empty: expected error, zero or max, got 'ignore'"),
        ({"scheme": "balanced", "beta": 0.9}, "balanced has no beta"),
    ],
)
@pytest.mark.parametrize("derive", [class_alpha, region_alpha])
def test_an_option_out_of_range_is_refused(derive, options, text):
    with pytest.raises(UserError, match=text):
        derive(counts_of([[10, 5, 4, 3, 0]], BRATS), **options)


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(UserError, match="normalize: expected mean, sum or none, got 'max'"):
        class_alpha(counts_of(ROWS), normalize="max")


# Background, necrotic core, oedema, enhancing, ignored: WT 400, TC 150, ET 50 of 2000.
REGION_ROWS = [[600, 100, 250, 50, 8], [1000, 0, 0, 0, 0]]
POSITIVE = np.array([400, 150, 50]) / 2000


@pytest.mark.parametrize("scheme", ["balanced", "inverse"])
def test_region_alpha_balances_positives_and_negatives(scheme):
    alpha = region_alpha(counts_of(REGION_ROWS, BRATS), scheme)
    np.testing.assert_allclose(alpha.weights, 1 - POSITIVE, rtol=1e-12)
    assert alpha.names == ("WT", "TC", "ET")
    total_positive = np.array(alpha.weights) * POSITIVE
    total_negative = (1 - np.array(alpha.weights)) * (1 - POSITIVE)
    np.testing.assert_allclose(total_positive, total_negative, rtol=1e-12)


def test_region_alpha_of_the_other_schemes_by_hand():
    counts = counts_of(REGION_ROWS, BRATS)
    f = POSITIVE
    root = np.sqrt(1 - f) / (np.sqrt(f) + np.sqrt(1 - f))
    np.testing.assert_allclose(region_alpha(counts, "inverse", beta=0.5).weights, root)
    square = (1 - f) ** 2 / (f**2 + (1 - f) ** 2)
    np.testing.assert_allclose(region_alpha(counts, "generalized_dice").weights, square)
    enet = 1 / np.log(1.02 + f) / (1 / np.log(1.02 + f) + 1 / np.log(2.02 - f))
    np.testing.assert_allclose(region_alpha(counts, "enet").weights, enet)
    # The positives are in the first case of 1000 voxels only: freq doubles.
    median = (1 - f) / (2 * f + (1 - f))
    np.testing.assert_allclose(region_alpha(counts, "median_frequency").weights, median)
    # Positives in one volume of two, negatives in both: weights 1 and 1/1.5.
    volumes = region_alpha(counts, "effective_number", unit="volumes").weights
    np.testing.assert_allclose(volumes, np.full(3, 1 / (1 + 1 / 1.5)))


def test_region_alpha_is_capped_on_both_sides():
    counts = counts_of(REGION_ROWS, BRATS)
    assert max(region_alpha(counts, max_ratio=9).weights) == pytest.approx(0.9)
    mostly_tumour = counts_of([[1, 50, 49, 900, 0]], BRATS)
    assert min(region_alpha(mostly_tumour, max_ratio=9).weights) == pytest.approx(0.1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 10**7), min_size=5, max_size=5), min_size=1, max_size=4),
    st.sampled_from(SCHEMES),
)
def test_region_alpha_lies_between_0_and_1_and_grows_towards_the_inner_regions(rows, scheme):
    weights = region_alpha(counts_of(rows, BRATS), scheme).weights
    assert all(0 < weight < 1 for weight in weights)
    assert weights[0] <= weights[1] + 1e-12
    assert weights[1] <= weights[2] + 1e-12


def test_a_region_without_voxels_is_an_error_that_names_it():
    rows = [[600, 100, 250, 0, 8]]
    with pytest.raises(UserError, match=r"^Class ET has no voxel in the training split: alpha is"):
        region_alpha(counts_of(rows, BRATS))
    zero = region_alpha(counts_of(rows, BRATS), empty="zero").weights
    assert zero[2] == 0
    most = region_alpha(counts_of(rows, BRATS), empty="max").weights
    assert most[2] == max(zero)


def test_a_region_of_every_voxel_is_an_error_that_names_it():
    with pytest.raises(UserError, match="Region WT holds every annotated voxel"):
        region_alpha(counts_of([[0, 100, 250, 10, 8]], BRATS))


def test_regions_are_asked_for_where_there_are_none():
    with pytest.raises(UserError, match=r"has no regions\. Use class_alpha"):
        region_alpha(counts_of(ROWS))


def test_region_alpha_warns_where_voxel_counts_saturate_beta():
    rows = [[9_000_000, 90_000, 100_000, 50_000, 0]]
    with pytest.warns(SegfocalWarning, match="saturates"):
        alpha = region_alpha(counts_of(rows, BRATS), "effective_number", beta=0.99)
    np.testing.assert_allclose(alpha.weights, [0.5] * 3, rtol=1e-3)


def test_the_summary_is_the_line_the_terminal_shows():
    counts = counts_of(REGION_ROWS, BRATS)
    assert region_alpha(counts).summary() == (
        "balanced, from 2 cases: WT 0.8 TC 0.925 ET 0.975 · ignore 9: 0.4% of voxels"
    )
    assert class_alpha(counts_of([[90, 5, 5, 0]], THREE)).summary() == (
        "balanced, from 1 case: background 0.0811 oedema 1.46 core 1.46 · ignore 9: 0.0% of voxels"
    )
    plain = LabelScheme(("background", "tumour"), (0, 1))
    assert class_alpha(counts_of([[90, 10, 0]], plain)).summary() == (
        "balanced, from 1 case: background 0.2 tumour 1.8"
    )


def test_the_summary_never_rounds_alpha_to_one_or_ignored_voxels_to_none():
    rows = [[9_999_000, 600, 300, 100, 3]]
    line = region_alpha(counts_of(rows, BRATS)).summary()
    assert line == (
        "balanced, from 1 case: WT 0.9999 TC 0.99993 ET 0.99999 · ignore 9: <0.1% of voxels"
    )


def test_the_record_survives_json_and_tells_where_it_comes_from():
    alpha = region_alpha(counts_of(REGION_ROWS, BRATS), max_ratio=20)
    assert ClassAlpha.from_dict(json.loads(json.dumps(alpha.to_dict()))) == alpha
    assert alpha.kind == "region"
    assert alpha.provenance["num_cases"] == 2
    assert alpha.provenance["ignore_values"] == [9]
    assert alpha.options == {"beta": None, "unit": "voxels", "max_ratio": 20, "empty": "error"}


# Oedema: lesions 3 and 2 in the two cases; core: 0 and 1. Voxels as in ROWS.
LESIONS = [[3, 0], [2, 1]]


def counts_with_lesions(rows=ROWS, lesions=LESIONS, scheme=THREE):
    counts = counts_of(rows, scheme)
    for case_id, row in zip(counts.case_ids, lesions, strict=True):
        counts.add_lesions(row, case_id=case_id)
    return counts


def test_counting_lesions_weighs_by_lesions_and_the_background_once_for_each():
    # n = 6, 5, 1: N / (C n).
    got = class_alpha(counts_with_lesions(), "balanced", unit="lesions", normalize="none")
    np.testing.assert_allclose(got.weights, [12 / 18, 12 / 15, 12 / 3], rtol=1e-12)
    assert got.options["unit"] == "lesions"
    assert got.provenance["lesions"] == {"oedema": 5, "core": 1}


def test_the_voxels_of_a_lesion_change_no_weight_by_lesions():
    for scheme in SCHEMES:
        larger = [[7, 300, 0, 0], [18, 1500, 500, 9]]
        weights = class_alpha(counts_with_lesions(larger), scheme, unit="lesions").weights
        assert weights == class_alpha(counts_with_lesions(), scheme, unit="lesions").weights


def test_median_frequency_by_lesions_leaves_out_the_volumes_without_the_class():
    # Lesions and background, by case: 6 and 6. freq: 6/12, 5/12 and, of the second case, 1/6.
    got = class_alpha(counts_with_lesions(), "median_frequency", unit="lesions", normalize="none")
    np.testing.assert_allclose(got.weights, [(5 / 12) / (1 / 2), 1, (5 / 12) * 6], rtol=1e-12)


def test_effective_number_of_lesions_derives_beta_from_their_number():
    alpha = class_alpha(counts_with_lesions(), "effective_number", unit="lesions")
    assert alpha.options["beta"] == 1 - 1 / 6


@pytest.mark.parametrize(
    ("unit", "cure"),
    [
        ("voxels", "Leave beta out, or count lesions or volumes (loss.alpha_unit, or unit="),
        ("lesions", "Leave beta out, or count volumes (loss.alpha_unit, or unit='volumes')."),
        ("volumes", "Leave beta out."),
    ],
)
def test_the_warning_of_saturated_weights_proposes_what_is_left(unit, cure):
    rows = [[10**6, 10**5, 10**4 if i % 2 else 0, 0] for i in range(10)]
    lesions = [[100, 50 if i % 2 else 0] for i in range(10)]
    with pytest.warns(SegfocalWarning, match="saturates") as caught:
        class_alpha(counts_with_lesions(rows, lesions), "effective_number", beta=0.3, unit=unit)
    assert cure in str(caught[0].message)
    assert str(caught[0].message).endswith(".")


def test_a_class_without_lesions_is_an_error_that_names_it():
    with pytest.raises(UserError) as caught:
        class_alpha(counts_with_lesions(NO_CORE, [[3, 0], [2, 0]]), unit="lesions")
    assert str(caught.value) == (
        "Class core has no lesion in the training split: alpha is undefined. "
        "Change the split, drop the class, or set loss.alpha."
    )
    with pytest.raises(UserError, match=r"^The training split has no lesion: alpha is undefined"):
        class_alpha(counts_with_lesions([[9, 0, 0, 0]], [[0, 0]]), unit="lesions")


def test_lesions_that_were_not_counted_are_asked_for():
    counts = counts_of([*ROWS, [9, 1, 1, 0]])
    with pytest.raises(UserError) as caught:
        class_alpha(counts, unit="lesions")
    assert str(caught.value) == (
        "alpha: the lesions of c0 were not counted, nor those of 2 more cases. Count them by "
        "VoxelCounts.add(..., lesions=True); for a stats.json without lesions, run segfocal-stats "
        "again."
    )


# Classes NCR, oedema, ET, then WT, TC, ET: of 4, 2 and 3 lesions in the first case.
REGION_LESIONS = [[1, 2, 3, 4, 2, 3], [0, 0, 0, 0, 0, 0]]


def test_region_alpha_by_lesions_compares_the_regions():
    counts = counts_with_lesions(REGION_ROWS, REGION_LESIONS, BRATS)
    alpha = region_alpha(counts, "balanced", unit="lesions")
    # Outside counts once for each of the 9 lesions: 9 / (n + 9).
    np.testing.assert_allclose(alpha.weights, [9 / 13, 9 / 11, 9 / 12], rtol=1e-12)
    assert alpha.provenance["lesions"]["TC"] == 2
    beta = region_alpha(counts, "effective_number", unit="lesions").options["beta"]
    assert beta == 1 - 1 / 9
    # The classes of the same scheme, by their own lesions.
    classes = class_alpha(counts, "balanced", unit="lesions", normalize="none")
    np.testing.assert_allclose(classes.weights, [12 / 24, 12 / 4, 12 / 8, 12 / 12], rtol=1e-12)
    missing = [[1, 2, 0, 4, 2, 0], [0] * 6]
    rows = [[600, 100, 250, 0, 8], [1000, 0, 0, 0, 0]]
    with pytest.raises(UserError, match=r"^Class ET has no lesion in the training split: alpha"):
        region_alpha(counts_with_lesions(rows, missing, BRATS), unit="lesions")


@pytest.mark.parametrize("derive", [class_alpha, region_alpha])
def test_one_kind_of_lesion_weighs_as_its_background_by_lesions(derive):
    scheme = LabelScheme.from_mapping({"background": 0, "WT": [1, 2]}, regions_class_order=[1])
    if derive is class_alpha:
        scheme = LabelScheme(("background", "lesion"), (0, 1))
    groups = 1 if derive is class_alpha else 3
    rows = [[90, 10, 0] if derive is class_alpha else [90, 5, 5, 0]]
    counts = counts_with_lesions(rows, [[4] * groups], scheme)
    assert len(set(derive(counts, unit="lesions").weights)) == 1


def test_the_summary_tells_the_unit_and_the_lesions():
    counts = counts_with_lesions(REGION_ROWS, REGION_LESIONS, BRATS)
    assert region_alpha(counts, unit="lesions").summary() == (
        "balanced by lesions, from 2 cases: WT 0.692 TC 0.818 ET 0.75 · lesions WT 4 TC 2 ET 3 "
        "· ignore 9: 0.4% of voxels"
    )
    assert class_alpha(counts_of([[90, 5, 5, 0]]), unit="volumes").summary() == (
        "balanced by volumes, from 1 case: background 1 oedema 1 core 1 · ignore 9: 0.0% of voxels"
    )


def test_saturated_regions_are_told_in_one_warning():
    rows = [[9_000_000, 90_000, 100_000, 50_000, 0]]
    with pytest.warns(SegfocalWarning) as caught:
        region_alpha(counts_of(rows, BRATS), "effective_number", beta=0.99)
    (warning,) = caught
    assert str(warning.message) == (
        "effective_number saturates: beta 0.99 tells counts apart up to about 100, the classes "
        "have 50000 to 9190000, so their weights are the same. Leave beta out, or count lesions or "
        "volumes (loss.alpha_unit, or unit='lesions')."
    )
