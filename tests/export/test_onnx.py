"""An ONNX file: the network's numbers under ONNX Runtime, and what the file says of itself."""

import importlib.util
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from segfocal.checkpoint import load_checkpoint
from segfocal.data.phantom.stamp import STAMP
from segfocal.errors import RunFailedError, UserError
from segfocal.export import onnx as module
from segfocal.export import run as run_module
from segfocal.export.model import load_model
from segfocal.export.run import ExportRequest, export
from segfocal.networks import build_network
from tests.export.run_folders import TwoLayers

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(torch|onnx|copyreg|onnxscript)")


TWO_LAYERS = ("network.name=tests.export.run_folders.TwoLayers", "network.args={}")


def write(run, **options):
    out = run / "model.onnx"
    lines = []
    told = export(ExportRequest("onnx", run=run, out=out, **options), lines.append)
    return out, lines, told


def network_of(checkpoint, weights=None):
    """Built by hand from what the checkpoint holds."""
    config = checkpoint.config["network"]
    network = build_network(
        config["name"],
        config["args"],
        in_channels=len(checkpoint.channels),
        out_channels=checkpoint.scheme.num_outputs,
    )
    network.load_state_dict(weights or checkpoint.model)
    return network.eval()


def logits_of(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images.numpy()})[0]


def assert_computes(path, network, shapes):
    generator = torch.Generator().manual_seed(5)
    for shape in shapes:
        images = torch.randn(shape, generator=generator)
        with torch.inference_mode():
            expected = network(images)
        np.testing.assert_allclose(logits_of(path, images), expected.numpy(), rtol=0, atol=1e-4)


def dims(value):
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def test_any_batch_and_size_in_multiples_of_the_divisor_gives_the_networks_logits(run_folder):
    run = run_folder()
    path, lines, told = write(run)
    assert_computes(
        path,
        network_of(load_checkpoint(run / "best.pt")),
        [(1, 4, 16, 16, 16), (3, 4, 32, 6, 10), (2, 4, 2, 24, 4)],
    )
    graph = onnx.load(path).graph
    assert [(value.name, dims(value)) for value in graph.input] == [
        ("image", ["batch", 4, "2*r", "2*a", "2*s"])
    ]
    assert [(value.name, dims(value)) for value in graph.output] == [
        ("logits", ["batch", 3, "2*r", "2*a", "2*s"])
    ]
    assert lines[1] == "sizes  image (batch, 4, 2*r, 2*a, 2*s) to logits (batch, 3, 2*r, 2*a, 2*s)"
    assert lines[2].startswith("check  onnx.checker; onnxruntime beside the network: logits differ")
    assert 0 <= told["largest_difference"] < 1e-4


def test_a_network_without_a_divisor_takes_any_size(run_folder):
    run = run_folder(*TWO_LAYERS)
    path, lines, _ = write(run)
    network = network_of(load_checkpoint(run / "best.pt"))
    assert_computes(path, network, [(1, 4, 1, 1, 1), (2, 4, 7, 5, 3)])
    assert dims(onnx.load(path).graph.input[0]) == ["batch", 4, "r", "a", "s"]
    assert lines[1] == "sizes  image (batch, 4, r, a, s) to logits (batch, 3, r, a, s)"


def test_a_patch_that_is_the_divisor_itself_is_not_taken_for_the_only_size(run_folder):
    run = run_folder("network.name=tests.export.run_folders.Strided", "network.args={}")
    path, lines, _ = write(run)
    network = network_of(load_checkpoint(run / "best.pt"))
    assert_computes(path, network, [(1, 4, 16, 16, 16), (2, 4, 32, 16, 48)])
    assert "image (batch, 4, 16*r, 16*a, 16*s)" in lines[1]


