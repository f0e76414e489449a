"""A bundle run by MONAI: what segfocal-predict writes, and what MONAI asks of a bundle."""

import errno
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import ignite
import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from monai.transforms import (
    AsDiscrete,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
)

import segfocal
from segfocal.checkpoint import load_checkpoint, save_checkpoint
from segfocal.data.phantom.stamp import STAMP
from segfocal.errors import UserError
from segfocal.export import bundle_metadata, bundle_readme
from segfocal.export.bundle_config import literal
from segfocal.export.model import load_model
from segfocal.export.run import ExportRequest, export
from segfocal.inference.predict_cases import PredictRequest, predict_cases
from segfocal.labels import LabelScheme, Region

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(ignite|monai|torch)")

MANDATORY = (
    "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
    "task", "description", "authors", "copyright", "network_data_format",
)  # fmt: skip
MANDATORY_OF_A_TENSOR = (
    "type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range",
    "is_patch_data", "channel_def",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_excepthook(monkeypatch):
    """A bundle changes it for its process, and many run in this one."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def write(run, **options):
    out = run / "bundle"
    export(ExportRequest("bundle", run=run, out=out, **options), lambda _line: None)
    return out


def workflow(bundle, **settings):
    """The bundle as MONAI has it, ready to run; `settings` overrides its config."""
    work = ConfigWorkflow(
        str(bundle / "configs" / "inference.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        **settings,
    )
    work.initialize()
    return work


def run_bundle(bundle, images, **settings):
    out = bundle.parent / "from_bundle"
    workflow(bundle, dataset_dir=str(images), output_dir=str(out), **settings).run()
    return {path.name: path for path in sorted(out.iterdir())}


def predict(run, images):
    request = PredictRequest([run / "best.pt"], images, run / "predicted")
    return {path.name: path for path in predict_cases(request)}


def contents(paths):
    return {name: path.read_bytes() for name, path in paths.items()}


def classes_in(paths):
    return set().union(*(np.unique(np.asarray(nib.load(path).dataobj)) for path in paths.values()))


REGIONS = (Region("WT", (1, 2, 3), 1), Region("TC", (2, 3), 2), Region("ET", (3,), 3))
WINDOWS = "data.normalize={FLAIR: [0, 800], T1w: zscore, T1gd: none, T2w: [10, 500]}"


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("infer.overlap=0.6", "infer.mode=constant", "infer.threshold=0.52", "data.pad=true"),
        ("infer.tta=flips", "train.augment.flip_axes=[0, 2]", "infer.min_lesion_mm3=400"),
        ("data.spacing_mm=[5.5, 3.1, 4.2]", "infer.keep_largest=true", "infer.overlap=0.25"),
        ("data.channels=[T2w, FLAIR]", "data.normalize=[0, 600]"),
        ("data.labels=null", "data.regions_class_order=null", WINDOWS),
        ("data.labels=null", "data.regions_class_order=null", "data.spacing_mm=[2.5, 6, 5]"),
        ("train.amp=bf16", "network.name=tests.export.run_folders.TwoLayers", "network.args={}"),
        ("network.name=UNet", "network.args={channels: [4, 8, 8], strides: [2, 2]}"),
        ("network.name=monai.networks.nets.BasicUNet", "network.args={features: [4,4,4,4,4,4]}",
         "train.patch_size=[32, 32, 32]"),
    ],
    ids=["regions", "overlap", "flips", "resampled", "channels", "windows", "softmax-resampled",
         "bf16", "unet", "dotted"],
)  # fmt: skip
def test_the_labels_are_those_of_predict_to_the_byte(run_folder, phantom, settings):
    run = run_folder(*settings)
    images = phantom / "imagesTr"
    expected, got = predict(run, images), run_bundle(write(run), images)
    assert got.keys() == expected.keys()
    assert len(got) == 6
    assert len(classes_in(expected)) >= 2
    assert contents(got) == contents(expected)


def test_a_file_a_channel_and_other_values_come_out_alike(run_folder, phantom, tmp_path):
    """nnU-Net's naming, oblique anisotropic voxels, label values with a gap."""
    run = run_folder(scheme=LabelScheme(("air", "a", "b", "c"), (0, 1, 2, 300), REGIONS))
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    turn = np.array([[0.9, -0.3, 0.1, 5], [0.4, 0.8, 0, -7], [0, 0.2, -4, 11], [0, 0, 0, 1.0]])
    for channel in range(4):
        volume = nib.Nifti1Image(rng.integers(0, 900, (30, 25, 9)).astype(np.int16), turn)
        nib.save(volume, images / f"C7_{channel:04d}.nii.gz")
    expected, got = predict(run, images), run_bundle(write(run), images)
    assert list(got) == ["C7.nii.gz"]
    assert contents(got) == contents(expected)
    assert 300 in classes_in(got)


def test_where_channels_lie_and_how_files_are_named_is_known(run_folder, tmp_path):
    run = run_folder()
    checkpoint = load_checkpoint(run / "best.pt")
    checkpoint.config["data"].update(
        channel_dim=0, image_pattern="{case}/{case}*.nii.gz", label_pattern="{case}/{case}_seg"
    )
    save_checkpoint(run / "best.pt", checkpoint)
    volume = np.random.default_rng(0).integers(0, 900, (4, 20, 18, 7)).astype(np.int16)
    for case in ("P1", "P2"):
        (tmp_path / "images" / case).mkdir(parents=True)
        path = tmp_path / "images" / case / f"{case}_all.nii.gz"
        nib.save(nib.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0])), path)
        nib.save(nib.Nifti1Image(volume[0], np.eye(4)), path.with_name(f"{case}_seg.nii.gz"))
    expected = predict(run, tmp_path / "images")
    assert list(expected) == ["P1.nii.gz", "P2.nii.gz"]
    assert contents(run_bundle(write(run), tmp_path / "images")) == contents(expected)


