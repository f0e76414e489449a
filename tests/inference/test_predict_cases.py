import dataclasses
import errno
import json
import re
import shutil
import struct

import nibabel as nib
import numpy as np
import pytest
import torch

from segfocal.checkpoint import load_checkpoint, save_checkpoint
from segfocal.cli.predict import main
from segfocal.data.phantom.stamp import STAMP
from segfocal.errors import RunFailedError, UserError
from segfocal.inference import predict_cases as module
from segfocal.inference.predict_cases import PredictRequest, predict_cases
from segfocal.inference.predictor import Predictor
from segfocal.labels import LabelScheme
from tests.data.nifti_files import SHEARED
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def checkpoint(phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    tiny_run(phantom, out, "train.epochs=1")
    return out / "best.pt"


def predict(checkpoint, source, output, **options):
    return predict_cases(PredictRequest([checkpoint], source, output, **options))


def test_a_data_sets_test_cases_are_predicted_on_their_own_grid(checkpoint, phantom, tmp_path):
    (path,) = predict(checkpoint, phantom, tmp_path / "out")
    source = nib.load(phantom / "imagesTs" / "PHANTOM_TEST_001.nii.gz")
    label = nib.load(path)
    assert label.shape == source.shape[:3]
    assert np.array_equal(label.affine, source.affine)
    assert label.get_data_dtype() == np.uint8
    for code in ("qform_code", "sform_code"):
        assert int(label.header[code]) == int(source.header[code])
    assert set(np.unique(np.asarray(label.dataobj))) <= {0, 1, 2, 3}


def test_a_folder_and_a_single_file_are_predicted(checkpoint, phantom, tmp_path):
    folder = predict(checkpoint, phantom / "imagesTs", tmp_path / "a")
    file = predict(checkpoint, phantom / "imagesTs" / "PHANTOM_TEST_001.nii.gz", tmp_path / "b")
    assert folder[0].read_bytes() == file[0].read_bytes()


def test_the_cure_for_another_channel_order_works(checkpoint, phantom, tmp_path):
    """Files of one channel each, in another order than the checkpoint's; then what it is told."""
    source = nib.load(phantom / "imagesTs" / "PHANTOM_TEST_001.nii.gz")
    names = ("T2w", "T1gd", "FLAIR", "T1w")
    order = [("FLAIR", "T1w", "T1gd", "T2w").index(name) for name in names]
    folder = tmp_path / "other" / "imagesTs"
    folder.mkdir(parents=True)
    for number, channel in enumerate(order):
        values = np.asarray(source.dataobj)[..., channel]
        image = nib.Nifti1Image(values, source.affine, source.header)
        nib.save(image, folder / f"PHANTOM_TEST_001_{number:04d}.nii.gz")
    declared = {"channel_names": {str(i): name for i, name in enumerate(names)}, "labels": {}}
    (folder.parent / "dataset.json").write_text(json.dumps(declared))
    with pytest.raises(UserError) as caught:
        predict(checkpoint, folder, tmp_path / "refused")
    told = re.search(
        r"a list beside dataset\.json \(a \.csv with the columns (\S+)\)", str(caught.value)
    )
    assert told is not None
    columns = told[1].split(",")
    files = [f"imagesTs/PHANTOM_TEST_001_{names.index(name):04d}.nii.gz" for name in columns[1:]]
    text = f"{','.join(columns)}\n{','.join(['PHANTOM_TEST_001', *files])}\n"
    (folder.parent / "mine.csv").write_text(text)
    (cured,) = predict(checkpoint, folder.parent / "mine.csv", tmp_path / "cured")
    (expected,) = predict(checkpoint, phantom, tmp_path / "expected")
    np.testing.assert_array_equal(nib.load(cured).dataobj, nib.load(expected).dataobj)


def test_the_volumes_of_a_line_count_the_shear(checkpoint, phantom, tmp_path, monkeypatch):
    source = nib.load(phantom / "imagesTs" / "PHANTOM_TEST_001.nii.gz")
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.asarray(source.dataobj), SHEARED), tmp_path / "in" / "x.nii.gz")
    everything = np.ones(source.shape[:3], np.uint8)
    monkeypatch.setattr(Predictor, "predict", lambda _self, _image: everything)
    lines = []
    request = PredictRequest([checkpoint], tmp_path / "in", tmp_path / "out")
    predict_cases(request, lines.append, lambda _line: None)
    assert f"WT {everything.size * 6 / 1000:.1f} ml " in lines[0]