@pytest.mark.parametrize("runtime", [True, False])
def test_sizes_that_the_graph_gets_wrong_are_not_offered(run_folder, monkeypatch, runtime):
    """It pads by what it met when it was exported: right for multiples of its stride alone."""
    if not runtime:
        find = importlib.util.find_spec
        monkeypatch.setattr(module, "find_spec", lambda n: None if n == "onnxruntime" else find(n))
    run = run_folder("network.name=tests.export.run_folders.PadsInside", "network.args={}")
    path, lines, _ = write(run)
    network = network_of(load_checkpoint(run / "best.pt"))
    assert_computes(path, network, [(1, 4, 16, 16, 16), (2, 4, 32, 16, 48)])
    assert "image (batch, 4, 16*r, 16*a, 16*s)" in lines[1]
    assert lines[1].endswith("takes steps of 1, 1, 1, which ONNX could not express")


def model_of(patch_size, divisors):
    """What sizes are told of, without a network."""
    return SimpleNamespace(
        patch_size=patch_size,
        divisors=divisors,
        checkpoint=SimpleNamespace(channels=("CT", "PET")),
        scheme=SimpleNamespace(num_outputs=5),
    )


@pytest.mark.parametrize(
    ("patch_size", "divisors", "expected"),
    [
        ((64, 64, 64), (1, 1, 1), [(1, 1, 1), (16, 16, 16), (32, 32, 32)]),
        ((96, 96, 48), (8, 8, 1), [(8, 8, 1), (16, 16, 16)]),
        ((96, 96, 48), (24, 3, 16), [(24, 3, 16), (48, 48, 16)]),
        ((64, 64, 64), (16, 16, 16), [(16, 16, 16), (32, 32, 32)]),
        ((40, 64, 64), (8, 4, 4), [(8, 4, 4)]),
        ((40, 64, 64), (None, 4, 64), [(None, 4, 64), (None, 16, 64), (None, 32, 64)]),
        ((40, 40, 40), (None, None, None), []),
    ],
)
def test_sizes_are_tried_in_the_networks_steps_then_in_16_and_32_where_the_patch_is_such(
    patch_size, divisors, expected
):
    steps = module._steps(model_of(patch_size, divisors))
    assert steps == [*expected, (None, None, None)]


@pytest.mark.parametrize(
    ("divisors", "steps", "sizes", "more"),
    [
        ((8, 1, None), (8, 1, None), "8*r, a, 48", ""),
        ((8, 1, 4), (16, 16, 4), "16*r, 16*a, 4*s", "8, 1, 4"),
        ((8, 1, None), (16, 16, None), "16*r, 16*a, 48", "8, 1, none"),
        ((8, 1, 4), (None, None, None), "96, 64, 48", "alone"),
        ((None, None, None), (None, None, None), "96, 64, 48", ""),
    ],
)
def test_the_sizes_that_the_file_takes_are_told(divisors, steps, sizes, more):
    told = module._sizes_text(model_of((96, 64, 48), divisors), steps)
    text = f"image (batch, 2, {sizes}) to logits (batch, 5, {sizes})"
    if more == "alone":
        assert told == f"{text}, the patch's alone"
    elif more:
        assert told == (
            f"{text}; the network itself takes steps of {more}, which ONNX could not express"
        )
    else:
        assert told == text


def test_heads_for_deep_supervision_are_left_out(run_folder):
    args = (
        "{kernel_size: [3, 3, 3], strides: [1, 2, [2, 2, 1]], upsample_kernel_size: [2, [2, 2, 1]],"
        " filters: [4, 6, 8], deep_supervision: true, deep_supr_num: 1}"
    )
    run = run_folder("network.name=DynUNet", f"network.args={args}")
    path, lines, _ = write(run)
    assert "image (batch, 4, 4*r, 4*a, 2*s)" in lines[1]
    network = network_of(load_checkpoint(run / "best.pt"))
    assert_computes(path, network, [(1, 4, 16, 16, 16), (2, 4, 8, 12, 6)])
    names = {weight.name for weight in onnx.load(path).graph.initializer}
    assert not [name for name in names if "deep_supervision" in name]


def test_a_network_of_one_size_is_written_for_it_with_any_batch(run_folder):
    run = run_folder("network.name=tests.export.run_folders.OneSize", "network.args={}")
    path, lines, _ = write(run)
    network = network_of(load_checkpoint(run / "best.pt"))
    assert_computes(path, network, [(1, 4, 16, 16, 16), (3, 4, 16, 16, 16)])
    assert lines[1] == "sizes  image (batch, 4, 16, 16, 16) to logits (batch, 3, 16, 16, 16)"


