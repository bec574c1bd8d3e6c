"""The lagged term against z_t - sum_tau B_tau z_{t - tau} - M z_t written out token by token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import DenseCodes, Draws, Normalisation, SparseCodes, Spec, build_from_spec
from chronosae.objectives import LaggedTerm, StepContext, TemporalCorrelationTracker, term_value
from chronosae.objectives.history import EMPTY, History, sampled_history
from chronosae.objectives.lagged import (
    CandidateLaggedHead,
    DenseLaggedHead,
    batch_candidates,
    innovation_error,
    innovations,
)
from chronosae.presets import load
from chronosae.presets.temporal import Lagged

LAGS, F, M_SLOTS = 2, 6, 4
Head = DenseLaggedHead | CandidateLaggedHead


def sparse(batch: int, pos: int, seed: int) -> SparseCodes:
    """Random sparse codes in float64, some slots unused."""
    g = torch.Generator().manual_seed(seed)
    indices = torch.rand(batch, pos, F, generator=g).topk(3, -1).indices.sort(-1).values
    values = torch.rand(batch, pos, 3, generator=g, dtype=torch.float64) + 0.2
    unused = torch.rand(batch, pos, 3, generator=g) < 0.2
    return SparseCodes(values.masked_fill(unused, 0), None, indices.masked_fill(unused, 0), F)


def documents(batch: int, pos: int, seed: int, masked: float) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, pos, generator=g) >= masked
    return mask, (torch.rand(batch, pos, generator=g) < 0.2).long().cumsum(1)


def random_head(candidates: bool, seed: int = 0) -> Head:
    """A head in float64 with random weights, and candidates of all lags."""
    torch.manual_seed(seed)
    term = LaggedTerm(lags=LAGS, entries=M_SLOTS)
    head = CandidateLaggedHead(term, F) if candidates else DenseLaggedHead(term, F)
    if isinstance(head, CandidateLaggedHead):
        pairs = torch.stack([torch.randperm((LAGS + 1) * F)[:8] for _ in range(F)])
        head.admit((pairs % F).masked_fill(torch.rand(F, 8) < 0.2, EMPTY), pairs // F)
    for parameter in head.double().parameters():
        parameter.data.normal_(std=0.5)
    return head


def matrices(head: Head) -> tuple[Tensor, Tensor]:
    """B [lags, target, source] and M [target, source], differentiable."""
    if isinstance(head, DenseLaggedHead):
        return head.B, head.M.tril(-1)
    i, e = (head.source != EMPTY).nonzero(as_tuple=True)
    whole = torch.zeros(LAGS + 1, F, F, dtype=torch.float64)
    whole = whole.index_put((head.lag[i, e], i, head.source[i, e]), head.values[i, e], accumulate=True)
    return whole[1:], whole[0]


def token_by_token(head: Head, z: Tensor, mask: Tensor, docs: Tensor) -> Tensor:
    B, M = matrices(head)
    norms = []
    for row, t in mask.nonzero().tolist():
        eps = z[row, t] - M @ z[row, t]
        for tau in range(1, min(LAGS, t) + 1):
            if mask[row, t - tau] and (docs[row, t - tau : t + 1] == docs[row, t]).all():
                eps = eps - B[tau - 1] @ z[row, t - tau]
        norms.append(eps.abs().sum())
    return torch.stack(norms).mean() if norms else z.sum() * 0


@given(
    batch=st.integers(1, 3),
    pos=st.integers(1, 9),
    seed=st.integers(0, 1000),
    masked=st.sampled_from([0.0, 0.3, 1.0]),
    candidates=st.booleans(),
    as_dense=st.booleans(),
)
def test_it_equals_the_innovations_token_by_token_and_so_do_its_gradients(
    batch: int, pos: int, seed: int, masked: float, candidates: bool, as_dense: bool
) -> None:
    codes, head = sparse(batch, pos, seed), random_head(candidates, seed)
    mask, docs = documents(batch, pos, seed, masked)
    leaf = codes.values.clone().requires_grad_()
    # Unused slots name feature 0, which a dense reference would send its gradient.
    codes = SparseCodes(leaf * (codes.values != 0), None, codes.indices, F)
    given_codes = DenseCodes(codes.dense(), None) if as_dense else codes
    fast = innovation_error(head, given_codes, mask, docs, Draws(0, 0), sample_tokens=None)
    slow = token_by_token(head, codes.dense(), mask, docs)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    inputs = [*head.parameters(), leaf]
    got = torch.autograd.grad(fast, inputs, retain_graph=True, materialize_grads=True)
    want = torch.autograd.grad(slow, inputs, retain_graph=True, materialize_grads=True)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("candidates", [False, True])
def test_its_gradients_pass_gradcheck(candidates: bool) -> None:
    codes, head = sparse(1, 5, 1), random_head(candidates)
    mask, docs = documents(1, 5, 4, 0.2)
    used = codes.values != 0

    def error(values: Tensor, *_: Tensor) -> Tensor:
        return innovation_error(head, SparseCodes(values * used, None, codes.indices, F), mask, docs, Draws(0, 0), None)

    assert torch.autograd.gradcheck(error, [codes.values.clone().requires_grad_(), *head.parameters()])


@given(seed=st.integers(0, 1000), candidates=st.booleans())
def test_masked_tokens_neither_count_nor_act(seed: int, candidates: bool) -> None:
    codes, head = sparse(2, 9, seed), random_head(candidates, seed)
    mask, docs = documents(2, 9, seed, 0.4)
    zeroed = SparseCodes(codes.values * mask.unsqueeze(-1), None, codes.indices, F)
    errors = [innovation_error(head, each, mask, docs, Draws(0, 0), None) for each in (codes, zeroed)]
    torch.testing.assert_close(*errors)


@given(seed=st.integers(0, 1000), cut=st.integers(1, 8), candidates=st.booleans())
def test_a_document_counts_as_if_it_were_a_sequence_of_its_own(seed: int, cut: int, candidates: bool) -> None:
    codes, head = sparse(1, 9, seed), random_head(candidates, seed)
    mask, docs = torch.ones(1, 9, dtype=torch.bool), (torch.arange(9) >= cut).long().unsqueeze(0)
    together = innovation_error(head, codes, mask, docs, Draws(0, 0), None) * 9
    alone = torch.zeros((), dtype=torch.float64)
    for part in (slice(0, cut), slice(cut, 9)):
        piece = SparseCodes(codes.values[:, part], None, codes.indices[:, part], F)
        n = piece.values.shape[1]
        alone = alone + n * innovation_error(head, piece, mask[:, part], None, Draws(0, 0), None)
    torch.testing.assert_close(together, alone)


def test_sampled_tokens_give_the_whole_error_on_average() -> None:
    codes, head = sparse(3, 8, 0), random_head(False)
    mask, docs = documents(3, 8, 1, 0.2)
    whole = innovation_error(head, codes, mask, docs, Draws(0, 0), None).detach()
    samples = torch.stack([innovation_error(head, codes, mask, docs, Draws(0, i), 5).detach() for i in range(400)])
    assert (samples.mean() - whole).abs() < 4 * samples.std() / 20


def test_the_term_is_alpha_times_the_innovations_plus_beta_times_the_norms() -> None:
    spec = Lagged(d_sae=F, alpha=0.5, beta=0.2).spec(4, Normalisation())  # type: ignore[call-arg]
    sae = build_from_spec(spec).double()
    head, term = sae.heads["lagged"], spec.terms[0]
    assert isinstance(head, DenseLaggedHead)
    torch.nn.init.normal_(head.B)
    torch.nn.init.normal_(head.M)
    mask = torch.ones(2, 7, dtype=torch.bool)
    forward = sae.training_pass(torch.randn(2, 7, 4).double(), mask)
    value = term_value(term, StepContext(sae, forward, torch.zeros(F, dtype=torch.bool), Draws(0, 0)))
    assert value is not None
    error = innovation_error(head, forward.codes, mask, None, Draws(0, 0))
    norms = head.B.abs().sum() + head.M.tril(-1).abs().sum()
    torch.testing.assert_close(term.weight * value, 0.5 * error + 0.2 * norms)


def test_m_stays_strictly_lower_triangular_and_steps_leave_no_graph() -> None:
    spec = Lagged(d_sae=16, beta=1e-3).spec(8, Normalisation())  # type: ignore[call-arg]
    sae = build_from_spec(spec)
    head = sae.heads["lagged"]
    assert isinstance(head, DenseLaggedHead)
    optimizer = torch.optim.AdamW(sae.parameters(), lr=0.01)
    for step in range(4):
        forward = sae.training_pass(torch.randn(2, 16, 8), torch.ones(2, 16, dtype=torch.bool))
        context = StepContext(sae, forward, torch.zeros(16, dtype=torch.bool), Draws(0, step))
        value = term_value(spec.terms[0], context)
        assert value is not None
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert head.M.tril(-1).abs().sum() > 0
    assert torch.equal(head.M, head.M.tril(-1))


def test_training_b_recovers_planted_lagged_effects() -> None:
    torch.manual_seed(0)
    n, edges = 12, [(j, j + 6, j % 2 + 1) for j in range(6)]
    head = DenseLaggedHead(LaggedTerm(lags=2), n)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    mask = torch.ones(8, 64, dtype=torch.bool)
    for step in range(100):
        z = torch.rand(8, 64, n) * (torch.rand(8, 64, n) < 0.15)
        for j, i, lag in edges:
            z[:, lag:, i] += 0.8 * z[:, :-lag, j]
        optimizer.zero_grad()
        error = innovation_error(head, DenseCodes(z, None), mask, None, Draws(0, step), None)
        (error + 1e-3 * head.norms()).backward()
        optimizer.step()
    planted = torch.zeros(2, n, n)
    for j, i, lag in edges:
        planted[lag - 1, i, j] = 0.8
    torch.testing.assert_close(head.B.detach(), planted, rtol=0, atol=0.15)
    assert head.M.abs().max() < 0.15


def candidates_of(head: CandidateLaggedHead) -> set[tuple[int, int, int]]:
    held = (head.source != EMPTY).nonzero().tolist()
    return {(i, int(head.source[i, e]), int(head.lag[i, e])) for i, e in held}


@given(seed=st.integers(0, 1000))
def test_candidates_keep_weights_that_matter_and_never_leave_the_lower_triangle(seed: int) -> None:
    head = random_head(True, seed)
    assert isinstance(head, CandidateLaggedHead)
    g = torch.Generator().manual_seed(seed)
    head.values.data.masked_fill_(torch.rand(F, M_SLOTS, generator=g) < 0.5, 1e-5)
    strong = (head.values.abs() > 1e-3) & (head.source != EMPTY)
    before = [head.source[strong], head.lag[strong], head.values[strong]]
    pairs = torch.stack([torch.randperm((LAGS + 1) * F, generator=g)[:8] for _ in range(F)])
    head.admit(pairs % F, pairs // F)
    for old, new in zip(before, [head.source[strong], head.lag[strong], head.values[strong]], strict=True):
        assert torch.equal(old, new)
    held = candidates_of(head)
    assert len(held) == int((head.source != EMPTY).sum()), "a pair is held twice"
    assert all(lag > 0 or source < target for target, source, lag in held)
    # The index by source lists every entry once, under its own source and lag.
    for key in range((LAGS + 1) * F):
        for entry in head.by_source[head.first[key] : head.first[key + 1]].tolist():
            assert (int(head.lag.flatten()[entry]), int(head.source.flatten()[entry])) == divmod(key, F)
    assert int(head.first[-1]) == len(held)


def test_candidates_of_a_batch_are_what_co_fires_beyond_chance() -> None:
    g = torch.Generator().manual_seed(0)
    z = (torch.rand(4, 128, F, generator=g) < 0.1).double()
    z[:, 2:, 4] = torch.maximum(z[:, 2:, 4], z[:, :-2, 1])
    z[..., 5] = torch.maximum(z[..., 5], z[..., 3])
    mask = torch.ones(4, 128, dtype=torch.bool)
    seen, _ = sampled_history(DenseCodes(z, None), mask, None, LAGS, Draws(0, 0), "any", None)
    assert isinstance(seen, History)
    source, lag = batch_candidates(seen, F, 3)
    assert (int(source[4, 0]), int(lag[4, 0])) == (1, 2)
    assert (int(source[5, 0]), int(lag[5, 0])) == (3, 0)
    assert ((lag > 0) | (source < torch.arange(F).unsqueeze(1))).all()
    assert (batch_candidates(seen, F, 3, same_time_only=True)[1] == 0).all()


def test_above_4096_features_it_works_on_candidates_from_the_batch_and_the_tracker() -> None:
    n = 16_384
    head = LaggedTerm().make_head(8, n)
    assert isinstance(head, CandidateLaggedHead)
    assert sum(parameter.numel() for parameter in head.parameters()) == n * 32
    options = Lagged(d_sae=n, k=8)  # type: ignore[call-arg]
    spec = options.spec(4, Normalisation())
    sae, tracker = build_from_spec(spec), TemporalCorrelationTracker(n, entries=8, cells=2**16)
    term = spec.terms[0].model_copy(update={"refresh_every": 1})
    acts, mask = torch.randn(1, 4).expand(2, 16, 4) + 0.1 * torch.randn(2, 16, 4), torch.ones(2, 16, dtype=torch.bool)
    for step, trackers in enumerate(({}, {"correlation": tracker})):
        forward = sae.training_pass(acts, mask)
        tracker.update(forward.codes, mask, step=step)
        context = StepContext(sae, forward, torch.zeros(n, dtype=torch.bool), Draws(0, step), trackers)
        value = term_value(term, context)
        assert value is not None
        value.backward()
    mine = sae.heads["lagged"]
    assert isinstance(mine, CandidateLaggedHead)
    assert {0, 1} <= set(mine.lag[mine.source != EMPTY].tolist())
    assert mine.values.grad is not None and mine.values.grad.abs().sum() > 0


@pytest.mark.parametrize("d_sae", [32, 4100])
def test_heads_move_save_load_and_are_built_without_storage(d_sae: int, tmp_path) -> None:
    spec: Spec = Lagged(d_sae=d_sae, entries=2, lags=1).spec(4, Normalisation())  # type: ignore[call-arg]
    sae = build_from_spec(spec).to(torch.float64)
    assert {p.dtype for p in sae.heads["lagged"].parameters()} == {torch.float64}
    sae.save(tmp_path)
    again = load(tmp_path)
    assert again.cfg == spec
    for name, weight in sae.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    with torch.device("meta"):
        assert all(p.is_meta for p in build_from_spec(spec).heads["lagged"].parameters())


def test_innovations_of_a_new_head_are_the_codes() -> None:
    codes = sparse(2, 5, 0)
    seen, _ = sampled_history(codes, torch.ones(2, 5, dtype=torch.bool), None, 4, Draws(0, 0), "any", None)
    head = DenseLaggedHead(LaggedTerm(), F).double()
    torch.testing.assert_close(innovations(head, seen), codes.dense().flatten(0, 1))


def test_a_target_l0_and_a_fixed_number_of_features_exclude_each_other() -> None:
    for fixed in ({"k": 4}, {"activation": {"kind": "topk", "k": 4}}):
        options = Lagged(d_sae=32, target_l0=4, **fixed)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="nothing to steer"):
            options.spec(8, Normalisation())


def test_codes_are_relu_unless_k_or_an_activation_is_given() -> None:
    for options, kind in (
        ({}, "relu"),
        ({"k": 4}, "topk"),
        ({"activation": {"kind": "batch_topk", "k": 4}}, "batch_topk"),
    ):
        spec = Lagged(d_sae=16, **options).spec(8, Normalisation())  # type: ignore[arg-type]
        assert spec.activation.kind == kind
        assert spec.receptive_field == 1 and spec.causal
