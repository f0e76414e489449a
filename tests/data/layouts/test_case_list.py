import os
import unicodedata

import pytest

from segfocal.data.layouts import list_inputs, read_dataset
from segfocal.data.layouts.found import FileRules
from segfocal.data.verify import load_case
from segfocal.errors import UserError

from ..nifti_files import image_of, save, write_json
from .trees import SHAPE, plain, write_rows

LABELS = {"background": 0, "liver": 1, "spleen": 2}
ROWS = [
    {"id": "b", "t1": "x/b1.nii.gz", "flair": "x/b2.nii.gz", "label": "y/b.nii.gz"},
    {"id": "a", "t1": "x/a1.nii.gz", "flair": "x/a2.nii.gz", "label": "y/a.nii.gz"},
]


@pytest.fixture
def root(tmp_path):
    images = [f"x/{case}{n}.nii.gz" for case in "ba" for n in (1, 2)]
    return plain(tmp_path / "data", images, ["y/b.nii.gz", "y/a.nii.gz"])


def read(root, name="cases.csv", channels=None, **options):
    return read_dataset(root, labels=LABELS, rules=FileRules(channels, root / name), **options)


def line(root, name="cases.csv", **options):
    with pytest.raises(UserError) as caught:
        read(root, name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_with_a_column_a_channel(root, delimiter):
    name = "cases.tsv" if delimiter == "\t" else "cases.csv"
    path = write_rows(root / name, ROWS, delimiter)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n\n")
    dataset = read(root, name)
    assert dataset.layout == "list"
    assert dataset.channels == ("t1", "flair")
    assert dataset.case_ids == ("a", "b")
    loaded = load_case(dataset.cases[1], dataset.scheme, dataset.channels)
    assert (loaded.image[1] == image_of(SHAPE, 1)).all()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_empty_lines_before_the_header_and_any_line_ends_change_nothing(root, delimiter, end):
    rows = [delimiter.join(row) for row in (ROWS[0], ROWS[0].values(), ROWS[1].values())]
    (root / "cases.csv").write_bytes(end.join(["", " ", rows[0], "", *rows[1:], ""]).encode())
    dataset = read(root)
    assert (dataset.channels, dataset.case_ids) == (("t1", "flair"), ("a", "b"))
    assert dataset.cases[0].label == root / "y/a.nii.gz"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_is_the_same_in_a_list_and_in_a_files_name(root, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    name = "y/M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller.nii.gz"
    (root / "y/a.nii.gz").rename(root / unicodedata.normalize(form, name))
    write_rows(root / "cases.csv", [ROWS[1] | {"label": unicodedata.normalize(other, name)}])
    assert read(root).cases[0].label == root / unicodedata.normalize(form, name)


def test_known_columns_are_known_in_any_letters_and_channels_keep_theirs(root):
    header = {"id": " ID ", "t1": "T1", "flair": "Flair", "label": "Label"}
    write_rows(root / "cases.csv", [{header[key]: row[key] for key in row} for row in ROWS])
    assert read(root).channels == ("T1", "Flair")
    assert read(root).case_ids == ("a", "b")
    write_rows(root / "cases.csv", [{"IMAGE": "x/a1.nii.gz", "LABEL": "y/a.nii.gz"}])
    assert (read(root).channels, read(root).case_ids) == (("image",), ("a1",))


def test_the_list_is_found_under_its_usual_name(root):
    write_rows(root / "cases.csv", ROWS)
    assert read_dataset(root, labels=LABELS).case_ids == ("a", "b")


def test_channels_choose_columns_and_their_order(root):
    rows = [row | {"notes": "motion", "t2": ""} for row in ROWS]
    write_rows(root / "cases.csv", rows)
    assert read(root).channels == ("t1", "flair")
    dataset = read(root, channels=["flair", "t1"])
    assert dataset.channels == ("flair", "t1")
    assert [path.name for path in dataset.cases[0].images] == ["a2.nii.gz", "a1.nii.gz"]
    assert line(root, channels=["flare"]) == (
        "data.channels: flare is not a channel of the data; it has t1, flair. Did you mean flair?"
    )


def test_one_file_with_every_channel(root):
    save(root / "c.nii.gz", image_of((*SHAPE, 2), 5))
    write_rows(root / "cases.csv", [{"image": "c.nii.gz", "label": "y/a.nii.gz"}])
    dataset = read(root, channels=["t1", "flair"])
    assert dataset.case_ids == ("c",)
    assert load_case(dataset.cases[0], dataset.scheme, dataset.channels).image.shape == (2, *SHAPE)
    assert read(root).channels == ("image",)


@pytest.mark.parametrize(
    "wrap", [lambda rows: rows, lambda r: {"cases": r}, lambda r: {"training": r}]
)
def test_json_lists_cases_as_monai_does(root, wrap):
    rows = [
        {"id": row["id"], "image": {"t1": row["t1"], "flair": row["flair"]}, "label": row["label"]}
        for row in ROWS
    ]
    write_json(root / "list.json", wrap(rows))
    dataset = read(root, "list.json")
    assert (dataset.channels, dataset.case_ids) == (("t1", "flair"), ("a", "b"))
    rows = [row | {"image": list(row["image"].values()), "fold": 0} for row in rows]
    write_json(root / "list.json", wrap(rows))
    assert read(root, "list.json", channels=["t1", "flair"]).cases == dataset.cases
    assert line(root, "list.json") == (
        f"data.channels: expected 2 names, one for each file of image in {root / 'list.json'}."
    )


def test_channels_choose_the_keys_of_an_image_and_their_order(root):
    images = {"t1": "x/b1.nii.gz", "t2": "x/none.nii.gz", "flair": "x/b2.nii.gz"}
    rows = [
        {"id": "b", "image": images, "label": "y/b.nii.gz"},
        {"id": "a", "image": {"flair": "x/a2.nii.gz", "t1": "x/a1.nii.gz"}, "label": "y/a.nii.gz"},
    ]
    write_json(root / "list.json", rows)
    dataset = read(root, "list.json", channels=["flair", "t1"])
    assert dataset.channels == ("flair", "t1")
    assert [[path.name for path in case.images] for case in dataset.cases] == [
        ["a2.nii.gz", "a1.nii.gz"],
        ["b2.nii.gz", "b1.nii.gz"],
    ]
    assert line(root, "list.json", channels=["flare", "t1"]) == (
        "data.channels: flare is not a channel of the data; it has t1, t2, flair. "
        "Did you mean flair?"
    )
    write_json(root / "list.json", [rows[0] | {"image": {"t1": "x/b1.nii.gz"}}, rows[1]])
    assert "1 case lacks files: b (flair)." in line(root, "list.json", channels=["flair", "t1"])


def test_what_a_case_was_annotated_for_and_where_it_came_from(root):
    rows = [ROWS[0] | {"annotated": "liver; spleen;", "source": "btcv"}]
    rows += [ROWS[1] | {"annotated": " ", "source": ""}]
    write_rows(root / "cases.csv", rows)
    a, b = read(root).cases
    assert (a.annotated, a.source) == (None, "")
    assert (b.annotated, b.source) == (("liver", "spleen"), "btcv")
    write_rows(root / "cases.csv", [row | {"annotated": "livr"} for row in rows])
    assert line(root) == (
        "a: annotated: 'livr' is neither a class nor a region. Did you mean liver?"
    )


def test_paths_are_taken_from_the_root_or_from_the_lists_folder(root, tmp_path):
    path = write_rows(tmp_path / "elsewhere" / "my.csv", ROWS)
    rules = FileRules(case_list=path)
    assert len(read_dataset(root, labels=LABELS, rules=rules).cases) == 2
    beside = [{"id": "a", "image": "a1.nii.gz", "label": "../y/a.nii.gz"}]
    write_rows(root / "x" / "my.csv", beside)
    assert read(root, "x/my.csv").cases[0].label.name == "a.nii.gz"
    absolute = [{"id": "a", "image": str(root / "x/a1.nii.gz"), "label": "y/a.nii.gz"}]
    write_rows(root / "cases.csv", absolute)
    assert read(root).case_ids == ("a",)


def test_backslashes_are_the_slashes_of_windows_where_no_file_has_them_in_its_name(root):
    rows = [{key: text.replace("/", "\\") for key, text in row.items()} for row in ROWS]
    write_rows(root / "cases.csv", rows)
    assert [case.images[0] for case in read(root).cases] == [
        root / "x/a1.nii.gz",
        root / "x/b1.nii.gz",
    ]
    assert read(root).cases[0].label == root / "y/a.nii.gz"
    write_rows(root / "cases.csv", [{"image": "x\\a1.nii.gz", "label": "y\\a.nii.gz"}])
    assert read(root).case_ids == ("a1",)
    write_rows(root / "cases.csv", [rows[0] | {"t1": "x\\c.nii.gz"}])
    assert line(root).startswith(f"{root / 'cases.csv'}: 1 case lacks files: b (t1).")


@pytest.mark.skipif(os.name == "nt", reason="a backslash is no sign of a name there")
def test_a_file_with_a_backslash_in_its_name_is_itself(root):
    odd = save(root / "x\\a1.nii.gz", image_of(SHAPE))
    write_rows(root / "cases.csv", [{"id": "a", "image": "x\\a1.nii.gz", "label": "y/a.nii.gz"}])
    assert read(root).cases[0].images == (odd,)


def outside(root, kind):
    secret = save(root.parent / "secret.nii.gz", image_of(SHAPE))
    if kind == "link":
        (root / "innocent.nii.gz").symlink_to(secret)
        return "innocent.nii.gz"
    if kind == "folder link":
        (root / "folder").symlink_to(root.parent)
        return "folder/secret.nii.gz"
    if kind == "absolute":
        return str(secret)
    return "../secret.nii.gz" if kind == "dots" else "x/../../secret.nii.gz"


@pytest.mark.parametrize("column", ["t1", "label"])
@pytest.mark.parametrize("kind", ["dots", "deep dots", "absolute", "link", "folder link"])
def test_a_path_that_leaves_the_root_is_refused(root, kind, column):
    text = outside(root, kind)
    write_rows(root / "cases.csv", [ROWS[0] | {column: text}])
    assert line(root) == (
        f"{root / 'cases.csv'}: line 2: {text} lies outside {root}. Set data.root to a folder that "
        f"holds every file, or copy it there."
    )


def test_a_link_that_stays_inside_is_followed(root):
    (root / "z").symlink_to(root / "x")
    write_rows(root / "cases.csv", [ROWS[0] | {"t1": "z/b1.nii.gz"}])
    assert read(root).case_ids == ("b",)


def test_every_case_that_lacks_files_is_named(root):
    rows = [ROWS[0] | {"flair": "x/none.nii.gz", "label": ""}, ROWS[1], ROWS[1] | {"id": "c"}]
    rows[2] |= {"label": "y/c.nii.gz"}
    write_rows(root / "cases.csv", rows)
    assert line(root) == (
        f"{root / 'cases.csv'}: 2 cases lack files: b (flair, label), c (label). Expected the "
        f"files that it lists, below {root}. Add the files, or leave the cases out by data.exclude."
    )
    assert read(root, exclude=["b", "c"]).case_ids == ("a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,image,label\n", "{path}: lists no case."),
        ("", "{path}: lists no case."),
        ("id,image,id\na,b,c\n", "{path}: line 1: column 'id' stands twice."),
        ("id,image,\na,b,c\n", "{path}: line 1: a column has no name."),
        ("id,image\na,x/a1.nii.gz,y/a.nii.gz\n", "{path}: line 2: has 3 values, the header 2."),
        ('id,image\na,"x\n', "{path}: line 2: is not CSV: unexpected end of data."),
        ("id,scan\na,x.dcm\n", "{path}: names no image. Expected a column image, or one for each"),
        ("t1,t2\nx/a1.nii.gz,x/a2.nii.gz\n", "{path}: line 2: has no id. Add a column id"),
        ("id,image\n../a,x/a1.nii.gz\n", "{path}: line 2: id '../a': expected a name that can"),
        ("id,image\n..,x/a1.nii.gz\n", "{path}: line 2: id '..': expected a name that can"),
        (
            "id,image,label\na,x/a1.nii.gz,y/a.nii.gz\na,x/b1.nii.gz,y/b.nii.gz\n",
            "{path}: line 3: case a is listed twice. Keep one.",
        ),
    ],
)
def test_a_malformed_table_names_its_line(root, text, message):
    path = root / "cases.csv"
    path.write_text(text)
    assert line(root).startswith(message.format(path=path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": []}, 'expected a list of {"id": ..., "image": ..., "label": ...}, or an object'),
        ([], "lists no case."),
        ([3], "entry 0: expected an object, got 3."),
        ([{"id": "a", "image": 7}], "entry 0: expected paths, got 7."),
        ([{"id": None, "image": "x/a1.nii.gz"}], "entry 0: id '': expected a name that can be"),
        ([{"id": "a", "image": {"t1": "x"}, "annotated": 3}], "entry 0: annotated: expected names"),
        (
            [{"id": "a", "image": {"t1": "x"}}, {"id": "b", "image": {"t2": "x"}}],
            "entry 1: channel t2 is not one of t1. Name the same channels for every case.",
        ),
        (
            [{"id": "a", "image": "x/a1.nii.gz"}, {"id": "b", "image": ["x", "y"]}],
            "entry 1: has 2 image files, expected 1 (image).",
        ),
    ],
)
def test_malformed_json_names_its_entry(root, content, message):
    path = write_json(root / "list.json", content)
    assert line(root, "list.json").startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (7, "entry 1: expected paths, got 7."),
        (None, "1 case lacks files: b (t1, label)."),
        (["x/a1.nii.gz", "x/a2.nii.gz"], "entry 1: has 2 image files, expected 1 (t1)."),
    ],
)
def test_an_entry_of_another_form_than_the_first_is_told(root, image, told):
    first = {"id": "a", "image": {"t1": "x/a1.nii.gz"}, "label": "y/a.nii.gz"}
    path = write_json(root / "list.json", [first, {"id": "b", "image": image}])
    for channels in (None, ["t1"]):
        assert line(root, "list.json", channels=channels).startswith(f"{path}: {told}")