def test_a_size_may_be_fixed_on_demand(run_folder):
    run = run_folder(*TWO_LAYERS)
    path, lines, _ = write(run, fixed_size=True)
    assert dims(onnx.load(path).graph.input[0]) == ["batch", 4, 16, 16, 16]
    network = network_of(load_checkpoint(run / "best.pt"))
    assert_computes(path, network, [(1, 4, 16, 16, 16), (3, 4, 16, 16, 16)])
    assert lines[1].endswith("to logits (batch, 3, 16, 16, 16), the patch's alone")


def test_the_weights_are_those_that_prediction_uses(run_folder):
    """With a moving average a checkpoint holds the raw weights too, to go on from."""
    raw = TwoLayers(4, 3).state_dict()
    run = run_folder(*TWO_LAYERS, resume={"network": raw})
    (run / "best.pt").rename(run / "last.pt")
    path, _, told = write(run, checkpoint=run / "last.pt")
    checkpoint = load_checkpoint(run / "last.pt")
    assert_computes(path, network_of(checkpoint), [(1, 4, 16, 16, 16)])
    with pytest.raises(AssertionError):
        assert_computes(path, network_of(checkpoint, raw), [(1, 4, 16, 16, 16)])
    assert told["provenance"]["checkpoint"] == "last.pt"


def test_the_file_says_how_to_prepare_and_to_decide(run_folder):
    run = run_folder(
        "data.spacing_mm=[2, 1, 3]", "data.channels=[T2w, FLAIR]", "infer.overlap=0.25",
        "data.normalize={T2w: [0, 800], FLAIR: zscore}", "infer.threshold=0.4",
        *TWO_LAYERS, "infer.min_lesion_mm3=7", "infer.tta=flips", "train.augment.flip_axes=[1]",
    )  # fmt: skip
    proto = onnx.load(write(run)[0])
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    facts = json.loads(properties["segfocal"])
    assert facts["input"] == {
        "channels": ["T2w", "FLAIR"],
        "axes": "RAS",
        "spacing_mm": [2, 1, 3],
        "trained_on_spacing_mm": [[1, 1, 1], [1, 1, 2]],
        "normalize": {"T2w": [0, 800], "FLAIR": "zscore"},
    }
    assert facts["output"]["names"] == ["WT", "TC", "ET"]
    assert facts["output"]["activation"] == "sigmoid"
    assert facts["output"]["threshold"] == 0.4
    assert facts["output"]["labels"] == load_checkpoint(run / "best.pt").scheme.to_dict()
    assert facts["window"] == {
        "patch_size": [16, 16, 16],
        "divisors": [1, 1, 1],
        "overlap": 0.25,
        "mode": "gaussian",
        "flip_axes": [1],
    }
    assert facts["cleaning"] == {"min_lesion_mm3": 7, "keep_largest": False}
    assert facts["provenance"]["epoch"] == 3
    assert facts["provenance"]["validation_mean_dice"] == 0.625
    assert facts["provenance"]["synthetic"] is True
    assert properties["notice"] == STAMP
    assert proto.doc_string.startswith(STAMP)


def test_the_python_of_the_page_reads_the_facts(run_folder, monkeypatch):
    run = run_folder(*TWO_LAYERS)
    write(run)[0].rename(run / "tumour.onnx")
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(run)
    names = {}
    exec(compile(code, "export.md", "exec"), names)
    assert names["facts"]["provenance"]["epoch"] == 3


def test_what_is_no_phantom_is_not_called_one(run_folder):
    path, lines, told = write(run_folder(*TWO_LAYERS, synthetic=False))
    assert STAMP.encode() not in path.read_bytes()
    assert told["notice"] is None
    assert not [line for line in lines if STAMP in line]


