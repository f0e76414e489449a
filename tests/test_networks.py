import re
from functools import partial

import pytest
import torch
from monai.networks.nets import UNet
from monai.utils import optional_import
from torch import nn

from segfocal.errors import UserError
from segfocal.networks import (
    build_network,
    check_network,
    check_trainable,
    import_path,
    network_arguments,
    set_prior_bias,
    size_divisors,
)


@pytest.mark.parametrize("name", ["SegResNet", "UNet", "DynUNet"])
def test_a_network_by_name_maps_a_patch_to_logits(name):
    network = build_network(name, {}, in_channels=2, out_channels=3).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 2, 32, 32, 32)).shape == (1, 3, 32, 32, 32)


@pytest.mark.parametrize("name", ["SegResNet", "UNet", "DynUNet"])
def test_the_check_passes_what_fits_and_takes_no_data(name):
    make = partial(build_network, name, {}, in_channels=2, out_channels=3)
    check_network(make, (32, 48, 32), 2, 3)


def test_arguments_reach_the_network():
    network = build_network("SegResNet", {"init_filters": 8}, in_channels=1, out_channels=2)
    assert network.init_filters == 8


def test_a_dotted_path_is_imported():
    network = build_network(
        "monai.networks.nets.BasicUNet", {"features": [8] * 6}, in_channels=1, out_channels=2
    )
    assert isinstance(network, nn.Module)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (
            "Segresnet",
            {},
            "unknown network 'Segresnet'. Did you mean SegResNet. Known: SegResNet, UNet",
        ),
        ("monai.networks.nets.Nope", {}, "cannot import monai.networks.nets.Nope"),
        ("no_such_package.Net", {}, "cannot import no_such_package.Net"),
        ("SegResNet", {"depth": 3}, r"network.args: SegResNet refuses them: .*depth"),
        ("SegResNet", {"init_filters": -8}, r"network.args: SegResNet refuses them: .* -8"),
        ("../nets.SegResNet", {}, "cannot import ../nets.SegResNet"),
        (".SegResNet", {}, "cannot import .SegResNet: Empty module name"),
        ("segfocal.labels.PRESETS", {}, "segfocal.labels.PRESETS is not a class"),
    ],
)
def test_a_wrong_network_is_refused(name, args, message):
    with pytest.raises(UserError, match=message):
        build_network(name, args, in_channels=1, out_channels=2)


def test_what_is_no_class_of_networks_is_never_called(monkeypatch):
    """A checkpoint of somebody else's names a network too: torch.hub.load would fetch code."""
    called = []
    monkeypatch.setattr(
        "segfocal.labels.made_up", lambda **args: called.append(args), raising=False
    )
    for name in ("segfocal.labels.made_up", "pathlib.Path", "torch.hub.load", "torch.Tensor"):
        said = rf"^network.name: {name} is not a class of networks \(torch.nn.Module\)\. Wrap a fun"
        with pytest.raises(UserError, match=said):
            build_network(name, {"repo_or_dir": "."}, in_channels=1, out_channels=2)
    assert called == []


