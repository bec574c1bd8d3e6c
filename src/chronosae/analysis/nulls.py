"""What edges are held against: codes without them, and scores that don't find them.

Codes whose lagged edges were destroyed on purpose: what an estimator finds in them is false. Run at least the first two
of these: `shuffle_time` keeps what a document is about, `shift_features` keeps how long features persist,
`shuffle_batch` keeps only which features fire together. All keep every feature's firing rate.

Scores kept for comparison: the original interaction average, and surprise alone.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.analysis.edges import MAX_FEATURES, EdgeSet, LaggedCounts
from chronosae.autoencoders import Codes, SparseCodes
from chronosae.config import UserError
from chronosae.objectives import as_slots, same_document

_MIX = (-7046029254386353131, -4417276706812531889, 1609587929392839161)


def shuffle_time(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"] | None = None,
    doc_ids: Int[Tensor, "batch pos"] | None = None,
    *,
    seed: int,
) -> SparseCodes:
    """The unmasked tokens of each document in random order, all features together."""
    slots = as_slots(codes)
    tokens, document = _documents(slots, mask, doc_ids)
    return _rearranged(slots, tokens, _random_order(document, seed))


def shuffle_batch(codes: Codes, mask: Bool[Tensor, "batch pos"] | None = None, *, seed: int) -> SparseCodes:
    """All unmasked tokens of the batch in random order."""
    slots = as_slots(codes)
    tokens, document = _documents(slots, mask, None)
    return _rearranged(slots, tokens, _random_order(torch.zeros_like(document), seed))


def shift_features(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"] | None = None,
    doc_ids: Int[Tensor, "batch pos"] | None = None,
    *,
    seed: int,
) -> SparseCodes:
    """Every feature shifted along each document's unmasked tokens, circularly, by its own random amount."""
    slots = as_slots(codes)
    tokens, document = _documents(slots, mask, doc_ids)
    length = torch.bincount(document)
    first = length.cumsum(0) - length
    features, values = slots.indices.flatten(0, 1)[tokens], slots.values.flatten(0, 1)[tokens]
    event, slot = torch.nonzero(values, as_tuple=True)
    feature, doc = features[event, slot], document[event]
    moved = first[doc] + (event - first[doc] + _offset(doc, feature, seed) % length[doc]) % length[doc]
    return _from_events(slots, tokens[moved], feature, values[event, slot])


def _documents(
    slots: SparseCodes, mask: Bool[Tensor, "batch pos"] | None, doc_ids: Int[Tensor, "batch pos"] | None
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Unmasked tokens (flat, in order) and the number of the document each belongs to."""
    shape, device = slots.values.shape[:2], slots.values.device
    starts = torch.zeros(shape, dtype=torch.int64, device=device)
    starts[:, 0] = 1
    if doc_ids is not None:
        starts[:, 1:] = (doc_ids[:, 1:] != doc_ids[:, :-1]).long()
    run = starts.flatten().cumsum(0) - 1
    tokens = torch.arange(len(run), device=device) if mask is None else torch.nonzero(mask.flatten()).squeeze(1)
    return tokens, run[tokens].unique_consecutive(return_inverse=True)[1]


def _random_order(document: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """A permutation that moves tokens within their document only; documents are consecutive."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(document), generator=generator).to(document.device)
    return shuffled[document[shuffled].sort(stable=True).indices]


def _rearranged(slots: SparseCodes, tokens: Int[Tensor, " n"], order: Int[Tensor, " n"]) -> SparseCodes:
    indices, values = slots.indices.clone(), slots.values.clone()
    for new, old in ((indices, slots.indices), (values, slots.values)):
        new.view(-1, new.shape[-1])[tokens] = old.flatten(0, 1)[tokens[order]]
    return SparseCodes(values=values, indices=indices, n_features=slots.d_sae, scale=None)


def _offset(document: Int[Tensor, " n"], feature: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """A non-negative pseudo-random number of (document, feature, seed)."""
    x = document * _MIX[0] + feature * _MIX[1] + document.new_tensor(seed + 1) * _MIX[2]
    for _ in range(2):
        x = (x ^ (x >> 32)) * _MIX[0]
    return (x >> 20) & (2**40 - 1)


def _from_events(slots: SparseCodes, token: Tensor, feature: Tensor, value: Tensor) -> SparseCodes:
    batch, pos = slots.values.shape[:2]
    order = (token * slots.d_sae + feature).argsort()
    token, feature, value = token[order], feature[order], value[order]
    per_token = torch.bincount(token, minlength=batch * pos)
    slot = torch.arange(len(token), device=token.device) - (per_token.cumsum(0) - per_token)[token]
    width = max(int(per_token.max()), 1)
    values = value.new_zeros(batch * pos, width)
    indices = feature.new_zeros(batch * pos, width)
    values[token, slot], indices[token, slot] = value, feature
    shape = (batch, pos, width)
    return SparseCodes(values=values.view(shape), indices=indices.view(shape), n_features=slots.d_sae, scale=None)


@torch.no_grad()
def naive_interactions(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"] | None = None,
    doc_ids: Int[Tensor, "batch pos"] | None = None,
    *,
    lag: int = 1,
    alpha: float = 0.02,
) -> Float[Tensor, "source target"]:
    """C_ij, average over positions (weight `alpha` for the newest) of mean_batch sigmoid(z_i(t) z_j(t - lag)).

    sigmoid(0) = 0.5: every pair, co-active or not, lies above any threshold below 0.5. This is the rule that fails.

    Raises:
        UserError: more than 4096 features.
    """
    if codes.d_sae > MAX_FEATURES:
        raise UserError(f"the naive rule holds every pair; at most {MAX_FEATURES} features, got {codes.d_sae}")
    z = codes.dense()
    if mask is None:
        mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    valid = same_document(mask, doc_ids, lag)[..., -1]
    average: Tensor | None = None
    for t in range(lag, z.shape[1]):
        rows = valid[:, t]
        if rows.any():
            new = torch.sigmoid(z[rows, t - lag, :, None] * z[rows, t, None, :]).mean(0)
            average = new if average is None else average + alpha * (new - average)
    return torch.zeros(codes.d_sae, codes.d_sae, device=z.device) if average is None else average


def surprise_edges(counts: LaggedCounts, n: int) -> EdgeSet:
    """The `n` triples of highest z = (c - e) / sqrt(e + 1), which is both their weight and t here."""
    z = torch.stack([counts.surprise(lag) for lag in range(1, counts.window + 1)])
    best = z.flatten().topk(n)
    lag, pair = best.indices // counts.d_sae**2 + 1, best.indices % counts.d_sae**2
    source, target = pair // counts.d_sae, pair % counts.d_sae
    return EdgeSet(
        source=source,
        target=target,
        lag=lag,
        weight=best.values,
        t=best.values,
        support=counts.together[lag, source, target].long(),
        d_sae=counts.d_sae,
    )