def other_weights(monkeypatch, change):
    """Makes the exporter write a network whose weights are changed."""
    right = module._export

    def wrong(model, steps):
        exported = right(model, steps)
        for weight in exported.proto.graph.initializer:
            values = onnx.numpy_helper.to_array(weight)
            if values.ndim > 1 and values.dtype == np.float32:
                weight.CopyFrom(onnx.numpy_helper.from_array(change(values), weight.name))
        return exported

    monkeypatch.setattr(module, "_export", wrong)


@pytest.mark.parametrize("change", [lambda w: w * 1.001, lambda w: w * np.float32(np.nan)])
def test_a_file_that_computes_something_else_is_not_kept(run_folder, monkeypatch, change):
    run = run_folder(*TWO_LAYERS)
    before = sorted(run.iterdir())
    other_weights(monkeypatch, change)
    with pytest.raises(RunFailedError, match=r"computes something else than the network: logits"):
        write(run)
    assert sorted(run.iterdir()) == before


def test_a_file_that_is_no_valid_onnx_is_not_kept(run_folder, monkeypatch):
    run = run_folder(*TWO_LAYERS)
    before = sorted(run.iterdir())
    empty = module.Exported(onnx.ModelProto(), lambda images: images)
    monkeypatch.setattr(module, "_export", lambda _model, _steps: empty)
    with pytest.raises(RunFailedError, match=r"^the ONNX file is not valid: "):
        write(run)
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize("scale", [0.03, 3000], ids=["small", "large"])
@pytest.mark.parametrize(("batch", "shape"), [(1, "1x4x16x16x16"), (2, "2x4x17x16x19")])
def test_both_batches_are_compared_in_proportion_to_the_largest_logit(
    run_folder, batch, shape, scale
):
    run = run_folder(*TWO_LAYERS)
    model = load_model(run / "best.pt", run)
    with torch.no_grad():
        model.network.last.weight.mul_(scale)

    def off_by(share):
        def answer(images):
            logits = model.network(images)
            most = max(float(logits.abs().max()), 1.0)
            assert (most > 100) is (scale > 1)
            return logits + share * most * (len(images) == batch)

        return module._largest_difference(answer, model, (1, None, 3))

    assert off_by(0.9e-4) > 0.8e-4
    with pytest.raises(RunFailedError, match=rf"logits for {shape}: \S+ apart, expected at most"):
        off_by(1.1e-4)


def test_logits_of_another_shape_are_told_by_it(run_folder):
    run = run_folder(*TWO_LAYERS)
    model = load_model(run / "best.pt", run)
    with pytest.raises(RunFailedError, match=r"for 1x4x16x16x16: shape \(1, 1, 16, 16, 16\)\. It"):
        module._largest_difference(lambda images: model.network(images)[:, :1], model, (1, 1, 1))


def test_a_network_that_no_graph_can_hold_is_told_in_one_line(run_folder):
    run = run_folder("network.name=tests.export.run_folders.AsksItsInput", "network.args={}")
    before = sorted(run.iterdir())
    with pytest.raises(UserError, match=r"cannot express .*AsksItsInput in ONNX \(.*--format bund"):
        write(run)
    assert sorted(run.iterdir()) == before


def test_without_onnxruntime_the_file_is_written_and_that_is_told(run_folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda n: None if n == "onnxruntime" else find(n))
    path, lines, told = write(run_folder(*TWO_LAYERS))
    assert path.is_file()
    assert "onnx.checker; not run: onnxruntime is not installed." in lines[2]
    assert told["largest_difference"] is None


def test_missing_onnx_is_told_with_its_extra_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "best.pt").write_bytes(b"not looked at")
    monkeypatch.setattr(run_module, "find_spec", lambda _name: None)
    with pytest.raises(UserError) as error:
        write(tmp_path)
    assert str(error.value) == (
        "--format onnx needs onnx and onnxscript. Install: pip install 'segfocal[onnx]'"
    )


def test_the_networks_mode_and_weights_and_torchs_logger_are_left_alone(run_folder, caplog):
    run = run_folder(*TWO_LAYERS)
    model = load_model(run / "best.pt", run)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    caplog.set_level(17, "torch.onnx")
    module.write_onnx(run / "a.onnx", model)
    assert logging.getLogger("torch.onnx").level == 17
    after = model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
