"""Memory that comes back is never shared by two living tensors."""

import gc
from collections import OrderedDict

import pytest
import torch

from chronosae.kernels import dispatch, recycled
from chronosae.kernels.dispatch import LEAST_BYTES


def test_memory_returns_when_the_last_tensor_in_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # What other tests have left must not come back meanwhile.
    monkeypatch.setattr(dispatch, "_idle", OrderedDict())
    first = recycled((LEAST_BYTES,), torch.uint8)
    place, view = first.data_ptr(), first.view(2, -1)[1]
    del first
    assert recycled((LEAST_BYTES,), torch.uint8).data_ptr() != place, "a view still uses it"
    del view
    assert recycled((LEAST_BYTES // 4,), torch.float32).data_ptr() == place


def test_living_tensors_share_nothing() -> None:
    tensors = [recycled((LEAST_BYTES,), torch.uint8).fill_(i) for i in range(5)]
    assert [int(t.unique()) for t in tensors] == list(range(5))


def test_large_memory_starts_a_cache_line() -> None:
    tensors = [recycled((LEAST_BYTES + i,), torch.uint8) for i in (0, 1, 2**22)]
    assert all(t.data_ptr() % dispatch.LINE == 0 for t in tensors)


def test_idle_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "IDLE_LIMIT_BYTES", 3 * LEAST_BYTES)
    tensors = [recycled((LEAST_BYTES + i,), torch.uint8) for i in range(9)]
    del tensors
    assert sum(block.nbytes for block in dispatch._idle.values()) <= 3 * LEAST_BYTES


def test_a_gradient_is_kept_by_its_parameter_without_a_copy_and_never_overwritten() -> None:
    from chronosae.kernels import sparse_decode

    W = torch.nn.Parameter(torch.randn(2**10, 2**9))
    indices, values = torch.arange(8).view(4, 2), torch.ones(4, 2)
    sparse_decode(indices, values, W).sum().backward()
    kept = W.grad
    assert kept is not None
    before, W.grad = kept.clone(), None
    sparse_decode(indices, 3 * values, W).sum().backward()
    assert torch.equal(kept, before) and W.grad is not None and W.grad.data_ptr() != kept.data_ptr()


def test_what_has_no_memory_of_its_size_takes_somewhat_larger_and_the_closest() -> None:
    # Sizes that no other test leaves behind.
    size = 2**26
    tensors = [recycled((size + i,), torch.uint8) for i in (2**20, 2**22)]
    nearer, farther = (t.data_ptr() for t in tensors)
    del tensors
    first, second = recycled((size,), torch.uint8), recycled((size,), torch.uint8)
    assert (first.data_ptr(), second.data_ptr()) == (nearer, farther)
    first.fill_(1)
    second.fill_(2)
    assert first.shape == (size,) and int(first.max()) == 1
    del first
    assert recycled((size // dispatch.ROOMY - 2**20,), torch.uint8).data_ptr() != nearer, (
        "too large to be lent for this"
    )


def test_a_larger_block_takes_the_place_of_idle_ones_that_it_can_serve_for(monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "_idle", type(dispatch._idle)())
    for size in range(LEAST_BYTES, 2 * LEAST_BYTES, LEAST_BYTES // 8):
        recycled((size,), torch.uint8)
    assert [block.nbytes for block in dispatch._idle.values()] == [15 * LEAST_BYTES // 8]


def test_memory_doesnt_grow_from_step_to_step_whatever_the_sizes(monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "_idle", type(dispatch._idle)())
    generator, held = torch.Generator().manual_seed(0), []
    for _ in range(200):
        sizes = torch.randint(LEAST_BYTES, 6 * LEAST_BYTES, (4,), generator=generator).tolist()
        kept = [recycled((size,), torch.uint8) for size in sizes[:2]]
        passing = [recycled((size,), torch.uint8) for size in sizes[2:]]
        del kept, passing
        held.append(sum(block.nbytes for block in dispatch._idle.values()))
    assert max(held) <= 8 * 6 * LEAST_BYTES and max(held[100:]) <= max(held[:100])
