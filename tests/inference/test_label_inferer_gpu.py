"""The label inferer on a GPU. Apart, because a GPU's machine may lack what the other tests need."""

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from segfocal.inference import SlidingWindowLabelInferer


@pytest.mark.gpu
@pytest.mark.parametrize("holds", ["cpu", "cuda"])
def test_labels_computed_on_the_gpu_are_those_of_monai(holds):
    torch.manual_seed(0)
    network, volume = nn.Conv3d(2, 4, 3, padding=1).cuda(), torch.randn(1, 2, 20, 24, 40)
    arguments = {"roi_size": 8, "overlap": 0.5, "mode": "gaussian", "sw_device": "cuda"}
    with torch.no_grad():
        logits = SlidingWindowInferer(**arguments)(volume.to(holds), network).cpu()
    labels = SlidingWindowLabelInferer(**arguments)(volume.to(holds), network)
    assert labels.device.type == holds
    first, second = logits.topk(2, dim=1).values.unbind(1)
    is_sure = (first - second)[:, None] > 1e-3
    assert is_sure.float().mean() > 0.95
    assert torch.equal(labels.cpu()[is_sure], logits.argmax(1, keepdim=True)[is_sure])
