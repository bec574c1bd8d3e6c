"""Options that spurious correlation removal (SCR) and targeted probe perturbation (TPP) share."""

from typing import Literal

from pydantic import Field, PositiveInt

from chronosae.evals.evaluation import EvalOptions

Protocol = Literal["chronosae", "saebench"]


class AblationOptions(EvalOptions):
    """Probes on pooled activations, and how many features are taken out."""

    context: int = Field(default=128, ge=8)
    """Tokens of each text; what is longer is cut at its end."""
    train_size: int = Field(default=4000, ge=40)
    """Texts on which one probe is fitted, half of them positive; fewer where the data have fewer."""
    test_size: int = Field(default=1000, ge=40)
    """Texts on which one probe is judged, half of them positive; fewer where the data have fewer."""
    ns: list[PositiveInt] = Field(default=[2, 5, 10, 20, 50, 100, 500], min_length=1)
    """How many features are zeroed; one score for each. Undefined above the autoencoder's width."""
    probe_seeds: int = Field(default=3, ge=1)
    """Probes of each kind, fitted from other seeds: scores are means over them, their spread is reported."""
    probe_epochs: int = Field(default=20, ge=1)
    """Passes over the training texts; the epoch that judges best is kept."""
    probe_batch: int = Field(default=16, ge=1)
    """Texts a step. How much of a spurious correlation a probe takes up depends on it."""
    probe_lr: float = Field(default=1e-3, gt=0)
    """AdamW's learning rate."""
    probe_l1: float = Field(default=1e-3, ge=0)
    """Weight of the L1 norm of the probe's direction."""
    protocol: Protocol = "chronosae"
    """`chronosae`: epochs judged on held-out training texts, padding and special tokens never enter; `saebench`: epochs
    judged on the test texts, zeros in place of special tokens and padding, and they leak, as in SAEBench 0.6.0."""
