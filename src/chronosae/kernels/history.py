"""What fired at some tokens and before them. Without a graph these are loops: small tensors gain nothing from threads.

Shapes: n tokens, w lags, k slots, F features, r rank, m candidate entries of a target, p triples.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels.compiled import loops_for


def most_active(values: Float[Tensor, "*tokens k"]) -> int:
    """The largest number of values that aren't zero at a token; 0 without any."""
    if not values.numel():
        return 0
    loops = loops_for(values)
    if loops is None:
        return int((values != 0).sum(-1).max())
    return int(loops.most_active(values.detach().reshape(-1, values.shape[-1]).numpy()))


def same_document(
    mask: Bool[Tensor, "batch pos"], doc_ids: Int[Tensor, "batch pos"] | None, window: int
) -> Bool[Tensor, "batch pos window"]:
    """`[..., l - 1]`: the position l earlier and this one are both unmasked and in one document of one sequence.

    A document starts wherever `doc_ids` change, so an id that comes back later is another document.
    """
    loops = loops_for(torch.empty(0)) if mask.device.type == "cpu" else None
    if loops is not None:
        valid = torch.empty(*mask.shape, window, dtype=torch.bool)
        ids = mask.new_empty(len(mask), 0, dtype=torch.int64) if doc_ids is None else doc_ids
        loops.same_document(mask.contiguous().numpy(), ids.contiguous().numpy(), valid.numpy())
        return valid
    run = torch.zeros_like(mask, dtype=torch.int64)
    if doc_ids is not None:
        run[:, 1:] = (doc_ids[:, 1:] != doc_ids[:, :-1]).cumsum(1)
    valid = torch.zeros(*mask.shape, window, dtype=torch.bool, device=mask.device)
    for lag in range(1, min(window, mask.shape[1] - 1) + 1):
        valid[:, lag:, lag - 1] = mask[:, lag:] & mask[:, :-lag] & (run[:, lag:] == run[:, :-lag])
    return valid


def gather_history(
    indices: Int[Tensor, "batch pos k"],
    values: Float[Tensor, "batch pos k"],
    valid: Bool[Tensor, "batch pos w"],
    tokens: Int[Tensor, "n 2"],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Features and values at `tokens` (row, position) [n, k] and before them [n, w, k], and which of these are valid.

    `valid[..., l - 1]` says whether the position l earlier counts; values are 0 where it doesn't.
    """
    loops = None if values.requires_grad else loops_for(values)
    if loops is None:
        row, position = tokens.unbind(1)
        before = (position[:, None] - torch.arange(1, valid.shape[-1] + 1, device=tokens.device)).clamp(min=0)
        row_before, present = row[:, None], valid[row, position]
        past = torch.where(present[..., None], values[row_before, before], 0)
        return indices[row, position], values[row, position], indices[row_before, before], past, present
    shape = len(tokens), valid.shape[-1], values.shape[-1]
    now, past = (shape[0], shape[2]), shape
    pairs = [(indices.new_empty(s), values.new_empty(s)) for s in (now, past)]
    out = *pairs[0], *pairs[1], valid.new_empty(shape[:2])
    given = [t.detach().contiguous().numpy() for t in (indices, values, valid, tokens)]
    loops.gather_history(*given, tuple(t.numpy() for t in out))
    return out


def unit_values(
    features: Int[Tensor, "*p"], values: Float[Tensor, "*p"], mean_square: Float[Tensor, " F"]
) -> Float[Tensor, "*p"]:
    """Values over the root mean square of their feature, 0 where that is 0. The gradient takes it for a constant."""
    values = values.to(mean_square.dtype)
    loops = None if values.requires_grad else loops_for(values, mean_square)
    if loops is None:
        square = mean_square[features]
        return values * torch.where(square > 0, square.clamp(min=torch.finfo(square.dtype).tiny).rsqrt(), 0)
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    given = [t.contiguous().view(-1).numpy() for t in (features, values, mean_square)]
    loops.unit_values(*given, out.view(-1).numpy())
    return out


def triple_weights(
    triples: tuple[Int[Tensor, " p"], Int[Tensor, " p"], Int[Tensor, " p"]],
    low_rank: tuple[Float[Tensor, "F w r"], Float[Tensor, "F w r"]],
    values: Float[Tensor, "F m"],
    candidates: tuple[Int[Tensor, "F m"], Int[Tensor, "F m"]],
) -> Float[Tensor, " p"]:
    """`U_il . V_jl` and the value of the candidate (i, j, l), if it is one, of triples (source j, target i, lag l).

    candidates: source and lag of each target's entries.
    """
    (source, target, lag), (U, V), (sources, lags) = triples, low_rank, candidates
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in (U, V, values))
    loops = None if graph else loops_for(U, V, values)
    if loops is None:
        own = (sources[target] == source.unsqueeze(1)) & (lags[target] == lag.unsqueeze(1))
        return (U[target, lag - 1] * V[source, lag - 1]).sum(1) + (values[target] * own).sum(1)
    out = values.new_empty(len(source))
    given = [t.detach().contiguous().numpy() for t in (source, target, lag, U, V, values, sources, lags)]
    loops.triple_weights(*given, out.numpy())
    return out
