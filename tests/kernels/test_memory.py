"""Memory that comes back is never shared by two living tensors."""

import torch

from chronosae.kernels import memory
from chronosae.kernels.memory import LEAST_BYTES, recycled


def test_memory_returns_when_the_last_tensor_in_it_is_gone() -> None:
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
    assert all(t.data_ptr() % memory.LINE == 0 for t in tensors)


def test_idle_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(memory, "IDLE_LIMIT_BYTES", 3 * LEAST_BYTES)
    tensors = [recycled((LEAST_BYTES + i,), torch.uint8) for i in range(9)]
    del tensors
    assert sum(block.nbytes for block in memory._idle.values()) <= 3 * LEAST_BYTES


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
