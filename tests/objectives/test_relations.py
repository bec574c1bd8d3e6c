"""The causal prediction and its interactions against dense formulas, one token and one pair at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from chronosae.autoencoders import DenseCodes, Draws, Normalisation, SparseCodes, Spec, TopK, build_from_spec
from chronosae.objectives import (
    CausalPredictionTerm,
    CorrelationTerm,
    CorrelationTracker,
    StepContext,
    TemporalCorrelationTracker,
    term_value,
)
from chronosae.objectives.active import active_codes
from chronosae.objectives.causal import correlation_error, interactions, prediction_error, refresh_from
from chronosae.objectives.causal_head import PredictionHead, candidate_hits
from chronosae.objectives.history import EMPTY, sampled_history
from chronosae.presets import load
from chronosae.presets.temporal import Causal

WINDOW = 3


@dataclass(frozen=True)
class EveryFeature(Draws):
    """Draws every feature once as a negative, so that the sampled loss is the full one."""

    def uniform(self, purpose: str, like: Tensor) -> Tensor:
        if purpose != "negatives":
            return super().uniform(purpose, like)
        return ((torch.arange(like.shape[-1]) + 0.5) / like.shape[-1]).to(like.dtype).expand_as(like)


def sparse(batch: int, pos: int, d_sae: int, slots: int, seed: int) -> SparseCodes:
    """Random sparse codes in float64, some slots unused."""
    g = torch.Generator().manual_seed(seed)
    indices = torch.rand(batch, pos, d_sae, generator=g).topk(slots, -1).indices.sort(-1).values
    values = torch.rand(batch, pos, slots, generator=g, dtype=torch.float64) + 0.2
    unused = torch.rand(batch, pos, slots, generator=g) < 0.2
    indices, values = indices.masked_fill(unused, 0), values.masked_fill(unused, 0)
    return SparseCodes(values, None, indices, d_sae)


def documents(batch: int, pos: int, seed: int, masked: float) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, pos, generator=g) >= masked
    return mask, (torch.rand(batch, pos, generator=g) < 0.2).long().cumsum(1)


def random_head(d_sae: int, seed: int = 0, dense: bool = False) -> PredictionHead:
    """A head in float64 that has learned something: random weights, candidates and scales."""
    torch.manual_seed(seed)
    term = CausalPredictionTerm(window=WINDOW, rank=2, entries=4, dense=dense)
    head = PredictionHead(term, d_sae).double()
    for parameter in head.parameters():
        parameter.data.normal_(std=0.7)
    head.mean_square.uniform_(0.3, 2)
    if not dense:
        pair = torch.stack([torch.randperm(d_sae * WINDOW)[:4] for _ in range(d_sae)])
        free = torch.rand(d_sae, 4) < 0.3
        head.source.copy_((pair % d_sae).masked_fill(free, EMPTY))
        head.lag.copy_((pair // d_sae + 1).masked_fill(free, 1))
    return head


def full_weights(head: PredictionHead) -> Tensor:
    """W [lag - 1, target, source], differentiable."""
    if head.dense:
        return head.W
    W = torch.einsum("iwr,jwr->wij", head.U, head.V)
    i, e = (head.source != EMPTY).nonzero(as_tuple=True)
    return W.index_put((head.lag[i, e] - 1, i, head.source[i, e]), head.values[i, e], accumulate=True)


def assert_same_gradients(mine: Tensor, theirs: Tensor, inputs: list[Tensor], rtol: float, atol: float) -> None:
    got = torch.autograd.grad(mine, inputs, retain_graph=True, materialize_grads=True)
    want = torch.autograd.grad(theirs, inputs, retain_graph=True, materialize_grads=True)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def pairs_of_tokens(mask: Tensor, docs: Tensor) -> list[tuple[int, int, int]]:
    """(row, t, lag) of the neighbours that count, by brute force."""
    found = []
    for lag in range(1, WINDOW + 1):
        for row, t in mask.nonzero().tolist():
            if t >= lag and mask[row, t - lag] and (docs[row, t - lag : t + 1] == docs[row, t]).all():
                found.append((row, t, lag))
    return found


def dense_prediction(head: PredictionHead, z: Tensor, mask: Tensor, docs: Tensor) -> Tensor:
    """DESIGN's formula as written, over all features and unmasked tokens."""
    y, W = z / head.mean_square.sqrt(), full_weights(head)
    logits: dict[tuple[int, ...], Tensor] = dict.fromkeys(map(tuple, mask.nonzero().tolist()), head.b)
    for row, t, lag in pairs_of_tokens(mask, docs):
        logits[row, t] = logits[row, t] + W[lag - 1] @ y[row, t - lag]
    if not logits:
        return head.b.sum() * 0
    losses = [
        functional.binary_cross_entropy_with_logits(logit, (z[at] != 0).double(), reduction="sum")
        for at, logit in logits.items()
    ]
    return torch.stack(losses).mean()


