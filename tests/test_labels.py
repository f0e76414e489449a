import numpy as np
import pytest

from segfocal.errors import UserError
from segfocal.labels import IGNORE_CLASS, PRESETS, LabelScheme, Region


def test_encode_and_decode_are_inverse_for_values_with_gaps():
    scheme = LabelScheme(("background", "liver", "spleen"), (0, 5, 117))
    values = np.array([[0, 5], [117, 5]], dtype=np.int16)
    classes = scheme.encode(values)
    assert classes.tolist() == [[0, 1], [2, 1]]
    assert classes.dtype == np.uint8
    assert np.array_equal(scheme.decode(classes), values)
    assert scheme.decode(classes).dtype == np.uint8


def test_values_past_255_decode_to_a_wider_integer():
    scheme = LabelScheme(("background", "a"), (0, 300))
    assert scheme.decode(np.array([1], dtype=np.uint8)).dtype == np.int16


def test_every_ignored_value_becomes_the_ignore_class():
    scheme = LabelScheme(("background", "a"), (0, 1), ignore_values=(4, -1))
    assert scheme.encode(np.array([0, 1, 4, -1])).tolist() == [0, 1, IGNORE_CLASS, IGNORE_CLASS]
    assert scheme.ignore_index == IGNORE_CLASS


def test_an_undeclared_value_is_named():
    scheme = LabelScheme.preset("brats23")
    with pytest.raises(UserError) as error:
        scheme.encode(np.array([0, 1, 2, 4]))
    assert str(error.value) == "label holds {0,1,2,4}; the config declares {0,1,2,3}."
    assert scheme.undeclared(np.array([0, 1, 4, 9])) == (4, 9)


@pytest.mark.parametrize("name", PRESETS)
def test_a_network_has_an_output_for_each_region_or_for_each_class_where_there_are_none(name):
    names, values, regions = PRESETS[name]
    scheme = LabelScheme.preset(name)
    assert scheme.output_names == scheme.target_names == tuple(regions)
    assert (scheme.num_outputs, scheme.activation) == (len(regions), "sigmoid")
    of_values = [tuple(scheme.values[c] for c in members) for members in scheme.region_table]
    assert of_values == list(regions.values())
    plain = LabelScheme(names, values)
    assert (plain.output_names, plain.target_names) == (names, names[1:])
    assert (plain.num_outputs, plain.activation) == (len(names), "softmax")
    assert (plain.region_table, plain.ignore_index) == (None, None)
    assert plain.target_classes == tuple((index,) for index in range(1, len(names)))


@pytest.mark.parametrize("name", PRESETS)
def test_painting_the_regions_of_a_class_map_gives_it_back(name):
    scheme = LabelScheme.preset(name)
    classes = np.arange(scheme.num_classes, dtype=np.uint8)
    inside = np.stack([np.isin(classes, region) for region in scheme.target_classes])
    assert scheme.paint(inside).tolist() == classes.tolist()
    with pytest.raises(ValueError, match="shorter"):
        scheme.paint(inside[1:])


def test_brats_presets_differ_where_the_conventions_differ():
    old, new, msd = (LabelScheme.preset(n) for n in ("brats18-22", "brats23", "msd-task01"))
    et = [scheme.values[scheme.regions[2].classes[0]] for scheme in (old, new, msd)]
    tc = [sorted(s.values[c] for c in s.regions[1].classes) for s in (old, new, msd)]
    wt = [sorted(s.values[c] for c in s.regions[0].classes) for s in (old, new, msd)]
    assert et == [4, 3, 3]
    assert wt == [[1, 2, 4], [1, 2, 3], [1, 2, 3]]
    assert tc == [[1, 4], [1, 3], [2, 3]]


def test_a_resection_cavity_is_no_part_of_the_tumour():
    scheme = LabelScheme.preset("brats24", ignore_values=(9,))
    label = scheme.encode(np.array([0, 1, 2, 3, 4, 9]))
    inside = {r.name: np.isin(label, r.classes).astype(int).tolist() for r in scheme.regions}
    assert inside == {
        "WT": [0, 1, 1, 1, 0, 0],
        "TC": [0, 1, 0, 1, 0, 0],
        "ET": [0, 0, 0, 1, 0, 0],
        "RC": [0, 0, 0, 0, 1, 0],
    }
    assert scheme.decode(np.array([0, 4], np.uint8)).tolist() == [0, 4]


