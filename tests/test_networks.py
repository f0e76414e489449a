from functools import partial

import pytest
import torch
from torch import nn

from segfocal.errors import UserError
from segfocal.networks import build_network, check_network


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
        ("Segresnet", {}, "unknown network 'Segresnet'. Known: SegResNet, UNet, DynUNet"),
        ("monai.networks.nets.Nope", {}, "cannot import monai.networks.nets.Nope"),
        ("no_such_package.Net", {}, "cannot import no_such_package.Net"),
        ("SegResNet", {"depth": 3}, r"network.args: SegResNet refuses them: .*depth"),
        ("segfocal.labels.PRESETS", {}, "segfocal.labels.PRESETS is not a class"),
    ],
)
def test_a_wrong_network_is_refused(name, args, message):
    with pytest.raises(UserError, match=message):
        build_network(name, args, in_channels=1, out_channels=2)


def test_a_patch_the_network_cannot_take_is_refused():
    make = partial(build_network, "SegResNet", {}, in_channels=1, out_channels=2)
    with pytest.raises(UserError, match="cannot take a patch of 30x32x32"):
        check_network(make, (30, 32, 32), 1, 2)


def test_logits_of_another_shape_are_refused():
    make = partial(build_network, "SegResNet", {}, in_channels=1, out_channels=2)
    with pytest.raises(UserError, match=r"expected logits of shape \(1, 3, 32, 32, 32\)"):
        check_network(make, (32, 32, 32), 1, 3)