def dense_interactions(head: PredictionHead, z: Tensor, mask: Tensor, docs: Tensor) -> dict[tuple[int, ...], Tensor]:
    """(row, t, lag, target, source) -> R."""
    y, W, R = z / head.mean_square.sqrt(), full_weights(head), {}
    for row, t, lag in pairs_of_tokens(mask, docs):
        for i in z[row, t].nonzero().flatten().tolist():
            for j in z[row, t - lag].nonzero().flatten().tolist():
                R[row, t, lag, i, j] = (y[row, t, i] * W[lag - 1, i, j] * y[row, t - lag, j]).sigmoid()
    return R


@given(
    batch=st.integers(1, 3),
    pos=st.integers(1, 9),
    seed=st.integers(0, 1000),
    masked=st.sampled_from([0.0, 0.3, 1.0]),
    dense=st.booleans(),
    as_dense=st.booleans(),
)
def test_with_every_negative_the_loss_and_its_gradient_are_those_of_full_logistic_regression(
    batch: int, pos: int, seed: int, masked: float, dense: bool, as_dense: bool
) -> None:
    codes, head = sparse(batch, pos, 7, 3, seed), random_head(7, seed, dense)
    mask, docs = documents(batch, pos, seed, masked)
    codes = SparseCodes(codes.values * mask.unsqueeze(-1), None, codes.indices * mask.unsqueeze(-1), 7)
    given_codes = DenseCodes(codes.dense(), None) if as_dense else codes
    fast = prediction_error(head, given_codes, mask, docs, EveryFeature(0, seed), negatives=7, sample_tokens=None)
    slow = dense_prediction(head, codes.dense(), mask, docs)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    assert_same_gradients(fast, slow, [*head.parameters()], rtol=1e-9, atol=1e-9)


def test_sampled_tokens_and_negatives_give_the_full_loss_and_gradient_on_average() -> None:
    codes, head = sparse(3, 8, 9, 3, 0), random_head(9)
    mask, docs = documents(3, 8, 1, 0.2)
    codes = SparseCodes(codes.values * mask.unsqueeze(-1), None, codes.indices * mask.unsqueeze(-1), 9)
    full = dense_prediction(head, codes.dense(), mask, docs)
    (gradient,) = torch.autograd.grad(full, [head.b])
    losses, gradients = [], []
    for step in range(400):
        loss = prediction_error(head, codes, mask, docs, Draws(0, step), negatives=2, sample_tokens=5)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, [head.b])[0])
    for samples, truth in ((torch.stack(losses), full), (torch.stack(gradients), gradient)):
        error = samples.std(0) / len(samples) ** 0.5
        assert ((samples.mean(0) - truth).abs() <= 4 * error).all()


