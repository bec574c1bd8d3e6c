"""The running sum over intervals against one row a time."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.kernels import interval_energy
from chronosae.kernels.windows import dense_interval_energy


def intervals(n: int, length: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Signed values on intervals of up to `length` times, some empty, starts and ends ascending."""
    g = torch.Generator().manual_seed(seed)
    enter = torch.randint(0, 3 * n, (n,), generator=g).sort().values
    leave = (enter + torch.randint(0, length + 1, (n,), generator=g)).cummax(0).values
    return torch.randn(n, generator=g, dtype=torch.float64).requires_grad_(), enter, leave


@given(n=st.integers(1, 30), length=st.integers(0, 12), seed=st.integers(0, 1000))
def test_energy_of_intervals_and_its_gradient_equal_the_dense_reference(n: int, length: int, seed: int) -> None:
    values, enter, leave = intervals(n, length, seed)
    fast, dense = interval_energy(values, enter, leave), dense_interval_energy(values, enter, leave)
    torch.testing.assert_close(fast, dense, rtol=1e-10, atol=1e-10)
    fast_grad, dense_grad = torch.autograd.grad(fast, values)[0], torch.autograd.grad(dense, values)[0]
    torch.testing.assert_close(fast_grad, dense_grad, rtol=1e-10, atol=1e-10)


def test_gradcheck() -> None:
    values, enter, leave = intervals(12, 6, seed=0)
    assert torch.autograd.gradcheck(lambda v: interval_energy(v, enter, leave), values)


def test_no_interval_is_no_energy() -> None:
    values, nothing = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    assert interval_energy(values, nothing, nothing) == 0
