"""An intervention of your own: chosen features fade where a clamp would turn them over."""

from typing import Literal

from pydantic import PositiveFloat

from chronosae.interventions import INTERVENTIONS, Change, Intervention, Reading, where_firing


@INTERVENTIONS.add
class Fade(Intervention):
    """Where a chosen feature fires, a share of its code stays: half / (half + strength)."""

    kind: Literal["fade"] = "fade"
    half: PositiveFloat = 50.0
    """Strength at which half of a code is left."""

    def change(self, reading: Reading, features: tuple[int, ...], strength: float) -> Change:
        share = self.half / (self.half + strength)
        return where_firing(reading, features, lambda code, unit: share * code)