def test_what_a_network_of_the_phantom_predicts_is_stamped(checkpoint, phantom, tmp_path):
    source = nib.load(phantom / "imagesTs" / "PHANTOM_TEST_001.nii.gz")
    (tmp_path / "in").mkdir()
    image = nib.Nifti1Image(np.asarray(source.dataobj), source.affine)  # says nothing of itself
    nib.save(image, tmp_path / "in" / "x.nii.gz")
    (path,) = predict(checkpoint, tmp_path / "in", tmp_path / "out", probabilities=True)
    for written in (path, *(tmp_path / "out" / "probabilities").iterdir()):
        assert bytes(nib.load(written).header["descrip"]).startswith(STAMP.encode())


def test_a_blank_channel_is_told_by_case_and_name(checkpoint, phantom, tmp_path):
    source = nib.load(phantom / "imagesTs" / "PHANTOM_TEST_001.nii.gz")
    (tmp_path / "in").mkdir()
    for case, blank in (("full", []), ("blank", [0, 1, 2, 3]), ("partly", [1, 3])):
        values = np.asarray(source.dataobj).copy()
        values[..., blank] = 7
        nib.save(nib.Nifti1Image(values, source.affine), tmp_path / "in" / f"{case}.nii.gz")
    warnings = []
    request = PredictRequest([checkpoint], tmp_path / "in", tmp_path / "out")
    assert len(predict_cases(request, warn=warnings.append)) == 3
    assert warnings == [
        f"{case}: {names} holds one value in every voxel. Was it converted wrongly? Do not trust "
        f"this label unseen."
        for case, names in (("blank", "FLAIR, T1w, T1gd, T2w"), ("partly", "T1w, T2w"))
    ]


def test_what_is_there_is_never_overwritten_unasked(checkpoint, phantom, tmp_path):
    (path,) = predict(checkpoint, phantom, tmp_path)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"exists already \(1 of 1 do\)\. Pass --continue"):
        predict(checkpoint, phantom, tmp_path)
    predict(checkpoint, phantom, tmp_path, go_on=True)
    assert path.read_bytes() == b"mine"


