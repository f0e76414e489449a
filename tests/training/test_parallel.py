import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segfocal.training.parallel import has_unused_parameters, share_layers
from segfocal.training.ranks import ALONE, Ranks, share
from segfocal.training.shared_dropout import share_dropout


class OneOfTwo(Ranks):
    rank, count = 1, 2

    def share(self, total):
        return share(total, self.rank, self.count)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout3d])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_ranks_draw_the_masks_of_one_process(kind, layout):
    batch = torch.rand(5, 3, 4, 2, 6).contiguous(memory_format=layout)
    whole = nn.Sequential(kind(0.3), kind(0.6))
    torch.manual_seed(1)
    expected, after = whole(batch), torch.rand(2)
    for count in (2, 3):
        for rank in range(count):
            rows = share(5, rank, count)
            part = nn.Sequential(kind(0.3), kind(0.6))
            share_dropout(part, rows, 5)
            torch.manual_seed(1)
            assert torch.equal(
                part(batch[rows.start : rows.stop]), expected[rows.start : rows.stop]
            )
            assert torch.equal(torch.rand(2), after)


def test_windows_on_the_batch_axis_belong_to_their_sample():
    batch = torch.rand(12, 7)  # 4 samples of 3 windows
    torch.manual_seed(1)
    expected = F.dropout(batch, 0.5, training=True)
    part = nn.Sequential(nn.Dropout(0.5))
    share_dropout(part, range(1, 4), 4)
    torch.manual_seed(1)
    assert torch.equal(part(batch[3:]), expected[3:])


def test_dropout_in_evaluation_does_nothing_and_draws_nothing():
    part = nn.Sequential(nn.Dropout(0.5)).eval()
    share_dropout(part, range(1), 2)
    batch = torch.rand(1, 4)
    torch.manual_seed(3)
    assert torch.equal(part(batch), batch)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))


def test_a_process_alone_keeps_its_layers():
    network = nn.Sequential(nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1), nn.Dropout(0.1))
    kept, lines = share_layers(network, ALONE, torch.device("cuda"), 4)
    assert kept is network
    assert lines == []
    assert [type(layer) for layer in kept] == [nn.Conv3d, nn.BatchNorm3d, nn.Dropout]


def test_batch_statistics_are_those_of_all_ranks_on_gpus_and_a_doubt_on_the_cpu():
    def network():
        return nn.Sequential(nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1))

    names = network().state_dict().keys()
    on_gpu, lines = share_layers(network(), OneOfTwo(), torch.device("cuda"), 4)
    assert isinstance(on_gpu[1], nn.SyncBatchNorm)
    assert on_gpu.state_dict().keys() == names
    assert lines == ["ranks  batch statistics are those of all ranks' patches (SyncBatchNorm)"]
    on_cpu, lines = share_layers(network(), OneOfTwo(), torch.device("cpu"), 4)
    assert type(on_cpu[1]) is nn.BatchNorm3d
    assert lines[0].startswith("doubt  batch statistics are those of each rank's own patches")
    none = nn.Sequential(nn.Conv3d(1, 1, 1), nn.InstanceNorm3d(1))
    assert share_layers(none, OneOfTwo(), torch.device("cpu"), 4)[1] == []


class Heads(nn.Module):
    def __init__(self, used):
        super().__init__()
        self.trunk, self.spare = nn.Conv3d(2, 2, 1), nn.Conv3d(2, 2, 1)
        self.norm = nn.BatchNorm3d(2)
        self.used = used

    def forward(self, image):
        features = self.norm(self.trunk(image))
        return {"main": [features, self.spare(features)]} if self.used else features


def test_parameters_that_no_output_needs_are_found_without_data():
    assert not has_unused_parameters(Heads(used=True), (2, 4, 4, 4))
    assert has_unused_parameters(Heads(used=False), (2, 4, 4, 4))
    network = Heads(used=False)
    network.spare.requires_grad_(False)
    assert not has_unused_parameters(network, (2, 4, 4, 4))
    assert network.trunk.weight.device.type == "cpu"
    assert network.norm.num_batches_tracked == 0


def test_a_network_that_needs_data_counts_as_having_some():
    class Looks(nn.Conv3d):
        def forward(self, image):
            return super().forward(image) if image.sum().item() else image

    assert has_unused_parameters(Looks(2, 2, 1), (2, 4, 4, 4))
