"""A trainer's steps with the GPU's kernels move the weights as plain torch would."""

import os

import pytest
import torch

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.config import TrainingConfig
from chronosae.kernels import dense_only, triton_kernels
from chronosae.presets import build
from chronosae.training import Trainee

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
os.environ.setdefault("CHRONOSAE_KERNELS", "triton")  # on a GPU they are to be asked for
pytestmark = [
    pytest.mark.skipif(
        not triton_kernels(torch.empty(0, device=DEVICE)), reason="needs Triton, and a GPU or TRITON_INTERPRET=1"
    ),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def trained(preset: str, autocast: bool) -> tuple[Autoencoder, float]:
    """Three steps on two sequences of six tokens, with dead features for AuxK."""
    torch.manual_seed(0)
    sae = build(preset, d_in=6, d_sae=20, k=3).to(DEVICE)
    trainee = Trainee(preset, sae, "site", TrainingConfig(autocast=autocast), steps=9, lr=1e-2, seed=0)
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 6, dtype=torch.bool, device=DEVICE)
    mask[:, 0] = False
    zeros, positions = torch.zeros_like(mask, dtype=torch.int64), mask.long().cumsum(1) - 1
    for _ in range(3):
        trainee.dead.since_fired[::4] = 10**9
        acts = torch.randn(2, 6, 6, generator=generator).to(DEVICE)
        trainee.step(SequenceBatch(acts, mask, zeros, positions, zeros, ("noise",) * 2))
        assert trainee.stopped is None
    return sae, trainee.metrics().loss


@pytest.mark.parametrize(
    ("preset", "autocast"), [("topk", False), ("topk", True), ("batch_topk", False), ("chrono", False)]
)
def test_three_steps_end_where_those_of_plain_torch_do(preset: str, autocast: bool) -> None:
    with dense_only():
        slow, slow_loss = trained(preset, autocast)
    fast, fast_loss = trained(preset, autocast)
    assert abs(fast_loss - slow_loss) <= (1e-2 if autocast else 1e-5) * slow_loss
    for (name, a), (_, b) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        # Three steps of at most the learning rate each; Adam turns a gradient's sign into a whole step.
        assert (a - b).abs().mean() <= (3e-3 if autocast else 1e-5), name
