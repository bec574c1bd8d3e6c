"""Work that is shared among threads: what the caller has switched off is off in all of them."""

import threading
from collections.abc import Iterator

import pytest
import torch

from chronosae.kernels import mixed
from chronosae.kernels.dispatch import compiled_kernels, parallel


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("gradients", [False, True])
def test_every_thread_has_gradients_on_or_off_as_its_caller_has(gradients: bool) -> None:
    together = threading.Barrier(2, timeout=60)  # neither thread can do both parts
    seen: dict[int, bool] = {}

    def look(first: int, last: int) -> None:
        together.wait()
        seen[threading.get_ident()] = torch.is_grad_enabled()

    for _ in range(2):  # the second time, in threads that have worked before
        with torch.set_grad_enabled(gradients):
            parallel([0, 1, 2], look)
    assert len(seen) == 2 and set(seen.values()) == {gradients}
    with torch.set_grad_enabled(not gradients):
        parallel([0, 1, 2], look)
    assert set(seen.values()) == {not gradients}, "a thread doesn't keep what it was told for earlier work"


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_either_thread_is_raised_once_both_are_done() -> None:
    together = threading.Barrier(2, timeout=60)
    done = []

    def work(first: int, last: int) -> None:
        together.wait()
        if first == 0:
            raise ValueError("broken")
        done.append(first)

    with pytest.raises(ValueError, match="broken"):
        parallel([0, 1, 2], work)
    assert done == [1]


@pytest.mark.skipif(not compiled_kernels(torch.empty(0)), reason="no compiler here")
@pytest.mark.usefixtures("two_threads")
def test_a_weight_is_read_in_both_threads_during_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the cosine term does where the decoder has no sparse path: its `numpy()` failed in the helper."""
    monkeypatch.setattr(mixed, "low_precision_pays", lambda: True)
    W = torch.nn.Parameter(torch.randn(4096, 32, generator=torch.Generator().manual_seed(0)))
    for _ in range(10):  # which thread takes a part is chance
        energy = mixed.unit_gram_energy(W)
        assert energy is not None
        energy.backward()
    unit = W / W.norm(dim=1, keepdim=True)
    (expected,) = torch.autograd.grad((unit.T @ unit).square().sum(), W)
    assert W.grad is not None and (W.grad / 10 - expected).norm() < 0.05 * expected.norm()