def test_a_missing_checkpoint_or_input_makes_no_folder(checkpoint, phantom, tmp_path):
    with pytest.raises(UserError, match=r"--ckpt .* does not exist"):
        predict(tmp_path / "no.pt", phantom, tmp_path / "out")
    with pytest.raises(UserError, match=r"-i .* does not exist"):
        predict(checkpoint, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_channel_count_is_refused_before_a_file_is_written(checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    nib.save(
        nib.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.eye(4)), tmp_path / "in" / "x.nii.gz"
    )
    with pytest.raises(UserError, match=r"x: image 20x20x20 holds 1 channel; expected 4"):
        predict(checkpoint, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_image_itself_is_never_overwritten(checkpoint, phantom, tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    name = "PHANTOM_TEST_001.nii.gz"
    (images / name).write_bytes((phantom / "imagesTs" / name).read_bytes())
    with pytest.raises(UserError, match="-o would overwrite the image"):
        predict(checkpoint, images, images, go_on=True)


@pytest.fixture
def images(phantom, tmp_path):
    """Three images: the second one's voxels are damaged, its header is not."""
    folder = tmp_path / "images"
    folder.mkdir()
    source = phantom / "imagesTs" / "PHANTOM_TEST_001.nii.gz"
    for name in "abc":
        shutil.copy(source, folder / f"{name}.nii.gz")
    raw = source.read_bytes()
    (folder / "b.nii.gz").write_bytes(raw[: len(raw) // 2])
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_damaged_image_does_not_keep_the_others_from_being_predicted(
    checkpoint, images, tmp_path, capsys
):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["--ckpt", str(checkpoint), "-i", str(images), "-o", str(out)])
    assert stop.value.code == 1
    said, errors = capsys.readouterr()
    assert [line.split()[:2] for line in said.splitlines()] == [["1/3", "a"], ["3/3", "c"]]
    warned, last = errors.splitlines()
    assert warned.startswith("warning: b: ")
    assert last == (
        "segfocal-predict: 1 of 3 cases could not be predicted: b. Mend that, then pass --continue."
    )
    assert names(out) == ["a.nii.gz", "c.nii.gz"]


def wrapped_by_monai(cause):
    error = RuntimeError("applying transform <Spacingd at 0x1>")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        wrapped_by_monai(MemoryError()),
    ],
)
def test_a_case_too_large_for_the_memory_does_not_keep_the_others(
    checkpoint, images, tmp_path, monkeypatch, failure
):
    (images / "b.nii.gz").unlink()
    predict_one = Predictor.predict

    def predict_all_but_the_first(self, image):
        if not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            raise failure
        return predict_one(self, image)

    monkeypatch.setattr(Predictor, "predict", predict_all_but_the_first)
    warned = []
    with pytest.raises(RunFailedError, match=r"1 of 2 cases could not be predicted: a\."):
        predict_cases(PredictRequest([checkpoint], images, tmp_path / "out"), warn=warned.append)
    assert warned == ["a: out of memory on cpu. Try it on a machine with more."]
    assert names(tmp_path / "out") == ["c.nii.gz"]


def test_what_is_no_lack_of_memory_ends_a_prediction_as_it_is(
    checkpoint, images, tmp_path, monkeypatch
):
    def fail(self, image):
        raise wrapped_by_monai(ValueError("no such axis"))

    monkeypatch.setattr(Predictor, "predict", fail)
    with pytest.raises(RuntimeError, match="applying transform"):
        predict(checkpoint, images, tmp_path / "out")


def test_a_full_disk_ends_a_prediction_at_once_and_says_where(
    checkpoint, images, tmp_path, monkeypatch
):
    def fail(path, values, like, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_label", fail)
    with pytest.raises(RunFailedError) as error:
        predict(checkpoint, images, tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path / 'out' / 'a.nii.gz'} could not be written: No space left on device. Labels "
        f"before it are complete; pass --continue once there is room."
    )


def test_an_output_that_cannot_be_written_is_told_before_a_case_is_computed(
    checkpoint, images, tmp_path
):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    with pytest.raises(UserError) as error:
        predict(checkpoint, images, out)
    assert str(error.value) == f"{out} cannot be written: Not a directory. Use another."


@pytest.mark.parametrize(
    ("output", "message"),
    [("x.nii.gz", "is a file; it must be a folder"), ("data", "is the folder of the images")],
)
def test_an_output_among_images_or_with_a_files_name_is_refused(
    checkpoint, phantom, tmp_path, output, message
):
    root = shutil.copytree(phantom, tmp_path / "data")
    with pytest.raises(UserError, match=message):
        predict(checkpoint, root, tmp_path / output)
    assert names(root) == names(phantom)
    assert names(tmp_path) == ["data"]


def test_a_device_that_is_none_is_told_before_the_checkpoint_is_opened(images, tmp_path):
    (tmp_path / "no.pt").touch()
    with pytest.raises(UserError, match=r"^--device: expected auto, cpu, cuda or cuda:N, got mps"):
        predict(tmp_path / "no.pt", images, tmp_path / "out", device="mps")


def test_a_run_folder_in_place_of_its_checkpoint_is_told_the_file(checkpoint, images, tmp_path):
    with pytest.raises(UserError) as error:
        predict(checkpoint.parent, images, tmp_path / "out")
    assert str(error.value) == (
        f"--ckpt {checkpoint.parent} is a folder. Pass a file, such as {checkpoint}."
    )


def biased(checkpoint, folder, bias):
    """A checkpoint whose logits are about this number in every voxel."""
    loaded = load_checkpoint(checkpoint)
    last = list(loaded.model)[-1]
    model = loaded.model | {last: torch.full_like(loaded.model[last], bias)}
    path = folder / f"{bias}.pt"
    save_checkpoint(path, dataclasses.replace(loaded, model=model))
    return path


def test_several_checkpoints_are_an_ensemble(checkpoint, images, tmp_path):
    """Everything by the mean of the logits, whatever most of the networks say."""
    (images / "b.nii.gz").unlink()
    biases = 300.0, -100.0, -99.0, -900.0
    yes, no, neither, never = (biased(checkpoint, tmp_path, bias) for bias in biases)
    assert not any(labels(path).any() for path in predict(no, images, tmp_path / "no"))
    arguments = ["-i", str(images), "--quiet", "-o", str(tmp_path / "three")]
    with pytest.raises(SystemExit) as stop:
        main([*(f"--ckpt={path}" for path in (no, yes, neither)), *arguments])
    assert stop.value.code == 0
    for case in ("a", "c"):
        assert labels(tmp_path / "three" / f"{case}.nii.gz").all()
    for path in predict_cases(PredictRequest([yes, never], images, tmp_path / "two")):
        assert not labels(path).any()


def test_the_volume_of_each_target_is_told_in_ml(checkpoint, images, tmp_path):
    (images / "b.nii.gz").unlink()
    said = []
    request = PredictRequest([biased(checkpoint, tmp_path, 300.0)], images, tmp_path / "out")
    predict_cases(request, said.append)
    image = nib.load(images / "a.nii.gz")
    ml = np.prod(image.shape[:3]) * np.prod(image.header.get_zooms()[:3]) / 1000
    assert ml > 1
    told = f"WT {ml:.1f} ml TC {ml:.1f} ml ET {ml:.1f} ml"
    first, second, *last = said
    assert re.fullmatch(rf"1/2 a \d+\.\d s · {re.escape(told)}", first)
    assert re.fullmatch(rf"2/2 c \d+\.\d s · {re.escape(told)}", second)
    assert last == [f"2 label files in {tmp_path / 'out'}", f"Trained on a {STAMP}"]


@pytest.mark.parametrize("synthetic", [True, False])
def test_one_member_trained_on_a_phantom_is_enough_to_say_so(
    checkpoint, images, tmp_path, synthetic
):
    loaded = load_checkpoint(checkpoint)
    members = [tmp_path / "first.pt", tmp_path / "second.pt"]
    for path, of_phantom in zip(members, (False, synthetic), strict=True):
        save_checkpoint(path, dataclasses.replace(loaded, synthetic=of_phantom))
    said = []
    predict_cases(PredictRequest(members, images / "a.nii.gz", tmp_path / "out"), said.append)
    assert (said[-1] == f"Trained on a {STAMP}") is synthetic
    assert (STAMP in "".join(said)) is synthetic


@pytest.mark.parametrize(("asked", "own", "flips"), [
    (None, "none", 1), (None, "flips", 4), ("flips", "none", 4), ("none", "flips", 1),
])  # fmt: skip
def test_flips_are_those_asked_for_or_the_runs_own(
    checkpoint, images, tmp_path, monkeypatch, asked, own, flips
):
    loaded = load_checkpoint(checkpoint)
    config = {name: dict(section) if isinstance(section, dict) else section
              for name, section in loaded.config.items()}  # fmt: skip
    config["infer"]["tta"] = own
    config["train"]["augment"] = {**config["train"]["augment"], "flip_axes": [0, 2]}
    save_checkpoint(tmp_path / "c.pt", dataclasses.replace(loaded, config=config))
    counted, predict_one = [], Predictor.predict

    def counting(self, image):
        counted.append(len(self.flips))
        return predict_one(self, image)

    monkeypatch.setattr(Predictor, "predict", counting)
    predict(tmp_path / "c.pt", images / "a.nii.gz", tmp_path / "out", tta=asked)
    assert counted == [flips]


def test_a_threshold_said_anew_decides(checkpoint, images, tmp_path):
    """Where any region's own probabilities, which no threshold touches, lie above it."""
    source, said = images / "a.nii.gz", []
    request = PredictRequest([checkpoint], source, tmp_path / "own", probabilities=True)
    predict_cases(request)
    maps = (tmp_path / "own/probabilities").glob("a_*.nii.gz")
    highest = np.max([nib.load(path).get_fdata() for path in maps], axis=0)
    threshold = float(np.quantile(highest, 0.9))
    overrides = (f"infer.threshold={threshold}", "infer.min_lesion_mm3=0")
    predict_cases(
        PredictRequest([checkpoint], source, tmp_path / "new", overrides=overrides), said.append
    )
    found = nib.load(tmp_path / "new/a.nii.gz").get_fdata() > 0
    assert 0.05 < found.mean() < 0.2
    assert (found != (highest > threshold)).mean() < 1e-4  # float32 beside the file's numbers
    assert said[0] == f"infer.threshold {threshold} in place of 0.5"
    assert len(said) == 4  # the case, the number of files, the phantom's stamp


def test_components_and_flips_said_anew_count(checkpoint, images, tmp_path):
    source, said = images / "a.nii.gz", []
    overrides = ("infer.threshold=0.01", "infer.min_lesion_mm3=1e9", "infer.tta=flips")
    request = PredictRequest(
        [checkpoint], source, tmp_path / "out", tta="none", overrides=overrides
    )
    predict_cases(request, said.append)
    assert not nib.load(tmp_path / "out/a.nii.gz").get_fdata().any()
    assert said[:2] == [
        "infer.tta flips in place of none", "infer.threshold 0.01 in place of 0.5"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.spacing_mm=[1,1,1]", "--set data.spacing_mm: a trained run predicts as it was"),
        ("infer={overlap: 0}", "--set infer: a trained run predicts as it was trained. Said anew"),
        ("infer.treshold=0.4", "--set: infer.treshold is not a setting. Did you mean"),
        ("infer.threshold=4", "--set: infer.threshold: "),
        ("threshold", "--set threshold: expected section.setting=value"),
    ],
)
def test_what_cannot_be_said_anew_is_told_before_a_folder_is_made(
    checkpoint, images, tmp_path, override, told
):
    with pytest.raises(UserError) as error:
        predict(checkpoint, images, tmp_path / "out", overrides=(override,))
    assert str(error.value).startswith(told)
    assert not (tmp_path / "out").exists()


def test_a_threshold_for_classes_is_told_to_change_nothing(checkpoint, images, tmp_path):
    loaded, warned = load_checkpoint(checkpoint), []
    classes = LabelScheme(("background", "oedema", "core"), (0, 1, 2))
    save_checkpoint(tmp_path / "c.pt", dataclasses.replace(loaded, scheme=classes))
    labels_by = {}
    for name, overrides in (("own", ()), ("new", ("infer.threshold=0.9",))):
        request = PredictRequest(
            [tmp_path / "c.pt"], images / "a.nii.gz", tmp_path / name, overrides=overrides
        )
        predict_cases(request, warn=warned.append)
        labels_by[name] = labels(tmp_path / name / "a.nii.gz")
    assert np.array_equal(labels_by["own"], labels_by["new"])
    assert [line[:27] for line in warned] == ["infer.threshold is of regio"]


def test_a_device_that_is_not_there_is_told_before_a_folder_is_made(checkpoint, images, tmp_path):
    with pytest.raises(UserError, match=r"^device: cuda:77 is not there; torch sees \d+ GPUs"):
        predict(checkpoint, images, tmp_path / "out", device="cuda:77")
    assert not (tmp_path / "out").exists()


def labels(path):
    return np.asarray(nib.load(path).dataobj)


def test_probabilities_are_written_beside_the_labels(checkpoint, images, tmp_path):
    (images / "b.nii.gz").unlink()
    plain = predict(checkpoint, images, tmp_path / "plain")
    arguments = ["-i", str(images), "--quiet", "-o", str(tmp_path / "both"), "--probabilities"]
    with pytest.raises(SystemExit) as stop:
        main(["--ckpt", str(biased(checkpoint, tmp_path, 0.5)), *arguments])
    assert stop.value.code == 0
    folder = tmp_path / "both" / "probabilities"
    regions = load_checkpoint(checkpoint).scheme.output_names
    assert names(folder) == sorted(f"{c}_{name}.nii.gz" for c in "ac" for name in regions)
    source = nib.load(images / "a.nii.gz")
    whole = nib.load(folder / f"a_{regions[0]}.nii.gz")
    assert whole.get_data_dtype() == np.float32
    assert whole.shape == source.shape[:3]
    assert np.array_equal(whole.affine, source.affine)
    values = np.stack([labels(folder / f"a_{region}.nii.gz") for region in regions])
    assert 0 < values.min() <= values.max() < 1
    assert np.array_equal((values > 0.5).any(0), labels(tmp_path / "both" / "a.nii.gz") > 0)
    assert names(plain[0].parent) == ["a.nii.gz", "c.nii.gz"]


def test_outputs_whose_names_differ_by_a_sign_keep_a_file_each(checkpoint, images, tmp_path):
    loaded = load_checkpoint(checkpoint)
    called = dict(zip(loaded.scheme.output_names, ("T1+", "T1-", "T1 "), strict=True))
    regions = tuple(dataclasses.replace(r, name=called[r.name]) for r in loaded.scheme.regions)
    renamed = tmp_path / "renamed.pt"
    scheme = dataclasses.replace(loaded.scheme, regions=regions)
    save_checkpoint(renamed, dataclasses.replace(loaded, scheme=scheme))
    for ckpt, out in ((checkpoint, "as_before"), (renamed, "signs")):
        predict_cases(
            PredictRequest([ckpt], images / "a.nii.gz", tmp_path / out, probabilities=True)
        )
    stems = dict(zip(called, ("a_T1%2B", "a_T1-", "a_T1%20"), strict=True))
    written = tmp_path / "signs" / "probabilities"
    assert names(written) == sorted(f"{stem}.nii.gz" for stem in stems.values())
    for name, stem in stems.items():
        expected = labels(tmp_path / "as_before" / "probabilities" / f"a_{name}.nii.gz")
        assert np.array_equal(labels(written / f"{stem}.nii.gz"), expected)


def test_checkpoints_that_cannot_be_joined_are_told(checkpoint, images, tmp_path, capsys):
    twice = ["--ckpt", str(checkpoint)] * 2
    with pytest.raises(SystemExit) as stop:
        main([*twice, "-i", str(images), "-o", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "--ckpt: the same checkpoint twice." in capsys.readouterr().err
    loaded = load_checkpoint(checkpoint)
    other = tmp_path / "other.pt"
    config = loaded.config | {"data": loaded.config["data"] | {"spacing_mm": [1.0, 1.0, 1.0]}}
    save_checkpoint(other, dataclasses.replace(loaded, config=config))
    with pytest.raises(UserError, match=r"differs from .* in data.spacing_mm"):
        predict_cases(PredictRequest([checkpoint, other], images, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_doubtful_headers_are_told_with_every_case_and_predicted(checkpoint, images, tmp_path):
    for name in "bc":
        volume = nib.load(images / "a.nii.gz")
        voxels, moved = np.asanyarray(volume.dataobj), volume.affine.copy()
        moved[0, 3] += 7
        volume.header.set_sform(volume.affine, 1)
        volume.header.set_qform(moved, 1)
        nib.save(nib.Nifti1Image(voxels, None, volume.header), images / f"{name}.nii.gz")
    warned = []
    written = predict_cases(PredictRequest([checkpoint], images, tmp_path), warn=warned.append)
    assert len(written) == 3
    (line,) = warned
    assert line == (
        "b: image: qform and sform differ by 7 mm in x; programs read one or the other (segfocal: "
        "the sform). Copy the right one over the other in b.nii.gz. The same in c."
    )


def test_labels_that_stay_without_probabilities_are_named(checkpoint, images, tmp_path):
    (images / "b.nii.gz").unlink()
    (label,) = predict(checkpoint, images / "a.nii.gz", tmp_path)
    label.write_bytes(b"mine")
    request = PredictRequest([checkpoint], images, tmp_path, go_on=True, probabilities=True)
    warned = []
    predict_cases(request, warn=warned.append)
    (line,) = warned
    assert line == (
        "a: predicted before, without probabilities; what is there stays as it is. Remove the "
        "label to have both written, or take another -o."
    )
    assert label.read_bytes() == b"mine"
    label.unlink()
    warned = []
    predict_cases(request, warn=warned.append)
    assert warned == []


@pytest.mark.parametrize("known", [True, False], ids=["new checkpoint", "old checkpoint"])
def test_voxels_of_another_size_than_those_trained_on_are_doubted(
    checkpoint, images, tmp_path, known
):
    loaded = load_checkpoint(checkpoint)
    assert loaded.spacing_mm is not None
    other = tmp_path / "other.pt"
    spacing = ((0.1, 0.1, 0.1), (0.2, 0.2, 0.2)) if known else None
    save_checkpoint(other, dataclasses.replace(loaded, spacing_mm=spacing))
    (images / "b.nii.gz").unlink()
    warned = []
    predict_cases(PredictRequest([other], images, tmp_path / "out"), warn=warned.append)
    if not known:
        assert warned == []
        return
    (line,) = warned
    assert line.startswith("a, c: voxels of ")
    assert "; the network was trained on 0.1x0.1x0.1 to 0.2x0.2x0.2 mm, and nothing" in line


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_on_another_axis_train_and_predict(phantom, tmp_path, axis):
    root = shutil.copytree(phantom, tmp_path / "data")
    for path in (*root.glob("imagesTr/*"), *root.glob("imagesTs/*")):
        image = nib.load(path)
        moved = np.moveaxis(np.asarray(image.dataobj), 3, axis)
        nib.save(nib.Nifti1Image(moved, image.affine), path)
    tiny_run(root, tmp_path / "run", "train.epochs=1", f"data.channel_dim={axis}")
    run = tmp_path / "run" / "best.pt"
    (path,) = predict(run, root, tmp_path / "out", probabilities=True)
    source = nib.load(phantom / "imagesTs" / path.name)
    maps = [*(tmp_path / "out" / "probabilities").iterdir()]
    assert len(maps) == 3
    for written in (path, *maps):
        assert nib.load(written).shape == source.shape[:3]
        assert np.array_equal(nib.load(written).affine, source.affine)


def test_a_header_that_promises_too_much_is_refused_by_words_that_predict_can_follow(
    checkpoint, tmp_path
):
    scan = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8, 4), np.float32), np.eye(4)), scan)
    raw = bytearray(scan.read_bytes())
    struct.pack_into("<5h", raw, 40, 4, 1000, 1000, 1000, 4)
    scan.write_bytes(raw)
    with pytest.raises(UserError) as caught:
        predict(checkpoint, scan, tmp_path / "out")
    assert str(caught.value) == (
        f"scan: {scan}: its header promises 1000x1000x1000x4 voxels, more than the 1000000000 that "
        f"the run of the checkpoint takes. Mend the header, or crop the image if it is that large."
    )


@pytest.mark.parametrize(
    ("shape", "fact"),
    [
        ((4, 32, 36, 28), "image 4x32x36x28 is channel-first"),
        ((32, 36, 28, 3), "image 32x36x28x3 holds 3 channels; expected 4 (FLAIR, T1w, T1gd, T2w)"),
    ],
)
def test_other_channels_are_refused_without_naming_a_setting_that_predict_has_not(
    checkpoint, tmp_path, shape, fact
):
    nib.save(nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4)), tmp_path / "scan.nii.gz")
    with pytest.raises(UserError) as caught:
        predict(checkpoint, tmp_path / "scan.nii.gz", tmp_path / "out")
    assert str(caught.value) == (
        f"scan: {fact}. The checkpoint reads 4 channels (FLAIR, T1w, T1gd, T2w) along the fourth "
        f"axis, as the files were that it was trained on. Write the image so."
    )


