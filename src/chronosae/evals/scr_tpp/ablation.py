"""What zeroing features does to the pooled activation of a text, the autoencoder's error kept.

    x' = decode(f with the chosen features at 0) + x - decode(f)

A decoder that adds up code_f W_dec_f (all of ours do) makes x' - x the negative sum of the chosen features' share, and
the same holds for means over tokens: pooled codes are all that is needed, and no second pass. Whether a decoder does so
is checked on the first texts; one that doesn't is asked to decode all of them, once for every choice of features.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.evals.pooling import pool_dense
from chronosae.evals.scr_tpp.contexts import Context, contexts, in_raw_units
from chronosae.evals.scr_tpp.options import Protocol
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

# Largest difference between a decoder and the sum it should be, relative to the activations.
LINEAR_WITHIN = 1e-4

Choice = Int[Tensor, "_"]
"""Numbers of the features that are zeroed together."""


@dataclass(frozen=True)
class Reading:
    """How a list of texts is read."""

    bench: Workbench
    rows: TokenRows
    protocol: Protocol
    context: int
    what: str

    def contexts(self, saes: Mapping[str, Autoencoder]) -> Iterator[Context]:
        """See `chronosae.evals.scr_tpp.contexts.contexts`."""
        return contexts(self.bench, self.rows, saes, self.protocol, self.what, self.context)


class Ablation(ABC):
    """One autoencoder on one list of texts."""

    @abstractmethod
    def shifts(
        self, choices: Sequence[Choice], weight: Float[Tensor, "probes d_in"]
    ) -> Float[Tensor, "choices rows probes"]:
        """By how much the probes' logits change when the features of each choice are zeroed."""


class LinearAblation(Ablation):
    """Of a decoder that adds up its features' shares.

    Arguments:
        removable: mean codes of each text, in raw units.
        W_dec: the decoder.
    """

    def __init__(self, removable: Float[Tensor, "rows d_sae"], W_dec: Float[Tensor, "d_sae d_in"]) -> None:
        self._removable, self._W_dec = removable, W_dec

    def shifts(
        self, choices: Sequence[Choice], weight: Float[Tensor, "probes d_in"]
    ) -> Float[Tensor, "choices rows probes"]:
        alignment = self._W_dec @ weight.T
        return torch.stack([-(self._removable[:, chosen] @ alignment[chosen]) for chosen in choices])


class DecodedAblation(Ablation):
    """Of any other decoder: whole contexts are read and decoded again."""

    def __init__(self, reading: Reading, name: str, sae: Autoencoder) -> None:
        self._reading, self._name, self._sae = reading, name, sae

    def shifts(
        self, choices: Sequence[Choice], weight: Float[Tensor, "probes d_in"]
    ) -> Float[Tensor, "choices rows probes"]:
        found = torch.zeros(len(choices), len(self._reading.rows), len(weight))
        for context in self._reading.contexts({self._name: self._sae}):
            codes = context.codes[self._name]
            whole = self._sae.decode(codes)
            for shift, chosen in zip(found, choices, strict=True):
                changed = self._sae.decode(without(codes, chosen)) - whole
                shift[context.index] = _pooled_change(context, changed) @ weight.T
        return found


def ablations(reading: Reading, saes: Mapping[str, Autoencoder]) -> tuple[Tensor, dict[str, Ablation]]:
    """Pooled activations of all texts, and what zeroing features does to them, in one pass."""
    raw = torch.zeros(len(reading.rows), reading.bench.subject.info.d_model)
    removable: dict[str, Tensor] = {}
    for number, context in enumerate(reading.contexts(saes)):
        raw[context.index] = context.raw.cpu()
        for name, sae in saes.items():
            codes = context.codes[name]
            if number == 0 and adds_up(sae, codes):
                removable[name] = torch.zeros(len(reading.rows), sae.d_sae)
            if name in removable:
                removable[name][context.index] = context.removable(in_raw_units(sae, codes)).cpu()
    return raw, {
        name: LinearAblation(removable[name], sae.W_dec.detach().float().cpu())
        if name in removable
        else DecodedAblation(reading, name, sae)
        for name, sae in saes.items()
    }


def contrasts(
    reading: Reading, saes: Mapping[str, Autoencoder], weight: Float[Tensor, "tasks rows"]
) -> tuple[Float[Tensor, "rows d_in"], dict[str, Float[Tensor, "tasks d_sae"]]]:
    """Pooled activations of all texts, and weighted sums over texts of pooled codes (raw units), in one pass."""
    raw = torch.zeros(len(reading.rows), reading.bench.subject.info.d_model)
    found = {name: torch.zeros(len(weight), sae.d_sae) for name, sae in saes.items()}
    for context in reading.contexts(saes):
        raw[context.index] = context.raw.cpu()
        for name, sae in saes.items():
            codes = context.pooled(in_raw_units(sae, context.codes[name])).cpu()
            found[name] += weight[:, context.index].to(codes.dtype) @ codes
    return raw, found


def adds_up(sae: Autoencoder, codes: Codes) -> bool:
    """`decode` is the sum of code_f W_dec_f, plus b_dec, in the activations' own units."""
    decoded = sae.decode(codes)
    summed = sae.denormalise(codes.combine(sae.W_dec) + sae.b_dec, codes.scale)
    return bool((decoded - summed).norm() <= LINEAR_WITHIN * decoded.norm())


def without(codes: Codes, chosen: Choice) -> Codes:
    """The same codes with the chosen features at 0."""
    chosen = chosen.to(codes.values.device)
    if isinstance(codes, SparseCodes):
        return replace(codes, values=codes.values.masked_fill(torch.isin(codes.indices, chosen), 0.0))
    return replace(codes, values=codes.values.index_fill(-1, chosen, 0.0))


def _pooled_change(context: Context, changed: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch d_in"]:
    mask = context.batch.mask.to(changed.device)
    share = mask.sum(1) / context.seen.to(changed.device).sum(1).clamp(min=1)
    return (pool_dense(changed, mask, "mean") * share.unsqueeze(1)).float().cpu()