@given(
    batch=st.integers(1, 2),
    pos=st.integers(1, 8),
    seed=st.integers(0, 1000),
    masked=st.sampled_from([0.0, 0.3]),
    dense=st.booleans(),
)
def test_interactions_and_their_correlation_equal_the_pair_by_pair_formula_in_value_and_gradient(
    batch: int, pos: int, seed: int, masked: float, dense: bool
) -> None:
    codes, head = sparse(batch, pos, 6, 3, seed), random_head(6, seed, dense)
    mask, docs = documents(batch, pos, seed, masked)
    values = (codes.values * mask.unsqueeze(-1)).requires_grad_()
    # Unused slots name feature 0, which a dense reference would send its gradient.
    used = values.detach() != 0
    codes = SparseCodes(values * used, None, codes.indices * used, 6)
    pairs = interactions(head, codes, mask, docs, Draws(0, 0), sample_tokens=None)
    slow = dense_interactions(head, codes.dense(), mask, docs)
    order = sorted(range(len(slow)), key=lambda p: (pairs.lag[p], pairs.target[p], pairs.source[p], pairs.R[p].item()))
    wanted = sorted(slow.items(), key=lambda pair: (*pair[0][2:], pair[1].item()))
    assert len(pairs.R) == len(slow)
    for p, ((*_, lag, i, j), R) in zip(order, wanted, strict=True):
        assert (pairs.lag[p], pairs.target[p], pairs.source[p]) == (lag, i, j)
        torch.testing.assert_close(pairs.R[p], R, rtol=1e-12, atol=1e-12)

    error = correlation_error(pairs)
    off_diagonal = [R for (*_, i, j), R in slow.items() if i != j]
    if not off_diagonal:
        assert float(error.detach()) == 0
        return
    rms = (2 * torch.stack(off_diagonal) - 1).square().mean().sqrt()
    torch.testing.assert_close(error, rms, rtol=1e-5, atol=2e-6)
    assert_same_gradients(error, rms, [values, *head.parameters()], rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 1000), cut=st.integers(1, 9))
def test_a_document_counts_as_if_it_were_a_sequence_of_its_own(seed: int, cut: int) -> None:
    codes, head = sparse(1, 10, 7, 3, seed), random_head(7, seed)
    docs = (torch.arange(10) >= cut).long().unsqueeze(0)
    everything = torch.ones(1, 10, dtype=torch.bool)
    draws = EveryFeature(0, 0)
    together = prediction_error(head, codes, everything, docs, draws, 7, None) * 10
    alone = torch.zeros((), dtype=torch.float64)
    for part in (slice(0, cut), slice(cut, 10)):
        piece = SparseCodes(codes.values[:, part], None, codes.indices[:, part], 7)
        n = piece.values.shape[1]
        alone = alone + n * prediction_error(head, piece, everything[:, part], None, draws, 7, None)
    torch.testing.assert_close(together, alone)


@given(seed=st.integers(0, 1000))
def test_what_masked_tokens_hold_changes_nothing(seed: int) -> None:
    codes, head = sparse(2, 10, 7, 3, seed), random_head(7, seed)
    mask, docs = documents(2, 10, seed, 0.4)
    zeroed = SparseCodes(codes.values * mask.unsqueeze(-1), None, codes.indices * mask.unsqueeze(-1), 7)
    results = [
        (
            prediction_error(head, each, mask, docs, EveryFeature(0, 0), 7, None),
            correlation_error(interactions(head, each, mask, docs, Draws(0, 0), None)),
        )
        for each in (codes, zeroed)
    ]
    torch.testing.assert_close(results[0], results[1])


def test_prediction_gives_the_codes_no_gradient_and_interactions_do() -> None:
    codes, head = sparse(2, 8, 7, 3, 0), random_head(7)
    values = codes.values.requires_grad_()
    mask = torch.ones(2, 8, dtype=torch.bool)
    loss = prediction_error(head, codes, mask, None, Draws(0, 0))
    assert torch.autograd.grad(loss, [values], allow_unused=True)[0] is None
    error = correlation_error(interactions(head, codes, mask, None, Draws(0, 0)))
    assert torch.autograd.grad(error, [values])[0].abs().sum() > 0