def test_channels_on_two_grids_are_refused_without_naming_a_setting(checkpoint, tmp_path):
    for number in range(4):
        affine = np.diag([1, 1, 1 + number, 1])
        image = nib.Nifti1Image(np.ones((32, 36, 28), np.float32), affine)
        nib.save(image, tmp_path / f"scan_{number:04d}.nii.gz")
    with pytest.raises(UserError, match=r"^scan: FLAIR and T1w .* in z") as caught:
        predict(checkpoint, tmp_path, tmp_path / "out")
    assert "data.resample_channels" not in str(caught.value)


def with_data(checkpoint, path, **settings):
    """A checkpoint of a run with these settings of `data`."""
    loaded = load_checkpoint(checkpoint)
    config = loaded.config | {"data": loaded.config["data"] | settings}
    save_checkpoint(path, dataclasses.replace(loaded, config=config))
    return path


def test_channels_on_two_grids_are_resampled_where_the_run_did_so(checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        shape, zoom = ((32, 36, 28), 1) if number != 1 else ((32, 36, 14), 2)
        image = nib.Nifti1Image(np.ones(shape, np.float32), np.diag([1, 1, zoom, 1]))
        nib.save(image, tmp_path / "in" / f"scan_{number:04d}.nii.gz")
    run = with_data(checkpoint, tmp_path / "run.pt", resample_channels=True)
    (path,) = predict(run, tmp_path / "in", tmp_path / "out")
    assert nib.load(path).shape == (32, 36, 28)


def test_an_image_of_more_voxels_than_the_run_took_is_refused(checkpoint, images, tmp_path):
    run = with_data(checkpoint, tmp_path / "run.pt", max_voxels=1000)
    with pytest.raises(UserError) as caught:
        predict(run, images, tmp_path / "out")
    assert str(caught.value) == (
        f"a: {images / 'a.nii.gz'}: its header promises 32x36x28x4 voxels, more than the 1000 that "
        f"the run of the checkpoint takes. Mend the header, or crop the image if it is that large."
    )
    assert not (tmp_path / "out").exists()


def test_many_cases_are_named_by_the_first_ten():
    ids = [f"c{number}" for number in range(12)]
    assert module._listed(ids[:10]) == "c0, c1, c2, c3, c4, c5, c6, c7, c8, c9"
    assert module._listed(ids) == "c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more"


def test_cases_that_would_share_a_file_of_probabilities_are_refused(checkpoint, phantom, tmp_path):
    loaded = load_checkpoint(checkpoint)
    named = zip(loaded.scheme.regions, ("WT", "T1_x", "x"), strict=True)
    regions = tuple(dataclasses.replace(region, name=name) for region, name in named)
    scheme = dataclasses.replace(loaded.scheme, regions=regions)
    other = tmp_path / "other.pt"
    save_checkpoint(other, dataclasses.replace(loaded, scheme=scheme))
    source = next((phantom / "imagesTs").iterdir())
    (tmp_path / "in").mkdir()
    for name in ("P1", "P1_T1"):
        shutil.copy(source, tmp_path / "in" / f"{name}.nii.gz")
    with pytest.raises(UserError) as caught:
        predict(other, tmp_path / "in", tmp_path / "out", probabilities=True)
    assert str(caught.value) == (
        "P1_T1_x.nii.gz would hold the probabilities of T1_x of P1 and of x of P1_T1. Predict one "
        "of the two into another -o."
    )
    assert not (tmp_path / "out").exists()
    assert len(predict(other, tmp_path / "in", tmp_path / "out")) == 2


@pytest.fixture(scope="module")
def folds(phantom, tmp_path_factory):
    """Two folds of a cross-validation: their checkpoints."""
    where = tmp_path_factory.mktemp("folds")
    settings = ("train.epochs=1", "network.prior_bias=false", "data.folds=2")
    for fold in (0, 1):
        tiny_run(phantom, where / str(fold), *settings, f"data.fold={fold}")
    return [where / "0/best.pt", where / "1/best.pt"]


def test_held_out_cases_are_predicted_by_the_run_that_did_not_learn_from_them(
    folds, phantom, tmp_path
):
    together = PredictRequest(folds, phantom / "imagesTr", tmp_path / "both", held_out=True)
    said = []
    written = {path.name for path in predict_cases(together, said.append)}
    splits = [json.loads((path.parent / "split.json").read_text()) for path in folds]
    assert written == {f"{case}.nii.gz" for split in splits for case in split["val"]}
    assert len(written) == len(list((phantom / "labelsTr").glob("*.nii.gz")))
    half = len(splits[0]["val"])
    assert said[:2] == [f"held out by {path}: {half} cases" for path in folds]
    for fold, split, path in zip("01", splits, folds, strict=True):
        predict(path, phantom / "imagesTr", tmp_path / fold)
        for case in split["val"]:
            alone = (tmp_path / fold / f"{case}.nii.gz").read_bytes()
            assert (tmp_path / "both" / f"{case}.nii.gz").read_bytes() == alone
    other = min(splits[0]["train"])
    alone = (tmp_path / "0" / f"{other}.nii.gz").read_bytes()
    assert (tmp_path / "both" / f"{other}.nii.gz").read_bytes() != alone


def test_cases_that_no_run_held_out_are_left_out_and_counted(folds, phantom, tmp_path, capsys):
    images = str(phantom / "imagesTr")
    with pytest.raises(SystemExit) as stop:
        main(["--ckpt", str(folds[0]), "-i", images, "-o", str(tmp_path / "a"), "--held-out"])
    assert stop.value.code == 0
    split = json.loads((folds[0].parent / "split.json").read_text())
    assert names(tmp_path / "a") == sorted(f"{case}.nii.gz" for case in split["val"])
    left_out = len(split["train"])
    assert f"left out: {left_out} cases that no run validated on\n" in capsys.readouterr().out


def test_held_out_cases_that_cannot_be_told_are_a_mistake(folds, phantom, tmp_path):
    with pytest.raises(UserError) as error:
        predict(folds[0], phantom, tmp_path / "out", held_out=True)
    assert str(error.value) == (
        "--held-out: none of the 1 cases of -i was held out by the runs of --ckpt. Pass the images "
        "that the runs were started with (imagesTr)."
    )
    alone = tmp_path / "best.pt"
    shutil.copy(folds[0], alone)
    with pytest.raises(UserError, match=r"--held-out: .*split.json does not exist. Pass checkp"):
        predict(alone, phantom / "imagesTr", tmp_path / "out", held_out=True)
    (tmp_path / "split.json").write_text('{"train": []}')
    with pytest.raises(UserError, match=r"split.json: val: expected a list of case ids"):
        predict(alone, phantom / "imagesTr", tmp_path / "out", held_out=True)
    assert not (tmp_path / "out").exists()


def test_several_checkpoints_may_follow_one_option(folds, phantom, tmp_path):
    paths = [str(path) for path in folds]
    twice = ["--ckpt", paths[0], "--ckpt", paths[1]]
    for name, options in (("a", ["--ckpt", *paths]), ("b", twice)):
        with pytest.raises(SystemExit) as stop:
            main([*options, "-i", str(phantom), "-o", str(tmp_path / name)])
        assert stop.value.code == 0
    (label,) = names(tmp_path / "a")
    assert (tmp_path / "a" / label).read_bytes() == (tmp_path / "b" / label).read_bytes()
