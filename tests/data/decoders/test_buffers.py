import gc
from concurrent.futures import ThreadPoolExecutor

import torch

from cosmos_data.decoders.buffers import Buffers


def test_memory_comes_back_when_no_view_is_left():
    buffers = Buffers()
    first = buffers.empty((2, 3, 5))
    assert (first.shape, first.dtype) == ((2, 3, 5), torch.uint8)
    address, view = first.data_ptr(), first[1].numpy()
    del first
    gc.collect()
    second = buffers.empty((2, 3, 5))
    assert second.data_ptr() != address, "the view still shows the first"
    view[:] = 7
    second.zero_()
    assert (view == 7).all()
    del view
    assert buffers.empty((30,)).data_ptr() == address


def test_memory_of_about_the_size_is_used_again():
    buffers = Buffers()
    address = buffers.empty((100,)).data_ptr()
    smaller = buffers.empty((60,))
    assert smaller.data_ptr() == address
    del smaller
    larger = buffers.empty((100,))
    assert larger.data_ptr() == address, "none of it was lost"
    del larger
    assert len(buffers.empty((49,))) == 49
    assert len(buffers._idle) == 1, "what is far too large is let go"


def test_few_blocks_are_kept():
    buffers = Buffers(max_idle=2)
    several = [buffers.empty((10,)) for _ in range(5)]
    several.clear()
    assert len(buffers._idle) == 2


def test_threads_never_share_memory():
    buffers = Buffers()

    def use(number: int) -> bool:
        mine = buffers.empty((1000,))
        mine.fill_(number)
        return bool((mine == number).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, list(range(100)) * 5))