def test_gradients_of_the_correlation_pass_gradcheck() -> None:
    codes, head = sparse(1, 5, 5, 2, 3), random_head(5)
    mask = torch.ones(1, 5, dtype=torch.bool)
    used = (codes.values != 0).to(torch.float64)
    error: Callable[[Tensor], Tensor] = lambda values: correlation_error(  # noqa: E731
        interactions(head, SparseCodes(values * used, None, codes.indices, 5), mask, None, Draws(0, 0))
    )
    assert torch.autograd.gradcheck(error, [codes.values.clone().requires_grad_()])


def test_a_new_predictor_knows_the_firing_rates_and_counts_no_interaction() -> None:
    codes = sparse(16, 64, 8, 3, 0)
    mask = torch.ones(16, 64, dtype=torch.bool)
    head = PredictionHead(CausalPredictionTerm(), 8).double()
    active = active_codes(codes, mask)
    head.observe(active.features, active.values, 16 * 64)
    fired = codes.dense() != 0
    torch.testing.assert_close(head.b.sigmoid(), fired.double().mean((0, 1)), rtol=0, atol=1e-3)
    rms = (codes.dense().square().sum((0, 1)) / fired.sum((0, 1))).sqrt()
    torch.testing.assert_close(head.mean_square.sqrt(), rms)
    started = head.b.detach().clone()
    head.observe(active.features[:5], active.values[:5], 64)
    assert torch.equal(head.b, started)
    R = interactions(head, codes, mask, None, Draws(0, 0)).R
    assert torch.equal(R, torch.full_like(R, 0.5))
    assert not head.counts(R).any()


def test_what_the_tracker_averages_is_r_where_it_counts() -> None:
    codes, head = sparse(2, 9, 6, 3, 5), random_head(6)
    mask, docs = documents(2, 9, 5, 0.2)
    pairs = interactions(head, codes, mask, docs, Draws(0, 0), None)
    ones = torch.ones(len(pairs.R)).double()
    unit = head.mean_square.sqrt()
    R = head.interaction(pairs.source, pairs.target, pairs.lag, ones * unit[pairs.source], ones * unit[pairs.target])
    W = full_weights(head)[pairs.lag - 1, pairs.target, pairs.source]
    want = W.sigmoid()
    torch.testing.assert_close(R, torch.where(2 * want - 1 > 0.1, want, 0))


def test_the_tracker_takes_the_heads_interactions_and_gives_it_candidates() -> None:
    codes, head = sparse(4, 32, 12, 3, 0), PredictionHead(CausalPredictionTerm(entries=4), 12).double()
    head.mean_square.fill_(1.0)
    tracker = TemporalCorrelationTracker(12, window=6, entries=8, sample_tokens=None)
    tracker.update(codes, step=0, interaction=head.interaction)
    refresh_from(head, tracker)
    held = head.source != EMPTY
    assert held.any() and (head.lag[held] <= head.window).all()
    offered = {
        (i, int(s), int(k))
        for i in range(12)
        for s, k in zip(tracker.candidates.source[i], tracker.candidates.lag[i], strict=True)
    }
    for i, e in held.nonzero().tolist():
        assert (i, int(head.source[i, e]), int(head.lag[i, e])) in offered