def test_a_list_that_is_not_there_or_not_text(root):
    assert line(root, "none.csv") == (
        f"data.case_list: {root}/none.csv does not exist, here or in {root}."
    )
    (root / "cases.xlsx").write_bytes(b"")
    assert line(root, "cases.xlsx").endswith("cases.xlsx: expected .csv, .tsv or .json.")
    (root / "cases.csv").write_bytes("id,image\nä,x\n".encode("latin-1"))
    assert "byte 9 is not UTF-8 text. Save it as UTF-8." in line(root)
    with pytest.raises(UserError, match=r"holds none of cases.csv, cases.tsv, cases.json"):
        read_dataset(root / "x", "list", LABELS)


def test_inputs_come_from_the_list_of_a_folder_that_holds_no_volumes(root):
    write_rows(root / "cases.csv", ROWS)
    cases = list_inputs(root, ("flair", "t1"))
    assert [(case.case_id, case.label) for case in cases] == [("a", None), ("b", None)]
    assert [file.name for file in cases[0].images] == ["a2.nii.gz", "a1.nii.gz"]
    save(root / "new.nii.gz", image_of(SHAPE, 1))
    assert [case.case_id for case in list_inputs(root, ("flair",))] == ["new"]


def test_inputs_come_from_a_list_without_labels(root):
    path = write_rows(
        root / "new.csv", [{k: v for k, v in row.items() if k != "label"} for row in ROWS]
    )
    cases = list_inputs(path, ("flair", "t1"))
    assert [case.case_id for case in cases] == ["a", "b"]
    assert [file.name for file in cases[0].images] == ["a2.nii.gz", "a1.nii.gz"]
    assert cases[0].label is None


