import dataclasses

import pytest

from segfocal.config.load import config_of
from segfocal.errors import UserError
from segfocal.training.launch import Launch, check_launch, read_launch

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_a/none_b/attempt_2/1/error.json",
}


def test_torchrun_s_environment_is_read():
    launch = read_launch(TORCHRUN)
    assert (launch.rank, launch.world_size, launch.machine) == (5, 8, 1)
    assert (launch.local_rank, launch.local_world_size) == (1, 4)
    assert (launch.restarts, launch.address) == (2, ("node0", 29500))
    assert launch.agent_has_store
    assert not launch.is_first


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"])
def test_a_scheduler_that_sets_some_of_it_is_not_torchrun(missing):
    assert read_launch({**TORCHRUN, missing: ""}) is None
    assert read_launch({}) is None


def test_a_restart_has_the_same_agent_and_another_torchrun_another():
    again = {"TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_a/none_b/attempt_3/0/error.json"}
    other = {"TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_c/none_d/attempt_3/0/error.json"}
    launch = read_launch(TORCHRUN)
    assert read_launch({**TORCHRUN, **again}).agent == launch.agent
    assert read_launch({**TORCHRUN, **other}).agent != launch.agent


def refused(*settings, **launch):
    loaded = config_of({"data": {"root": "a"}}, settings, "x", {})
    with pytest.raises(UserError) as error:
        check_launch(loaded, dataclasses.replace(read_launch(TORCHRUN), **launch))
    return str(error.value)


def accepted(*settings, **launch):
    loaded = config_of({"data": {"root": "a"}}, settings, "x", {})
    check_launch(loaded, dataclasses.replace(read_launch(TORCHRUN), **launch))


def test_fewer_patches_than_ranks_are_refused():
    assert refused("train.batch_size=7") == (
        "--set: train.batch_size: is shared out over the ranks: expected at least one patch for "
        "each of 8, got 7. Raise it, or start fewer with --nproc-per-node."
    )
    accepted("train.batch_size=8")


def test_what_looks_at_one_process_alone_is_refused():
    batch = "train.batch_size=8"
    assert refused(batch, "loss.top_k=10") == (
        "--set: loss.top_k: chooses among the voxels of one process, and torchrun started 8. Set "
        "it to null, or train in one process."
    )
    assert refused(batch, "train.device=cuda:1") == (
        "--set: train.device: cuda:1 is one GPU, and torchrun started 8 ranks, each with one of "
        "its own. Set auto or cuda; CUDA_VISIBLE_DEVICES says which GPUs there are."
    )
    assert refused(batch, "data.cache=ram") == (
        "--set: data.cache: ram would hold every case 4 times, once a rank. Set auto or disk: "
        "files that all ranks of a machine map, so that memory holds each case once."
    )
    accepted(batch, "data.cache=ram", local_world_size=1)


def test_a_single_rank_may_do_all_of_it():
    accepted("train.batch_size=1", "loss.top_k=10", "train.device=cuda:1", world_size=1)


def test_a_launch_is_plain_data():
    assert Launch(**dataclasses.asdict(read_launch(TORCHRUN))) == read_launch(TORCHRUN)
