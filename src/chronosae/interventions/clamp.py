"""Clamp features to a negative value wherever they fire."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from chronosae.autoencoders import Codes, DenseCodes, SparseCodes
from chronosae.interventions.edit import Change, CodeEdit
from chronosae.interventions.reading import Reading, at_tokens


class Clamp(CodeEdit):
    """Where a chosen feature fires (code > 0) it becomes `-multiplier`; where it doesn't, nothing happens.

    `multiplier` is in units of the raw activation (a decoder row of norm 1 is subtracted that many times), whatever
    the autoencoder's own normalisation. 0 ablates. Of codes that a context foretells (TFA) only the novel part counts
    as firing.

    (Farrell et al. 2024, arXiv 2410.19278; SAEBench's `clamp_feature_activation`.)
    """

    def __init__(self, features: Sequence[int], multiplier: float) -> None:
        """
        Raises:
            ValueError: a feature is named twice, or the multiplier is negative.
        """
        if len(set(features)) < len(features):
            raise ValueError(f"features named twice: {sorted(features)}")
        if multiplier < 0:
            raise ValueError(f"multiplier must be 0 or more, not {multiplier}: features are clamped to its negative")
        self.features, self.multiplier = tuple(features), float(multiplier)

    def __call__(self, reading: Reading) -> Change:
        """
        Raises:
            ValueError: a feature that the autoencoder doesn't have.
        """
        codes = reading.codes
        if self.features and not 0 <= min(self.features) <= max(self.features) < codes.d_sae:
            raise ValueError(f"features must be 0 to {codes.d_sae - 1}, not {sorted(self.features)}")
        if isinstance(codes, SparseCodes):
            return self._sparse(reading, codes)
        return self._dense(reading)

    def _sparse(self, reading: Reading, codes: SparseCodes) -> Change:
        chosen = torch.zeros(codes.d_sae, dtype=torch.bool, device=codes.values.device)
        chosen[list(self.features)] = True
        fires = chosen[codes.indices] & (codes.values > 0)
        where = fires.any(-1)
        few = at_tokens(codes, where)
        assert isinstance(few, SparseCodes)
        values = torch.where(fires[where], self._value(reading, where), few.values)
        return Change(where, SparseCodes(values, few.scale, few.indices, few.n_features))

    def _dense(self, reading: Reading) -> Change:
        features = torch.tensor(self.features, dtype=torch.long, device=reading.acts.device)
        fires = _fires(reading.codes.chosen(), features)
        where = fires.any(-1)
        few = at_tokens(reading.codes, where)
        values = few.values.clone()
        values[:, features] = torch.where(fires[where], self._value(reading, where), values[:, features])
        return Change(where, DenseCodes(values, few.scale))

    def _value(self, reading: Reading, where: Bool[Tensor, "batch pos"]) -> Tensor:
        """[n 1], in code units."""
        return (-self.multiplier * reading.unit[where]).unsqueeze(-1).to(reading.codes.values.dtype)


def _fires(codes: Codes, features: Tensor) -> Tensor:
    """[batch pos n_features]"""
    if isinstance(codes, DenseCodes):
        return codes.values[..., features] > 0
    columns = [codes.at(feature) > 0 for feature in features.tolist()]
    return torch.stack(columns, -1) if columns else codes.values.new_zeros(*codes.values.shape[:-1], 0).bool()
