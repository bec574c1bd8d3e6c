"""Contrastive term of T-SAE (Bhalla et al. 2025, arXiv 2511.05541): high-level features tell whose past is whose.

Shapes: n pairs, h high-level features (the first h of d_sae).
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from chronosae.autoencoders import Codes, SparseCodes
from chronosae.autoencoders.parts.terms import TERMS, Weight
from chronosae.kernels import scatter_dense
from chronosae.objectives.active import document_spans
from chronosae.objectives.reconstruction import prefix_size
from chronosae.objectives.term import StepContext, Term

Pair = Literal["previous", "random"]
Form = Literal["release", "paper"]


@TERMS.add
class ContrastiveTerm(Term):
    """T-SAE's contrast between the first features of a token and of an earlier one (arXiv 2511.05541)."""

    per_energy: ClassVar[bool] = True
    kind: Literal["contrastive"] = "contrastive"
    weight: Weight = 0.1
    form: Form = "release"
    """`release`: raw dot products (the published code); `paper`: cosine over `temperature`."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the `paper` form."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the dictionary that is contrasted: its first features."""
    pair: Pair = "previous"
    """The earlier token: the one before, or any earlier one of the same document."""

    def value(self, step: StepContext) -> Tensor:
        layout, doc_ids = step.documents("contrastive term")
        # The release trains on inputs of mean energy 1; ours have d_in, so that raw products are d_in times as large.
        codes = replace(step.forward.codes, values=step.forward.codes.values / step.sae.d_in**0.5)
        return contrastive_error(
            codes,
            layout.mask,
            doc_ids,
            prefix_size(self.share, step.sae.d_sae),
            pair=self.pair,
            form=self.form,
            temperature=self.temperature,
            generator=step.draws.generator(self.kind, 0, step.forward.mask.device),
        )


def contrastive_error(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    doc_ids: Int[Tensor, "batch pos"],
    n_high: int,
    pair: Pair = "random",
    form: Form = "release",
    temperature: float = 0.1,
    max_pairs: int = 256,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """`info_nce` between the first `n_high` features of sampled tokens and of an earlier token of the same document.

    A pair's negatives are the other pairs. `max_pairs` are spread evenly over the sequences, at most
    `max_pairs // batch` (at least 1) from each, so that about 1 negative in `batch` comes from the pair's own
    sequence. Memory is O(max_pairs (n_high + max_pairs)). See `sample_pairs` for `pair` and `generator`.

    Raises:
        ValueError: `n_high` isn't between 1 and d_sae.
    """
    if not 1 <= n_high <= codes.d_sae:
        raise ValueError(f"n_high is {n_high}; the high split of {codes.d_sae} features has 1 to {codes.d_sae} of them")
    now, before = sample_pairs(mask, doc_ids, pair, max_pairs, generator)
    if len(now) == 0:
        return codes.values.sum() * 0.0
    return info_nce(high_codes(codes, now, n_high), high_codes(codes, before, n_high), form, temperature)


def info_nce(
    now: Float[Tensor, "n h"], before: Float[Tensor, "n h"], form: Form = "release", temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Cross-entropy of telling each row's own partner from the others', both ways.

    - `release` (the authors' code): logits are raw dot products `now @ before^T`, the two ways averaged.
    - `paper`: logits are cosines divided by `temperature`, the two ways added, as the paper's equation has them.

    The cosine with a token on which no high-level feature fired is 0, and gives it no gradient.
    """
    target = torch.arange(len(now), device=now.device)
    with torch.autocast(now.device.type, enabled=False):  # a softmax of large dot products needs their last digits
        now, before = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (now, before))
        logits = _unit(now) @ _unit(before).T / temperature if form == "paper" else now @ before.T
        both = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    return both if form == "paper" else both / 2


def sample_pairs(
    mask: Bool[Tensor, "batch pos"],
    doc_ids: Int[Tensor, "batch pos"],
    pair: Pair = "random",
    max_pairs: int = 256,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Indices into the flattened batch of sampled tokens and of an earlier unmasked token of the same document.

    `previous` is the unmasked token just before; `random` is any earlier one, each equally likely, drawn for every
    token on its own. Tokens with nothing before them take no part; the others of a sequence are equally likely.
    The same `generator` state gives the same pairs (torch's default generator when None).
    """
    device = generator.device if generator is not None else torch.device("cpu")
    order, choice = torch.rand(2, *mask.shape, generator=generator, device=device).to(mask.device)
    spans = document_spans(mask, doc_ids)
    ranks = torch.arange(len(spans.tokens), device=mask.device)
    earlier = ranks - spans.start
    back = torch.ones_like(earlier)
    if pair == "random":
        # A draw of almost 1 times a long document may round up to its length; the clamp keeps it inside.
        back += (choice.flatten()[spans.tokens] * earlier).long().clamp_max_(earlier - 1)
    partner = torch.full(mask.shape, -1, device=mask.device).flatten()
    valid = earlier > 0
    partner[spans.tokens[valid]] = spans.tokens[(ranks - back)[valid]]

    usable = (partner >= 0).view(mask.shape)
    per_sequence = min(max(max_pairs // mask.shape[0], 1), mask.shape[1])
    drawn = order.masked_fill(~usable, -1.0).topk(per_sequence, dim=1).indices.sort(dim=1).values
    first = torch.arange(mask.shape[0], device=mask.device).unsqueeze(1) * mask.shape[1]
    now = (drawn + first).flatten()
    now = now[usable.flatten()[now]]
    return now, partner[now]


def high_codes(codes: Codes, tokens: Int[Tensor, " n"], n_high: int) -> Float[Tensor, "n h"]:
    """The first `n_high` features at some tokens of the flattened batch, dense."""
    values = codes.values.flatten(0, -2).index_select(0, tokens)
    if not isinstance(codes, SparseCodes):
        return values[:, :n_high]
    indices = codes.indices.flatten(0, -2)[tokens]
    high = indices < n_high
    return scatter_dense(indices.masked_fill(~high, 0), values.masked_fill(~high, 0), n_high)


def _unit(x: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
    """Rows of unit length; rows of zeros stay so, without gradient."""
    squares = x.square().sum(1, keepdim=True)
    fires = squares > 0
    return torch.where(fires, x * squares.where(fires, 1).rsqrt(), 0)