@given(seed=st.integers(0, 1000))
def test_a_refresh_holds_the_new_candidates_and_pairs_that_stay_keep_their_weights(seed: int) -> None:
    head = random_head(6, seed)
    g = torch.Generator().manual_seed(seed)
    before = weights_by_pair(head)
    pairs = torch.stack([torch.randperm(6 * WINDOW, generator=g)[:4] for _ in range(6)])
    source = (pairs % 6).masked_fill(torch.rand(6, 4, generator=g) < 0.3, EMPTY)
    head.refresh(source, pairs // 6 + 1)
    after = weights_by_pair(head)
    chosen = (source != EMPTY).nonzero().tolist()
    assert set(after) == {(i, int(pairs[i, e] % 6), int(pairs[i, e] // 6 + 1)) for i, e in chosen}
    assert all(value == before.get(pair, 0.0) for pair, value in after.items())


def weights_by_pair(head: PredictionHead) -> dict[tuple[int, int, int], float]:
    held = (head.source != EMPTY).nonzero().tolist()
    return {(i, int(head.source[i, e]), int(head.lag[i, e])): float(head.values[i, e].detach()) for i, e in held}


@pytest.mark.parametrize("dense", [False, True])
def test_learned_weights_find_planted_lagged_pairs(dense: bool) -> None:
    torch.manual_seed(0)
    F, edges = 16, [(j, j + 8, j % 4 + 1) for j in range(8)]
    head = PredictionHead(CausalPredictionTerm(rank=8, dense=dense), F)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    mask = torch.ones(8, 64, dtype=torch.bool)
    for step in range(100):
        fires = torch.rand(8, 64, F) < 0.1
        for j, i, lag in edges:
            fires[:, lag:, i] |= fires[:, :-lag, j] & (torch.rand(8, 64 - lag) < 0.7)
        codes = DenseCodes(fires * (0.5 + torch.rand(8, 64, F)), None)
        active = active_codes(codes, mask)
        head.observe(active.features, active.values, mask.numel())
        optimizer.zero_grad()
        prediction_error(head, codes, mask, None, Draws(0, step), sample_tokens=None, negatives=16).backward()
        optimizer.step()
    lags, target, source = torch.meshgrid(torch.arange(4), torch.arange(F), torch.arange(F), indexing="ij")
    W = head.weight(source.flatten(), target.flatten(), lags.flatten() + 1).detach()
    true = torch.zeros(4, F, F, dtype=torch.bool)
    for j, i, lag in edges:
        true[lag - 1, i, j] = True
    best = W.topk(len(edges)).indices
    assert true.flatten()[best].float().mean() >= 0.9  # chance: 8 / 1024


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor):
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return out


def test_a_step_at_16384_features_makes_no_tensor_of_tokens_times_features() -> None:
    F, g = 16_384, torch.Generator().manual_seed(0)
    indices = torch.randint(0, F, (16, 128, 32), generator=g).sort(-1).values
    codes = SparseCodes(torch.rand(16, 128, 32, generator=g).requires_grad_(), None, indices, F)
    mask = torch.ones(16, 128, dtype=torch.bool)
    head = PredictionHead(CausalPredictionTerm(), F)
    head.refresh(torch.randint(0, F, (F, 32), generator=g), torch.randint(1, 5, (F, 32), generator=g))
    with LargestTensor() as largest:
        active = active_codes(codes.detach(), mask)
        head.observe(active.features, active.values, mask.numel())
        loss = prediction_error(head, codes, mask, None, Draws(0, 0))
        (loss + correlation_error(interactions(head, codes, mask, None, Draws(0, 0)))).backward()
    assert largest.bytes < 16 * 128 * F  # an eighth of tokens x F in float64, a quarter in float32


def test_dense_weights_are_refused_above_4096_features() -> None:
    with pytest.raises(ValueError, match="4096"):
        PredictionHead(CausalPredictionTerm(dense=True), 4097)
    options = Causal(d_sae=8192, k=8, dense=True)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="4096"):
        options.spec(16, Normalisation())


def spec(**options: object) -> Spec:
    return Causal(d_sae=32, k=4, **options).spec(8, Normalisation())  # type: ignore[arg-type]


def test_heads_move_save_load_and_are_built_without_storage(tmp_path) -> None:
    sae = build_from_spec(spec(correlation_weight=0.1))
    head = sae.heads["causal_prediction"]
    assert isinstance(head, PredictionHead)
    head.refresh(torch.randint(0, 32, (32, 32)), torch.randint(1, 5, (32, 32)))
    head.mean_square.uniform_()
    sae.to(torch.float64)
    assert {head.U.dtype, head.mean_square.dtype} == {torch.float64}
    assert head.source.dtype == torch.int64
    sae.save(tmp_path)
    again = load(tmp_path)
    assert again.cfg == sae.cfg
    for name, weight in sae.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    with torch.device("meta"):
        assert build_from_spec(spec()).heads["causal_prediction"].U.is_meta
    assert not {"source", "lag", "mean_square", "started"} & {name for name, _ in head.named_parameters()}


def test_steps_in_a_row_leave_no_graph_and_the_tracker_feeds_the_head() -> None:
    sae = build_from_spec(spec(correlation_weight=0.1))
    terms = [term.model_copy(update={"refresh_every": 2}) if i == 0 else term for i, term in enumerate(sae.cfg.terms)]
    tracker_spec, head = sae.cfg.trackers[0], sae.heads["causal_prediction"]
    assert isinstance(tracker_spec, CorrelationTracker) and isinstance(head, PredictionHead)
    tracker = tracker_spec.make(sae.d_sae)
    mask, docs = documents(4, 32, 0, 0.1)
    optimizer = torch.optim.SGD(sae.parameters(), lr=0.1)
    for step in range(4):
        draws = Draws(0, step)
        forward = sae.training_pass(torch.randn(4, 32, 8), mask, doc_ids=docs, draws=draws)
        context = StepContext(sae, forward, torch.zeros(32, dtype=torch.bool), draws, {"correlation": tracker})
        values = [term_value(term, context) for term in terms[:2]]
        optimizer.zero_grad()
        torch.stack([v for v in values if v is not None]).sum().backward()
        optimizer.step()
        tracker.update(forward.codes, mask, docs, step=step, interaction=head.interaction)
    state = {**dict(head.named_buffers()), **tracker.state_dict()}
    assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in state.values())
    assert (head.source != EMPTY).any()
    assert head.values.abs().sum() > 0


def test_a_correlation_term_alone_and_flat_input_are_refused() -> None:
    with pytest.raises(ValueError, match="causal_prediction"):
        Spec(preset="topk", d_in=8, d_sae=32, activation=TopK(k=4), terms=[CorrelationTerm()])
    sae, draws = build_from_spec(spec()), Draws(0, 0)
    forward = sae.training_pass(torch.randn(5, 8), torch.ones(5, dtype=torch.bool), draws=draws)
    context = StepContext(sae, forward, torch.zeros(32, dtype=torch.bool), draws)
    with pytest.raises(ValueError, match=r"batch, pos, d_in"):
        term_value(sae.cfg.terms[0], context)


def test_a_candidate_is_hit_where_its_source_fired_and_nowhere_else() -> None:
    codes, head = sparse(2, 8, 6, 3, 2), random_head(6)
    mask = torch.ones(2, 8, dtype=torch.bool)
    seen, _ = sampled_history(codes, mask, None, WINDOW, Draws(0, 0), "any", None)
    targets = torch.arange(6).expand(len(seen.values), 6)
    hit = candidate_hits(head, seen, targets)
    k, got = seen.values.shape[1], set()
    for token, target, entry, place in zip(hit.token, hit.target, hit.entry, hit.place, strict=True):
        assert seen.past_features[token, place // k, place % k] == head.source[target, entry]
        assert seen.past_values[token, place // k, place % k] != 0
        assert place // k + 1 == head.lag[target, entry]
        got.add((int(token), int(target), int(entry)))
    wanted = set()
    for i, e in (head.source != EMPTY).nonzero().tolist():
        lag = int(head.lag[i, e]) - 1
        fired = ((seen.past_features[:, lag] == head.source[i, e]) & (seen.past_values[:, lag] != 0)).any(1)
        wanted |= {(t, i, e) for t in fired.nonzero().flatten().tolist()}
    assert got == wanted