@pytest.mark.slow
def test_monai_run_as_a_user_types_it(run_folder, phantom, tmp_path):
    run = run_folder()
    bundle = write(run)
    images = phantom / "imagesTs"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run"),
            *("--config_file", "configs/inference.json", "--bundle_root", "."),
            *("--dataset_dir", str(images), "--output_dir", str(tmp_path / "labels")),
        ],
        cwd=bundle,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "PHANTOM_TEST_001.nii.gz" in done.stdout
    for name, path in predict(run, images).items():
        assert (tmp_path / "labels" / name).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("--dataset_dir", "scans"), r"scans: does not exist\. Expected a volume or a folder .*"),
        (("--datalist", "[{'image': 'x.nii.gz'}]"), r"x: x\.nii\.gz: does not exist\. .*"),
    ],
    ids=["folder", "file"],
)
def test_a_users_mistake_ends_in_a_line_and_no_traceback(run_folder, settings, said):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run", "--bundle_root", "."),
            *("--config_file", "configs/inference.json", *settings),
        ],
        cwd=write(run_folder()),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert re.fullmatch(said, done.stderr.splitlines()[-1])


def test_cases_come_one_at_a_time_in_order_by_the_process_itself(run_folder, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(9):
        (tmp_path / "images" / f"{number}.nii").write_bytes(b"not read here")
    work = workflow(write(run_folder()), dataset_dir=str(tmp_path / "images"))
    loader = work.parser.get_parsed_content("dataloader")
    assert (loader.batch_size, loader.num_workers, list(loader.sampler)) == (1, 0, [*range(9)])


def test_files_may_be_named_in_place_of_a_folder(run_folder, phantom):
    run = run_folder()
    path = phantom / "imagesTr" / "PHANTOM_002.nii.gz"
    got = run_bundle(write(run), phantom, datalist=[{"image": str(path)}])
    assert contents(got) == contents(predict(run, path))


def test_network_and_weights_do_the_same_in_a_pipeline_of_monais_alone(run_folder, phantom):
    """The oracle: MONAI's transforms and inferer, nothing of segfocal's but the weights."""
    run = run_folder("infer.overlap=0.5")
    bundle = write(run)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    steps = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    name = "PHANTOM_003.nii.gz"
    data = steps({"image": str(phantom / "imagesTr" / name)})
    infer = monai.inferers.SlidingWindowInferer(16, 2, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        data["pred"] = infer(data["image"][None], network)[0]
    data = Invertd("pred", steps, orig_keys="image", nearest_interp=False)(data)
    wt, tc, et = AsDiscrete(threshold=0.5)(data["pred"].sigmoid()).numpy() > 0
    expected = np.where(et, 3, np.where(tc, 2, np.where(wt, 1, 0)))
    got = np.asarray(nib.load(run_bundle(bundle, phantom / "imagesTr")[name]).dataobj)
    assert got.shape == expected.shape
    assert np.unique(expected).size >= 3
    # a voxel whose probability is one half but for rounding may fall to the other side
    assert np.mean(got != expected) < 1e-3


def test_monai_finds_what_it_requires(run_folder, phantom):
    run = run_folder()
    work = workflow(write(run), dataset_dir=str(phantom))
    assert work.check_properties() == []
    assert work.version == "0.1.0"
    assert work.channel_def == {"0": "WT", "1": "TC", "2": "ET"}
    assert work.spatial_shape == ["2*n", "2*n", "2*n"]
    config = json.loads((run / "bundle" / "configs" / "inference.json").read_text())
    assert '"label"' not in json.dumps(config["preprocessing"])


@pytest.mark.parametrize("network", ["SegResNet", "tests.export.run_folders.OneSize"])
def test_monai_verifies_the_networks_input_and_output(run_folder, network):
    args = "{}" if network.startswith("tests") else "{init_filters: 8}"
    bundle = write(run_folder(f"network.name={network}", f"network.args={args}"))
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        n=2,
    )


def test_the_metadata_hold_what_the_specification_asks_for(run_folder):
    bundle = write(run_folder("data.normalize=[0, 500]", "data.channels=[T2w, T1w]"))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert [key for key in MANDATORY if key not in metadata] == []
    tensors = metadata["network_data_format"]
    for tensor in (tensors["inputs"]["image"], tensors["outputs"]["pred"]):
        assert [key for key in MANDATORY_OF_A_TENSOR if key not in tensor] == []
    assert tensors["inputs"]["image"]["channel_def"] == {"0": "T2w", "1": "T1w"}
    assert tensors["inputs"]["image"]["value_range"] == [-1, 1]
    assert tensors["outputs"]["pred"]["format"] == "classes"
    assert metadata["eval_metrics"] == {"validation_mean_dice": 0.625, "validation_cases": 2}
    assert metadata["segfocal"]["input"]["normalize"] == {"T2w": [0, 500], "T1w": [0, 500]}
    assert metadata["required_packages_version"].keys() == {
        "segfocal", "nibabel", "pytorch-ignite", "fire",
    }  # fmt: skip


def test_the_metadata_say_what_goes_in_and_comes_out(run_folder):
    scheme = LabelScheme(("air", "a", "b", "c"), (0, 1, 2, 300), REGIONS)
    bundle = write(run_folder(WINDOWS, scheme=scheme, synthetic=False))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    expected = {
        "name": "Segmentation of WT, TC, ET",
        "task": "Segmentation of WT, TC, ET in 3D volumes of FLAIR, T1w, T1gd, T2w",
        "data_type": "NIfTI",
        "image_classes": "4 channels: FLAIR, T1w, T1gd, T2w",
        "label_classes": "one channel: 0 is air, 1 is a, 2 is b, 300 is c",
        "pred_classes": "3 channels of logits (sigmoid): WT, TC, ET",
        "intended_use": "Research. Not a medical device; not for clinical use.",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["description"] == (
        "SegResNet, trained with segfocal, epoch 3, mean Dice of its validation 0.625 over 2 "
        "cases; maps volumes of FLAIR, T1w, T1gd, T2w to label maps on their own grid."
    )
    image, pred = (
        metadata["network_data_format"][side][name]
        for side, name in (("inputs", "image"), ("outputs", "pred"))
    )
    # channels that are not cut to a window have no bounds, and so the image has none
    assert (image["value_range"], image["num_channels"], pred["num_channels"]) == ([], 4, 3)
    assert pred["channel_def"] == {"0": "WT", "1": "TC", "2": "ET"}
    assert image["is_patch_data"] is pred["is_patch_data"] is True


@pytest.mark.parametrize(
    ("split", "over"),
    [('{"val": ["b"]}', " over 1 case"), ('{"val": ["b", "c", "d"]}', " over 3 cases"), (None, "")],
)
def test_a_score_says_over_how_many_cases_it_is_and_of_a_phantom_that_it_is_one(
    run_folder, split, over
):
    progress = {"epoch": 7, "best_epoch": 7, "best_score": 0.123456}
    run = run_folder(progress=progress)
    (run / "split.json").unlink()
    if split is not None:
        (run / "split.json").write_text(split)
    model = load_model(run / "best.pt", run)
    text = f"epoch 7, mean Dice of its validation 0.123{over}"
    assert bundle_metadata.epoch_text(model) == f"{text} ({STAMP})"
    scores = bundle_metadata.bundle_metadata(model)["eval_metrics"]
    assert scores["validation_mean_dice"] == 0.1235


def test_versions_are_told_without_the_name_of_a_build(run_folder, monkeypatch):
    monkeypatch.setattr(bundle_metadata.torch, "__version__", "2.99.1+cu999")
    monkeypatch.setattr(bundle_metadata.monai, "__version__", "1.9.0")
    monkeypatch.setattr(bundle_metadata.np, "__version__", "3.0.0rc1")
    run = run_folder()
    metadata = bundle_metadata.bundle_metadata(load_model(run / "best.pt", run))
    versions = [metadata[f"{name}_version"] for name in ("pytorch", "monai", "numpy")]
    assert versions == ["2.99.1", "1.9.0", "3.0.0rc1"]


def test_versions_are_the_installed_ones_and_those_tested_where_none_is(monkeypatch):
    tested = {"pytorch-ignite": "0.0", "no-package-of-this-name": "1.2"}
    monkeypatch.setattr(bundle_metadata, "_RUNNERS", tested)
    assert bundle_metadata.required_packages() == {
        "segfocal": segfocal.__version__,
        "nibabel": nib.__version__,
        "pytorch-ignite": ignite.__version__,
        "no-package-of-this-name": "1.2",
    }


def test_a_score_of_another_epoch_is_not_this_checkpoints(run_folder):
    progress = {"epoch": 4, "best_epoch": 3, "best_score": 0.625}
    bundle = write(run_folder(progress=progress))
    assert "eval_metrics" not in json.loads((bundle / "configs" / "metadata.json").read_text())
    assert "0.625" not in (bundle / "docs" / "README.md").read_text()


def test_a_validation_without_a_mean_dice_leaves_none_in_the_bundle(run_folder):
    progress = {"epoch": 3, "best_epoch": 3, "best_score": math.nan}
    bundle = write(run_folder(progress=progress))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert "eval_metrics" not in metadata
    assert "nan" not in (bundle / "docs" / "README.md").read_text().split()


@pytest.mark.parametrize("split", ["{}", '{"val": "case"}'])
def test_a_split_without_a_list_of_cases_is_told_in_a_line(run_folder, split):
    run = run_folder()
    (run / "split.json").write_text(split)
    with pytest.raises(UserError) as error:
        write(run)
    assert str(error.value) == f"{run / 'split.json'}: val: expected a list of case ids."
    (run / "split.json").unlink()
    metadata = json.loads((write(run) / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"] == {"validation_mean_dice": 0.625, "validation_cases": None}


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_phantom_is_called_one(run_folder, synthetic):
    bundle = write(run_folder(synthetic=synthetic))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    for text in (metadata["task"], metadata["description"], metadata["intended_use"]):
        assert (STAMP in text) is synthetic
    assert metadata.get("notice") == (STAMP if synthetic else None)
    readme = (bundle / "docs" / "README.md").read_text()
    assert (STAMP in readme) is (f"\n\n**{STAMP}**\n\n" in readme) is synthetic


def test_the_weights_are_a_plain_state_dict(run_folder):
    run = run_folder()
    weights = torch.load(write(run) / "models" / "model.pt", weights_only=True)
    expected = load_checkpoint(run / "best.pt").model
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_python_of_the_readme_loads_the_network(run_folder, monkeypatch):
    run = run_folder()
    bundle = write(run)
    (code,) = re.findall(
        r"```python\n(.*?)```", (bundle / "docs" / "README.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(bundle)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    expected = load_checkpoint(run / "best.pt").model
    got = names["network"].state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_the_readme_says_what_prediction_does(run_folder):
    run = run_folder(
        "data.normalize={FLAIR: [0, 800], T1w: zscore, T1gd: none, T2w: zscore_nonzero}",
        "infer.min_lesion_mm3=0.5", "infer.keep_largest=true", "infer.threshold=0.3",
        "infer.tta=flips", synthetic=False,
    )  # fmt: skip
    readme = (write(run) / "docs" / "README.md").read_text()
    text = " ".join(readme.split())
    assert "| FLAIR | clipped to 0 .. 800, scaled to -1 .. 1 |" in readme
    assert "| T1gd | as it is |" in readme
    assert "in this order: FLAIR, T1w, T1gd, T2w." in text
    assert "not resampled: the network was trained on voxels of 1x1x1 to 1x1x2 mm" in text
    assert "where its probability is above 0.3;" in text
    assert "Components below 0.5 mm3 are removed. Only the largest component is kept." in text
    assert "averaged over mirrored windows" in text
    assert "one 4-D file a case or `CASE_0000.nii.gz`, `CASE_0001.nii.gz` ... one a chan" in text
    assert "[{'image': ['/path/CASE_0000.nii.gz', '/path/CASE_0001.nii.gz']}]" in text
    assert "a plain state dict, need MONAI and torch alone:" in text
    assert "epoch 3, mean Dice of its validation 0.625 over 2 cases." in text
    assert "| 3 | enhancing |" in readme
    assert max(len(line) for line in readme.splitlines()) < 120


def test_the_readme_of_a_plain_model_of_one_channel(run_folder):
    run = run_folder(
        "data.channels=[T2w]", "data.labels=null", "data.regions_class_order=null",
        "network.name=tests.export.run_folders.TwoLayers", "network.args={}", "infer.overlap=0.25",
        "train.patch_size=[8, 16, 24]",
        file_channels=("T2w",), spacing_mm=None, synthetic=False,
        progress={"epoch": 4, "best_epoch": 3, "best_score": 0.625},
    )  # fmt: skip
    text = " ".join((write(run) / "docs" / "README.md").read_text().split())
    for told in (
        f"exported by segfocal {segfocal.__version__} from `best.pt`: tests.export.run_folders.",
        "TwoLayers, epoch 4. Not a medical device",
        f"It was written with MONAI {monai.__version__}, torch {torch.__version__.split('+')[0]}, ",
        "`dataset_dir` is a folder of NIfTI files, one a case, or a data set in a layout",
        "`--datalist \"[{'image': '/path/CASE.nii.gz'}]\"` names files",
        "the channels are, in this order: T2w. Volumes are turned to the axes R, A, S and not ",
        "A, S and not resampled. The network sees windows of 8 x 16 x 24 voxels, which overlap by ",
        "which overlap by 0.25 of their length.",
        "The network gives 4 logits a voxel (softmax): background, ",
        "Nothing is removed from it.",
        "a plain state dict, need `tests`, MONAI and torch:",
    ):
        assert told in text
    assert "**" not in text


def test_paragraphs_are_broken_between_words_and_code_tables_and_headings_are_not():
    words, long = " ".join(["word"] * 20), "x" * 120
    code = f"```\n{'y ' * 80}\n\n{'z ' * 80}\n```"
    rest = f"{code}\n\n| {'c ' * 80}|\n\n# {'h ' * 80}"
    filled = bundle_readme._filled(f"{words[:-5]} half-word {long}\n\n{words} w\n\n{rest}")
    expected = f"{words[:-5]}\nhalf-word\n{long}\n\n{words}\nw\n\n{rest}\n"
    assert filled == expected


def test_no_place_of_the_training_is_told(run_folder, phantom):
    bundle = write(run_folder())
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        for place in (phantom, phantom.parent, bundle.parent.parent):
            assert str(place).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["$print(1)", "@network", "%dataset"])
def test_a_name_that_monai_would_evaluate_is_refused(run_folder, name):
    run = run_folder(
        "data.labels=null", "data.regions_class_order=null",
        scheme=LabelScheme(("air", "a", "b", name), (0, 1, 2, 3)),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"which MONAI would evaluate\. Rename it"):
        write(run)
    assert not (run / "bundle").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_run_or_checkpoint_whose_name_monai_would_look_up_is_refused(run_folder, kind):
    run = run_folder()
    odd = run.with_name("%run") if kind == "folder" else run / "%best.pt"
    (run if kind == "folder" else run / "best.pt").rename(odd)
    checkpoint = odd / "best.pt" if kind == "folder" else odd
    out = run.parent / "out"
    with pytest.raises(UserError, match=r"^the name '%.*' begins with %, .*\. Rename it \(the "):
        export(ExportRequest("bundle", checkpoint=checkpoint, out=out), lambda _line: None)
    assert not out.exists()


def test_a_setting_that_monai_would_make_something_of_is_refused(run_folder):
    target = {"_target_": "os.getcwd"}
    run = run_folder()
    checkpoint = load_checkpoint(run / "best.pt")
    checkpoint.config["data"]["image_pattern"] = target
    save_checkpoint(run / "best.pt", checkpoint)
    with pytest.raises(UserError, match=r"key '_target_' in a setting would mean something"):
        write(run)


def test_a_network_that_answers_with_several_tensors_is_refused(run_folder):
    run = run_folder("network.name=tests.export.run_folders.TwoHeads", "network.args={}")
    before = sorted(run.iterdir())
    with pytest.raises(UserError) as error:
        write(run)
    assert str(error.value) == (
        "network: expected logits of shape (1, 3, 16, 16, 16) for a 16x16x16 patch, got list."
    )
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    "value",
    ["plain", "$print(1)", " $print(1)", "lesion #2", "@network", "%network", "a::b", "+x", "x@#y",
     "it's \"$x\" \\ @y", "é\n#", "", ["$1", {"k": "@2"}], {"k": ["%3"]}, 1.5, None, True],
)  # fmt: skip
def test_a_literal_is_given_back_by_monais_parser(value):
    parser = ConfigParser({"network": 1, "value": literal(value)})
    parser.parse()
    assert parser.get_parsed_content("value") == value


def test_a_disk_that_fills_up_leaves_no_bundle(run_folder, monkeypatch):
    run = run_folder()

    def full(*_arguments):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:  # as torch's writer does while it closes what could not be written
            raise RuntimeError("unexpected pos 32768 vs 32720")

    monkeypatch.setattr(torch, "save", full)
    before = sorted(run.iterdir())
    with pytest.raises(OSError, match="No space") as caught:
        write(run)
    assert caught.value.filename == str(run / "bundle")
    assert sorted(run.iterdir()) == before