def test_nnunet_labels_with_regions_and_ignore():
    scheme = LabelScheme.from_mapping(
        {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
        [1, 2, 3],
    )
    assert scheme.output_names == ("whole", "core", "enhancing")
    assert scheme.names == ("background", "label 1", "label 2", "enhancing")
    assert scheme.activation == "sigmoid"
    assert scheme.region_table == ((1, 2, 3), (2, 3), (3,))
    assert scheme.ignore_values == (4,)
    assert [region.paint for region in scheme.regions] == [1, 2, 3]


def test_a_name_whose_every_value_is_ignored_is_no_class_and_no_region():
    plain = LabelScheme.from_mapping({"background": 0, "a": 1, "unsure": 9}, ignore_values=[9])
    assert plain == LabelScheme(("background", "a"), (0, 1), ignore_values=(9,))
    regions = LabelScheme.from_mapping(
        {"background": 0, "whole": [1, 2, 9], "core": 2, "unsure": [8, 9]}, ignore_values=[9, 8]
    )
    assert regions.output_names == ("whole", "core")
    assert regions.region_table == ((1, 2), (2,))
    assert (regions.values, regions.ignore_values) == ((0, 1, 2), (8, 9))


def test_a_scheme_survives_its_dictionary():
    scheme = LabelScheme.preset("brats18-22", ignore_values=(9,))
    assert LabelScheme.from_dict(scheme.to_dict()) == scheme


def test_a_value_ignored_twice_is_ignored_once():
    twice = LabelScheme.preset("brats23", [9, 9])
    assert twice == LabelScheme.preset("brats23", [9])
    labels = {"background": 0, "a": 1}
    assert LabelScheme.from_mapping(labels, None, [9, 9]).ignore_values == (9,)


def test_plain_classes_are_sorted_by_value():
    scheme = LabelScheme.from_mapping({"b": 2, "background": 0, "a": 1})
    assert scheme.names == ("background", "a", "b")
    assert scheme.target_names == ("a", "b")
    assert scheme.region_table is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LabelScheme.from_mapping({"tumour": 1}),
            "labels: no name has value 0. Declare the background, e.g. background: 0.",
        ),
        (
            lambda: LabelScheme(("background", "a"), (0, 0)),
            "labels: value 0 is declared twice. Give each value one meaning.",
        ),
        (
            lambda: LabelScheme.from_mapping({"background": 0, "a": 1, "b": 2}, None, [9, 0]),
            (
                "loss.ignore_index: 0 is the background. Name values of voxels that nobody "
                "annotated, or null."
            ),
        ),
        (
            lambda: LabelScheme.from_mapping({"background": 0, "a": 1, "ab": [1, 2]}, None, [2, 1]),
            (
                "loss.ignore_index: leaves no class but the background: a, ab would be ignored. "
                "Name values of voxels that nobody annotated, or null."
            ),
        ),
        (
            lambda: LabelScheme.preset("brats18-22", [4]),
            (
                "loss.ignore_index: 4 is enhancing in brats18-22. Name values of voxels that "
                "nobody annotated, or null."
            ),
        ),
        (
            lambda: LabelScheme(("background", "a"), (0,)),
            "labels: expected one value per name, got 2 names and 1 values.",
        ),
        (
            lambda: LabelScheme(("background",), (0,)),
            "labels: expected background and 1 to 254 classes, got 1 in all.",
        ),
        (
            lambda: LabelScheme(("background", "a"), (0, 1), (Region("r", (2,), 1),)),
            "labels: region r must be made of classes 1 to 1, got [2].",
        ),
        *(
            (
                lambda of=of, paint=paint: LabelScheme(
                    ("background", "a", "b"), (0, 1, 2), (Region("r", of, paint),)
                ),
                f"labels: region r must be made of classes 1 to 2, got {list(of)}.",
            )
            for of, paint in [((0, 1), 1), ((1, 3), 1), ((), 1), ((1,), 0), ((1,), 3)]
        ),
        (
            lambda: LabelScheme.preset("brats"),
            "labels: unknown preset 'brats'. Known: brats18-22, brats23, brats24, msd-task01.",
        ),
        (
            lambda: LabelScheme.from_mapping({"background": 0, "x": [1, 2], "y": 2}, [1, 2, 2]),
            ("labels: regions_class_order must have one value per region: expected 2, got 3."),
        ),
        *(
            (
                lambda paint=paint: LabelScheme.from_mapping(
                    {"background": 0, "x": [1, 2], "y": 2}, [1, paint]
                ),
                (
                    f"data.regions_class_order: {paint} is to be written for y, which is made of "
                    f"[2]. Give a value of each region, in their order."
                ),
            )
            for paint in (0, 1, 5)
        ),
        (
            lambda: LabelScheme.from_mapping({"background": 0, "y": 2, "x": [1, 2]}, [2, 1]),
            (
                "data.labels: y lies inside x, which would be written over it. List outer regions "
                "first, here and in data.regions_class_order."
            ),
        ),
        (
            lambda: LabelScheme.from_mapping({"background": 0, "x": [1, 2], "y": [3, 4]}),
            (
                "data.labels: cannot tell which value to write for region x ([1, 2] are left after "
                "the regions inside it). List outer regions first, or set data.regions_class_order."
            ),
        ),
    ],
)
def test_a_wrong_scheme_says_what_is_wrong(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize("ask", [LabelScheme.encode, LabelScheme.undeclared])
@pytest.mark.parametrize(
    ("values", "shown"),
    [([0.0, 0.5, 1.7], "0.5, 1.7"), ([1.0, np.nan], "nan"), ([np.inf, 0.0], "inf")],
)
def test_a_value_between_two_labels_is_named_and_never_truncated(ask, values, shown):
    with pytest.raises(UserError) as error:
        ask(LabelScheme(("background", "a"), (0, 1)), np.array(values))
    assert str(error.value) == (
        f"label holds {shown}, expected integers. Was it resampled with interpolation? Resample "
        f"labels with nearest neighbour."
    )


@pytest.mark.parametrize("dtype", [bool, np.float16, np.float64, np.int64])
def test_whole_numbers_of_any_type_are_encoded(dtype):
    scheme = LabelScheme(("background", "a"), (0, 1))
    assert scheme.encode(np.array([0, 1, 0], dtype)).tolist() == [0, 1, 0]
    assert scheme.undeclared(np.array([0, 1], dtype)) == ()


@pytest.mark.parametrize("labels", [{"background": 0}, {"background": 0, "ignore": 1}])
def test_labels_without_a_class_of_their_own_are_not_blamed_on_the_setting(labels):
    with pytest.raises(UserError, match=r"^labels: expected background and 1 to 254 classes"):
        LabelScheme.from_mapping(labels, None, (255,))
