"""What becomes of chosen features: interventions, by name.

    @INTERVENTIONS.add
    class Fade(Intervention):
        kind: Literal["fade"] = "fade"

        def change(self, reading, features, strength):
            return where_firing(reading, features, lambda code, unit: code / (1 + strength))

An intervention's fields say *how* it acts; *which* features, and how strongly, is for its caller to say: the same
`{kind: fade}` serves features that were chosen by frequency, by attribution or from a chain.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Int
from pydantic import SerializeAsAny
from torch import Tensor

from chronosae.autoencoders import Codes, DenseCodes, SparseCodes
from chronosae.config.registry import PartSpec, Registry
from chronosae.interventions.edit import Change, CodeEdit, Reading, at_tokens

INTERVENTIONS: Registry["Intervention"] = Registry("intervention")
"""Every intervention by its kind."""


class Intervention(PartSpec, ABC):
    """How features are acted on; its fields are its options."""

    @abstractmethod
    def change(self, reading: Reading, features: tuple[int, ...], strength: float) -> Change:
        """New codes where these features are acted on. Whole contexts are there to look back on; nothing looks ahead.

        Args:
            features: each once, all of them the autoencoder's.
            strength: as this kind understands it; the larger, the more is done.
        """

    def edit(self, features: Sequence[int], strength: float) -> CodeEdit:
        """The edit of these features. An intervention that keeps state from call to call gives an edit of its own.

        Raises:
            ValueError: a feature is named twice, or the strength is none of this kind's.
        """
        return FeatureEdit(self, tuple(features), float(strength))


InterventionField = Annotated[SerializeAsAny[Intervention], INTERVENTIONS.validator()]
"""An intervention as a configuration holds it: `{kind: clamp}`."""


@dataclass(frozen=True)
class FeatureEdit(CodeEdit):
    """An intervention on some features."""

    intervention: Intervention
    features: tuple[int, ...]
    strength: float

    def __post_init__(self) -> None:
        if len(set(self.features)) < len(self.features):
            raise ValueError(f"features named twice: {sorted(self.features)}")

    def __call__(self, reading: Reading) -> Change:
        """
        Raises:
            ValueError: a feature that the autoencoder doesn't have.
        """
        d_sae = reading.codes.d_sae
        if self.features and not 0 <= min(self.features) <= max(self.features) < d_sae:
            raise ValueError(f"features must be 0 to {d_sae - 1}, not {sorted(self.features)}")
        return self.intervention.change(reading, self.features, self.strength)


@INTERVENTIONS.add
class Clamp(Intervention):
    """Where a chosen feature fires (code > 0) it becomes `-strength`; where it doesn't, nothing happens.

    The strength is in units of the raw activation (a decoder row of norm 1 is subtracted that many times), whatever
    the autoencoder's own normalisation. 0 ablates. Of codes that a context foretells (TFA) only the novel part counts
    as firing.

    (Farrell et al. 2024, arXiv 2410.19278; SAEBench's `clamp_feature_activation`.)
    """

    kind: Literal["clamp"] = "clamp"

    def edit(self, features: Sequence[int], strength: float) -> CodeEdit:
        if strength < 0:
            raise ValueError(f"a clamp's strength must be 0 or more, not {strength}: features become its negative")
        return super().edit(features, strength)

    def change(self, reading: Reading, features: tuple[int, ...], strength: float) -> Change:
        return where_firing(reading, features, lambda _code, unit: -strength * unit)


def where_firing(reading: Reading, features: Sequence[int], value: Callable[[Tensor, Tensor], Tensor]) -> Change:
    """The chosen features become `value(code, unit)` wherever they fire (code > 0); everything else stays.

    Of codes that a context foretells (TFA) only the novel part counts as firing.

    Args:
        value: codes `[n, some]` and codes a raw activation `[n, 1]` of `n` tokens -> new codes, `[n, some]` or
            `[n, 1]`; what doesn't fire is shown to it, and left as it was.
    """
    codes = reading.codes
    if isinstance(codes, SparseCodes):
        chosen = torch.zeros(codes.d_sae, dtype=torch.bool, device=codes.values.device)
        chosen[list(features)] = True
        columns, fires = slice(None), chosen[codes.indices] & (codes.values > 0)
    else:
        columns = torch.tensor(features, dtype=torch.long, device=reading.acts.device)
        fires = _fires(codes.chosen(), columns)
    where = fires.any(-1)
    few = at_tokens(codes, where)
    before = few.values[:, columns]
    after = value(before, reading.unit[where].unsqueeze(-1)).to(before.dtype)
    few.values[:, columns] = torch.where(fires[where], after, before)
    return Change(where, few)


def _fires(codes: Codes, features: Int[Tensor, " n"]) -> Bool[Tensor, "batch pos n"]:
    if isinstance(codes, DenseCodes):
        return codes.values[..., features] > 0
    columns = [codes.at(feature) > 0 for feature in features.tolist()]
    return torch.stack(columns, -1) if columns else codes.values.new_zeros(*codes.values.shape[:-1], 0).bool()