class NeedsToBuild(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        rearrange, _ = optional_import("no_such_package", name="rearrange")
        self.layer = rearrange(in_channels, out_channels)


class NeedsToRun(nn.Module):
    """As MONAI's SwinUNETR needs einops."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.rearrange, _ = optional_import("no_such_package", name="rearrange")

    def forward(self, image):
        return self.rearrange(image)


@pytest.mark.parametrize(
    ("network", "told"),
    [(NeedsToBuild, f"{__name__}.NeedsToBuild"), (NeedsToRun, "NeedsToRun")],
)
def test_a_package_that_the_network_needs_is_named_in_a_line(network, told):
    name = f"{__name__}.{network.__name__}"
    make = partial(build_network, name, {}, in_channels=1, out_channels=2)
    with pytest.raises(UserError) as caught:
        check_network(make, (32, 32, 32), 1, 2)
    assert str(caught.value) == (
        f"network.name: {told} needs a package that is not installed: from no_such_package import "
        f"rearrange (No module named 'no_such_package'). Install it."
    )


def test_a_patch_the_network_cannot_take_is_refused():
    make = partial(build_network, "SegResNet", {}, in_channels=1, out_channels=2)
    with pytest.raises(UserError) as caught:
        check_network(make, (30, 32, 32), 1, 2)
    assert re.fullmatch(
        r"train\.patch_size: the network cannot take a patch of 30x32x32 \(.*\)\. One of "
        r"\[32, 32, 32\] suits it\.",
        str(caught.value),
    )


def test_a_patch_of_multiples_of_16_can_be_too_small_for_a_deep_network():
    make = partial(
        build_network, "DynUNet", {"norm_name": "instance"}, in_channels=1, out_channels=2
    )
    with pytest.raises(UserError, match=r"of 16x16x16 \(.*\)\. One of \[32, 32, 32\] suits it\.$"):
        check_network(make, (16, 16, 16), 1, 2)
    check_network(make, (32, 32, 32), 1, 2)


def test_a_batch_of_one_patch_that_batch_normalisation_cannot_take_is_refused():
    args = {"channels": [4, 8, 8], "strides": [2, 2], "norm": "batch"}
    make = partial(build_network, "UNet", args, in_channels=1, out_channels=2)
    with pytest.raises(UserError) as caught:
        check_trainable(make, (4, 4, 4), 1, 2, batch_size=1)
    assert str(caught.value) == (
        "train.batch_size: expected at least 2, got 1: the network normalises over the batch, and "
        "a patch of 4x4x4 is a single voxel at its lowest level. Or set a larger "
        "train.patch_size, or another norm in network.args."
    )
    check_trainable(make, (4, 4, 4), 1, 2, batch_size=2)
    check_trainable(make, (4, 4, 8), 1, 2, batch_size=1)


@pytest.mark.parametrize("args", [{"blocks_down": [1, 1]}, {"spatial_dims": 2}])
def test_a_network_that_takes_no_patch_at_all_is_no_fault_of_the_patch(args):
    make = partial(build_network, "SegResNet", args, in_channels=1, out_channels=2)
    with pytest.raises(UserError, match=r"^network\.args: .* of 32x32x32, nor a larger one "):
        check_network(make, (32, 32, 32), 1, 2)


@pytest.mark.parametrize(
    ("name", "args", "shapes"),
    [
        (
            "DynUNet",
            {"deep_supervision": True, "deep_supr_num": 2},
            "1x3x2x32x32x32",
        ),
        (
            "monai.networks.nets.SegResNetDS",
            {"init_filters": 8, "blocks_down": [1, 1, 1], "dsdepth": 2},
            "1x2x32x32x32 and 1x2x16x16x16",
        ),
    ],
)
def test_outputs_for_deep_supervision_are_refused_before_training(name, args, shapes):
    make = partial(build_network, name, args, in_channels=1, out_channels=2)
    check_network(make, (32, 32, 32), 1, 2)  # what predicts has one output
    with pytest.raises(UserError) as caught:
        check_trainable(make, (32, 32, 32), 1, 2)
    assert str(caught.value) == (
        f"network.args: in training the network has outputs of shape {shapes} for a 32x32x32 "
        f"patch, as for deep supervision; expected one. Switch that off (deep_supervision: false, "
        f"dsdepth: 1), or train it in a script with DeepSupervisionLoss."
    )


def test_a_patch_that_batch_normalisation_takes_only_with_another_is_taken():
    args = {"channels": [4, 4], "strides": [2], "norm": "batch"}
    make = partial(build_network, "UNet", args, in_channels=1, out_channels=2)
    check_trainable(make, (2, 2, 2), 1, 2)


def test_logits_of_another_shape_are_refused():
    make = partial(build_network, "SegResNet", {}, in_channels=1, out_channels=2)
    with pytest.raises(UserError, match=r"expected logits of shape \(1, 3, 32, 32, 32\)"):
        check_network(make, (32, 32, 32), 1, 3)


@pytest.mark.parametrize("name", ["SegResNet", "UNet", "DynUNet"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_prior_bias_predicts_the_shares_where_the_image_says_nothing(name, activation):
    shares = [0.9, 0.08, 0.02]
    network = build_network(name, {}, in_channels=1, out_channels=3).eval()
    assert set_prior_bias(network, shares, activation)
    last = [m for m in network.modules() if isinstance(m, nn.Conv3d) and m.out_channels == 3][-1]
    with torch.no_grad():
        last.weight.zero_()
        logits = network(torch.randn(1, 1, 32, 32, 32))
    probs = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    # MONAI's UNet ends in a residual unit, whose other branch adds a little of its own.
    tolerance = 0.05 if name == "UNet" else 1e-4
    assert torch.allclose(probs.mean((0, 2, 3, 4)), torch.tensor(shares), atol=tolerance)


def test_a_network_without_such_a_layer_is_left_alone():
    assert not set_prior_bias(nn.Conv3d(1, 2, 1, bias=False), [0.5, 0.5], "softmax")


@pytest.mark.parametrize(
    ("name", "args", "patch", "divisors"),
    [
        ("SegResNet", {"init_filters": 8}, (32, 48, 16), (8, 8, 8)),  # three strides of 2
        ("UNet", {"channels": [4, 8, 8], "strides": [2, 2]}, (32, 16, 24), (4, 4, 4)),
        (
            "DynUNet",
            {
                "kernel_size": [3, 3, 3],
                "strides": [1, [2, 2, 1], [3, 2, 1]],
                "upsample_kernel_size": [[2, 2, 1], [3, 2, 1]],
                "filters": [4, 4, 4],
                "res_block": False,
            },
            (12, 16, 10),
            (6, 4, 1),
        ),
        ("tests.export.run_folders.OneSize", {}, (16, 16, 16), (None, None, None)),
        ("tests.export.run_folders.TwoLayers", {}, (16, 8, 4), (1, 1, 1)),
    ],
)
def test_the_divisor_of_each_axis_is_found(name, args, patch, divisors):
    make = partial(build_network, name, args, in_channels=2, out_channels=3)
    assert size_divisors(make, patch, 2) == divisors


def test_class_and_arguments_make_the_same_network():
    arguments = network_arguments("UNet", {"num_res_units": 1}, in_channels=2, out_channels=3)
    assert import_path("UNet") == "monai.networks.nets.UNet"
    assert import_path("a.b.C") == "a.b.C"
    shapes = {name: t.shape for name, t in UNet(**arguments).state_dict().items()}
    built = build_network("UNet", {"num_res_units": 1}, in_channels=2, out_channels=3)
    assert shapes == {name: t.shape for name, t in built.state_dict().items()}


class ReadsWhileBuilt(nn.Conv3d):
    """As SwinUNETR, whose rates of stochastic depth come from a tensor."""

    def __init__(self, in_channels, out_channels):
        self.rate = torch.linspace(0, 1, 3)[1].item()
        super().__init__(in_channels, out_channels, 1)


def test_a_network_that_reads_numbers_from_tensors_while_it_is_built_is_checked_too():
    check_network(partial(ReadsWhileBuilt, 2, 3), (8, 8, 8), 2, 3)
    with pytest.raises(UserError, match="expected logits of shape"):
        check_network(partial(ReadsWhileBuilt, 2, 3), (8, 8, 8), 2, 4)
