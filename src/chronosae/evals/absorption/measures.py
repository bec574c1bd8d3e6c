"""Full and fractional absorption at each word, for every number of split features at once."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import SparseCodes
from chronosae.evals.absorption.options import AbsorptionOptions


class Absorbed(NamedTuple):
    """Index k - 1: the letter's first k leading features are its split features."""

    fraction: Float[Tensor, "words K"]
    """Share of the letter that other features carry, 0 to 1."""
    full: Bool[Tensor, "words K"]
    """The split features are silent and one other feature carries the letter."""


class Along(NamedTuple):
    """Features and activations along the direction of each word's own letter."""

    projected: Float[Tensor, "words slots"]
    """What each active feature writes along the direction."""
    cosine: Float[Tensor, "words slots"]
    """Cosine of its decoder row with the direction."""
    activation: Float[Tensor, " words"]
    """What there is to write."""


def project(
    codes: SparseCodes,
    letters: Int[Tensor, " words"],
    acts: Float[Tensor, "words d_in"],
    directions: Float[Tensor, "d_in letters"],
    W_dec: Float[Tensor, "d_sae d_in"],
    b_dec: Float[Tensor, " d_in"] | None,
) -> Along:
    """Project on the directions of the probe.

    With `b_dec`: what features write into the raw activation (code x decoder row x `codes.scale`), against the raw
    activation minus what b_dec writes. Without: SAEBench's code x cosine against the raw activation, which assumes
    decoder rows of norm 1, codes in the units of the activations, and a b_dec orthogonal to the probe.
    """
    unit = directions / directions.norm(dim=0, keepdim=True)
    written = W_dec.float() @ unit
    cosine = written / W_dec.float().norm(dim=1, keepdim=True).clamp_min(1e-8)
    own = letters.unsqueeze(1)
    activation = (acts * unit.T[letters]).sum(1)
    if b_dec is None:
        return Along(codes.values * cosine[codes.indices, own], cosine[codes.indices, own], activation)
    assert codes.scale is not None
    projected = codes.values * written[codes.indices, own] * codes.scale.unsqueeze(1)
    bias = codes.scale * (b_dec.float() @ unit)[letters]
    return Along(projected, cosine[codes.indices, own], activation - bias)


def absorbed(codes: SparseCodes, along: Along, leading: Int[Tensor, "words K"], options: AbsorptionOptions) -> Absorbed:
    """Absorption as Chanin et al. (arXiv 2409.14507) and SAEBench define it; `leading` is each word's own letter's."""
    split = torch.zeros_like(codes.values, dtype=torch.bool)
    found = []
    for k in range(leading.shape[1]):
        split = split | (codes.indices == leading[:, k : k + 1])
        found.append((_fraction(along, split, options), _full(codes, along, split, options)))
    fraction, full = zip(*found, strict=True)
    return Absorbed(torch.stack(fraction, 1), torch.stack(full, 1))


def _fraction(along: Along, split: Bool[Tensor, "words slots"], options: AbsorptionOptions) -> Float[Tensor, " words"]:
    """a / (a + m): m the split features' projection; a the absorbers', at most what m leaves of the activation's."""
    projected, there = along.projected.double(), along.activation.double()
    main = torch.where(split, projected, 0).sum(1)
    absorbing = ~split & (along.cosine >= options.fraction_min_cosine) & (projected > 0)
    slots = min(options.max_absorbers, projected.shape[1])
    absorbers = torch.where(absorbing, projected, 0).topk(slots, dim=1).values.sum(1)
    enough = (there > 0) & (absorbers >= options.min_projection_share * there)
    part = torch.minimum(absorbers, there - main)
    fraction = torch.where(main <= 0, 1.0, part / (part + main).clamp_min(torch.finfo(torch.float64).tiny))
    return torch.where(enough & (main < there), fraction, 0.0)


def _full(
    codes: SparseCodes, along: Along, split: Bool[Tensor, "words slots"], options: AbsorptionOptions
) -> Bool[Tensor, " words"]:
    silent = ~(split & (codes.values >= options.silent_below)).any(1)
    top, where = along.projected.double().max(1)
    aligned = along.cosine.gather(1, where.unsqueeze(1)).squeeze(1) >= options.full_min_cosine
    there = along.activation.double()
    return silent & aligned & (there > 0) & (top >= options.min_projection_share * there)
