"""Weights that several processes share (FSDP): whole ones are read, parts are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import layouts
from helpers.foreign_files import write
from helpers.layouts import assert_computes
from torch import distributed as dist

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[int]:
    """As if so many processes trained together; nothing is sent."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield request.param
    dist.destroy_process_group()


def shared_out(count: int) -> dict[str, Any]:
    """A state dict as `fully_shard` (FSDP 2) leaves it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    network = layouts.small_resnet()
    fully_shard(network, mesh=init_device_mesh("cpu", (count,)))
    return dict(network.state_dict())


@pytest.mark.parametrize("group", [1], indirect=True)
def test_tensors_that_one_process_has_whole_are_read(group: int, tmp_path: Path) -> None:
    path = write(tmp_path, {"model": shared_out(group)})
    assert_computes(load_model(path), layouts.small_resnet(), 32)


@pytest.mark.parametrize("group", [2], indirect=True)
def test_parts_of_tensors_are_called_what_they_are(group: int, tmp_path: Path) -> None:
    path = write(tmp_path, {"model": shared_out(group)})
    with pytest.raises(CossError, match=r"one process's part.*full_state_dict=True") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("group", [2], indirect=True)
def test_sharded_tensors_of_the_older_fsdp_are_called_what_they_are(
    group: int, tmp_path: Path
) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

    network = FullyShardedDataParallel(
        layouts.small_resnet(), device_id=torch.device("cpu"), sync_module_states=False
    )
    with FullyShardedDataParallel.state_dict_type(network, StateDictType.SHARDED_STATE_DICT):
        path = write(tmp_path, {"model": network.state_dict()})
    with pytest.raises(CossError, match="one process's part"):
        load_model(path)


@pytest.mark.parametrize(
    "key",
    [
        "_flat_param",
        "flat_param_0",
        "student.backbone._fsdp_wrapped_module.flat_param_0",
        "blocks.0._fsdp_wrapped_module._flat_param",
    ],
)
def test_flat_parameters_are_called_what_they_are(key: str, tmp_path: Path) -> None:
    content = {"model": {key: torch.zeros(100)}, "iteration": 3}
    with pytest.raises(CossError, match=r"one process's part.*teacher_checkpoint\.pth"):
        load_model(write(tmp_path, content))
