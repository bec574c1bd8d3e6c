"""Without the shape checks of `conftest.py`, half of the tests would test less than they say."""

import jaxtyping
import pytest
import torch

from chronosae.evals.probes import last_only
from chronosae.kernels import sparse_decode


def test_a_wrong_shape_or_type_is_an_error() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        sparse_decode(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 4), torch.zeros(5, 6))
    with pytest.raises(jaxtyping.TypeCheckError):
        last_only(torch.zeros(2, 3))
