"""What a specification may say of training: objective terms and trackers, each a class of `objectives` (or of yours).

Here stands only what an autoencoder must know of them. A term's formula and a tracker's state are its own business.
"""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from chronosae.config.registry import PartSpec, Registry

TERMS: Registry["TermSpec"] = Registry("term")
TRACKERS: Registry["TrackerSpec"] = Registry("tracker")
Weight = Annotated[float, Field(gt=0)]


class TermSpec(PartSpec):
    """Base of the terms: which penalties and predictions are added to the reconstruction error."""

    per_energy: ClassVar[bool] = False
    """The term has no units: its weight is a share of an input's mean energy, d_in in normalised units."""
    wants_dead: ClassVar[bool] = False
    """It asks for the pre-activations of dead features, which are cheaper computed beside the encoder's own."""
    uses_gram_energy: ClassVar[bool] = False
    """It is made of `||D^^T D^||_F^2`, which a sparse decode can make on the way (`Pass.gram_energy`)."""
    weight: Weight = 1.0
    """Weight of the term beside the reconstruction error (sum over d_in, mean over tokens)."""
    warmup_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps over which the weight rises linearly from zero."""

    @property
    def one_row_a_feature(self) -> bool:
        """It reads the decoder as one vector a feature, which not every body has."""
        return False

    @property
    def is_penalty(self) -> bool:
        """It decides how sparse the codes are, so its weight is told beside the loss."""
        return False

    @property
    def steered_to(self) -> float | None:
        """Active features a token that its weight is steered to; None: it isn't."""
        return None

    def check_spec(self, spec: Any) -> None:
        """ValueError when the rest of the autoencoder's spec can't go with this term."""

    def make_head(self, d_in: int, d_sae: int) -> nn.Module | None:
        """Weights of the term's own, if it has any: the autoencoder carries them, so they train, save and move."""
        return None


class TrackerSpec(PartSpec):
    """Base of the trackers: what watches a training."""

    def make(self, d_sae: int, seed: int = 0, device: torch.device | str = "cpu") -> Any:
        """The tracker's state, with `state_dict` and `load_state_dict`; never Parameters."""
        raise NotImplementedError

    def show(self, tracker: Any, step: Any) -> None:
        """Let `tracker`, which `make` made, see a finished training step (`objectives.StepContext`); under no_grad."""
        raise NotImplementedError