@pytest.mark.parametrize("order", [("flair", "t1"), ("t1", "flair")])
def test_inputs_of_a_json_list_are_in_the_order_of_the_checkpoints_channels(root, order):
    images = {name: ROWS[1][name] for name in order}
    path = write_json(root / "new.json", {"test": [{"id": "a", "image": images}]})
    (case,) = list_inputs(path, ("flair", "t1"))
    assert [file.name for file in case.images] == ["a2.nii.gz", "a1.nii.gz"]
    write_json(path, [{"id": "a", "image": {"t1": "x/a1.nii.gz", "t2": "x/a2.nii.gz"}}])
    with pytest.raises(UserError, match=r"^data\.channels: flair is not a channel of the data"):
        list_inputs(path, ("flair", "t1"))


def test_inputs_that_lack_a_file_cannot_be_left_out_by_a_config(root):
    rows = [{"id": "a", "t1": "x/a1.nii.gz"}, {"id": "b", "t1": "x/none.nii.gz"}]
    path = write_rows(root / "new.csv", rows)
    with pytest.raises(UserError) as caught:
        list_inputs(path, ("t1",))
    assert str(caught.value) == (
        f"{path}: 1 case lacks files: b (t1). Expected the files that it lists, below {root}. "
        f"Add them."
    )
