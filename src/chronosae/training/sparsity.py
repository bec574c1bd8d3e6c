"""Steers the weight of a sparsity penalty towards a number of active features."""

import math
from typing import Any

from chronosae.autoencoders.parts.terms import SteeredTerm


class PenaltyWeight:
    """The weight at each step: warm-up, then (with `target_l0`) proportional-integral control on log L0.

    With e = log(L0 / target), a step changes log weight by `INTEGRAL * clip(e) + PROPORTIONAL * (change of e)`. Codes
    follow a change of weight over a hundred steps or so; integral action alone would wind up while the L0 of a fresh
    autoencoder (half of all features) falls, and then overshoot. The second part gives way as soon as L0 moves.
    """

    INTEGRAL = 0.05
    PROPORTIONAL = 2.0
    # A target that can't be reached must not drive the weight out of float32.
    RANGE = math.log(1e6)

    def __init__(self, term: SteeredTerm, steps: int) -> None:
        self.term = term
        self.warmup = int(term.warmup_fraction * steps)
        self.log_weight = math.log(term.weight)
        self._last_error: float | None = None

    def at(self, step: int) -> float:
        """Weight at `step` (from 0)."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        return rise * math.exp(self.log_weight)

    @property
    def steers(self) -> bool:
        """There is a target."""
        return self.term.target_l0 is not None

    def observe(self, step: int, l0: float) -> None:
        """Learn from the mean L0 of the step just taken."""
        if self.term.target_l0 is None or step < self.warmup:
            return
        # An autoencoder that fires on nothing counts as a hundredth of a feature: log 0 would say nothing.
        error = math.log(max(l0, 0.01) / self.term.target_l0)
        change = 0.0 if self._last_error is None else error - self._last_error
        self._last_error = error
        moved = self.log_weight + self.INTEGRAL * max(-1.0, min(1.0, error)) + self.PROPORTIONAL * change
        start = math.log(self.term.weight)
        self.log_weight = max(start - self.RANGE, min(start + self.RANGE, moved))

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"log_weight": self.log_weight, "last_error": self._last_error}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.log_weight, self._last_error = state["log_weight"], state["last_error"]
