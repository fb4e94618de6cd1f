"""This process as any rank of a layout whose others are not there."""

import pytest
import torch.distributed as dist

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.fake import fake_rank, fake_stages


@pytest.fixture(autouse=True)
def no_groups():
    init.stop()
    yield
    init.stop()


def test_a_rank_stands_where_megatron_puts_it():
    """tp varies fastest, then cp, dp and pp."""
    with fake_rank(ParallelConfig(tp=4, cp=2, pp=2), rank=37, world_size=64) as mesh:
        assert (mesh.tp.rank(), mesh.cp.rank(), mesh.dp.rank(), mesh.pp.rank()) == (37 % 4, 37 // 4 % 2, 0, 1)
        assert (mesh.tp.size(), mesh.cp.size(), mesh.dp.size(), mesh.pp.size()) == (4, 2, 4, 2)
        assert mesh.device.type == "meta"
    assert not dist.is_initialized()


def test_one_rank_of_each_stage():
    seen = [(mesh.pp.rank(), mesh.world.rank()) for mesh in fake_stages(ParallelConfig(pp=4), 1024)]
    assert seen == [(0, 0), (1, 256), (2, 512), (3, 768)]


def test_a_layout_that_does_not_divide_leaves_no_group_behind():
    with pytest.raises(ConfigError), fake_rank(ParallelConfig(tp=4), rank=0, world_size=6):
        pass
    assert not dist.is_initialized()
