"""The core evaluation against a dense recomputation, and the invariants of its numbers."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from evals_oracle import oracle
from evals_tiny import (
    BATCH_DEPENDENT,
    CONTEXT,
    SITE,
    WIDTH,
    evaluate,
    evaluate_core,
    likely_tokens,
    make_batch,
    random_mask,
    split,
    tiny_sae,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder, Codes
from chronosae.config import CoreEvalConfig, UserError
from chronosae.evals.core.report import CoreMetrics
from chronosae.subject import Subject


@pytest.mark.parametrize("preset", ["topk", "relu_l1"])
def test_every_metric_equals_its_formula_computed_token_by_token(
    subject: Subject, batch: SequenceBatch, preset: str
) -> None:
    sae = tiny_sae(preset)
    found = evaluate(subject, {"sae": sae}, batch, sizes=(4,))["sae"].metrics
    expected = oracle(subject, 1, sae, batch, batch_size=4)
    assert set(expected) == set(CoreMetrics.model_fields)
    assert found.defined() == pytest.approx(expected, rel=1e-6)


def test_autoencoders_evaluated_together_get_the_numbers_each_gets_alone(
    subject: Subject, batch: SequenceBatch
) -> None:
    saes = {"a": tiny_sae("topk"), "zero": tiny_sae("relu_l1", seed=3)}
    together = evaluate(subject, saes, batch)
    for name, sae in saes.items():
        alone = evaluate(subject, {name: sae}, batch)[name]
        assert alone.metrics == together[name].metrics
        assert alone.flags == together[name].flags
        assert alone.intervals == together[name].intervals


@settings(max_examples=6)
@given(seed=st.integers(0, 2**16), share=st.floats(0.0, 0.9), scale=st.sampled_from([1.0, 1e6]))
def test_activations_at_masked_tokens_never_matter_to_reconstruction(
    subject: Subject, batch: SequenceBatch, seed: int, share: float, scale: float
) -> None:
    mask = random_mask((batch.n_sequences, CONTEXT), seed, share)
    noise = torch.randn(batch.acts.shape, generator=torch.Generator().manual_seed(seed), dtype=batch.acts.dtype)
    before = replace(batch, mask=mask, positions=mask.long().cumsum(1) - 1)
    after = replace(before, acts=torch.where(mask.unsqueeze(-1), batch.acts, scale * noise))
    saes = {"topk": tiny_sae("topk"), "relu": tiny_sae("relu_l1")}
    cfg = CoreEvalConfig(tokens=batch.tokens.numel(), behaviour_tokens=1)
    one, other = (evaluate_core(saes, subject, SITE, split(b, (5,)), cfg) for b in (before, after))
    for name in saes:
        assert _reconstruction(one[name].metrics) == _reconstruction(other[name].metrics)
        assert torch.equal(one[name].features.fired, other[name].features.fired)
        assert torch.equal(one[name].features.prompts, other[name].features.prompts)


class _NoisyWhereMasked(Autoencoder):
    """Decodes to noise at tokens without codes, which masked tokens are."""

    def decode(self, codes: Codes) -> torch.Tensor:
        return torch.where(codes.l0().unsqueeze(-1) == 0, 1e3, super().decode(codes))


def test_what_an_autoencoder_puts_out_at_masked_tokens_never_matters_to_the_subject(
    subject: Subject, batch: SequenceBatch
) -> None:
    sae = tiny_sae("topk")
    noisy = _NoisyWhereMasked(sae.cfg).double()
    noisy.load_state_dict(sae.state_dict())
    assert (noisy(batch.acts, batch.mask)[~batch.mask] == 1e3).all()
    found = evaluate(subject, {"sae": sae, "noisy": noisy}, batch)
    assert found["noisy"].metrics == found["sae"].metrics


@settings(max_examples=6)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4), seed=st.integers(0, 2**16))
def test_metrics_do_not_depend_on_the_cut_into_batches_except_the_four_saebench_averages_over_batches(
    subject: Subject, batch: SequenceBatch, sizes: list[int], seed: int
) -> None:
    mask = random_mask((batch.n_sequences, CONTEXT), seed)
    mask[3] = False  # a sequence that is masked throughout
    batch = replace(batch, mask=mask)
    saes = {"topk": tiny_sae("topk"), "relu": tiny_sae("relu_l1")}
    whole, cut = evaluate(subject, saes, batch, sizes=(batch.n_sequences,)), evaluate(subject, saes, batch, sizes=sizes)
    for name in saes:
        expected = {key: v for key, v in whole[name].metrics.defined().items() if key not in BATCH_DEPENDENT}
        found = {key: v for key, v in cut[name].metrics.defined().items() if key not in BATCH_DEPENDENT}
        assert found == pytest.approx(expected, rel=1e-9)
        assert cut[name].flags == whole[name].flags
        assert cut[name].data.sha256 == whole[name].data.sha256


def test_saebench_averages_over_batches_do_depend_on_the_cut(subject: Subject, batch: SequenceBatch) -> None:
    saes = {"sae": tiny_sae("topk")}
    whole = evaluate(subject, saes, batch, sizes=(10,))["sae"].metrics.defined()
    cut = evaluate(subject, saes, batch, sizes=(1,))["sae"].metrics.defined()
    assert all(abs(whole[name] - cut[name]) > 1e-6 for name in BATCH_DEPENDENT)


def test_branch_sites_are_evaluated_with_the_whole_pass(subject: Subject) -> None:
    site = "blocks.1.hook_mlp_out"
    tokens = likely_tokens(subject, 4)
    batch = make_batch(subject, tokens, random_mask((4, CONTEXT), seed=2), site)
    sae = tiny_sae("relu_l1")
    found = evaluate(subject, {"sae": sae}, batch, site=site)["sae"].metrics
    clean = subject.logits(tokens)[:, :-1].log_softmax(-1)
    losses = -clean.gather(2, tokens[:, 1:, None]).squeeze(2)[batch.mask[:, :-1]]
    assert found.ce_loss_without_sae == pytest.approx(float(losses.mean()))
    edited = subject.run_with(tokens, {site: lambda acts: torch.where(batch.mask[..., None], sae(acts), acts)})
    edited = edited.detach()
    kl = (clean.exp() * (clean - edited[:, :-1].log_softmax(-1))).sum(-1)
    last = subject.logits(tokens)[:, -1].log_softmax(-1), edited[:, -1].log_softmax(-1)
    kl = torch.cat([kl, (last[0].exp() * (last[0] - last[1])).sum(-1, keepdim=True)], dim=1)
    assert found.kl_div_with_sae == pytest.approx(float(kl[batch.mask].mean()))


def test_a_perfect_reconstruction_scores_one(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae("relu_l1", d_sae=2 * WIDTH)
    with torch.no_grad():
        eye = torch.eye(WIDTH, dtype=torch.float64)
        sae.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
        sae.b_enc.zero_()
    metrics = evaluate(subject, {"sae": sae}, batch)["sae"].metrics
    for name in ("explained_variance", "explained_variance_legacy", "cossim", "l2_ratio", "ce_loss_score"):
        assert getattr(metrics, name) == pytest.approx(1)
    for name in ("relative_reconstruction_bias", "kl_div_score", "kl_div_score_mean_ablation"):
        assert getattr(metrics, name) == pytest.approx(1)
    assert metrics.mse == pytest.approx(0, abs=1e-12)


def test_only_the_tokens_asked_for_are_used(subject: Subject, batch: SequenceBatch) -> None:
    cfg = CoreEvalConfig(tokens=5 * CONTEXT, behaviour_tokens=3 * CONTEXT - 1, batch_sequences=4)
    found = evaluate_core({"sae": tiny_sae()}, subject, SITE, split(batch, (4,)), cfg)["sae"]
    assert (found.data.sequences, found.data.behaviour_sequences) == (5, 3)
    assert found.metrics.n_tokens == int(batch.mask[:5].sum())
    assert "fewer_tokens_than_asked" not in found.flags


def test_text_that_runs_out_is_flagged(subject: Subject, batch: SequenceBatch) -> None:
    cfg = CoreEvalConfig(tokens=1000, behaviour_tokens=10, batch_sequences=4)
    found = evaluate_core({"sae": tiny_sae()}, subject, SITE, split(batch, (4,)), cfg)["sae"]
    assert "fewer_tokens_than_asked" in found.flags


def test_no_text_and_no_unmasked_token_are_the_users_mistakes(subject: Subject, batch: SequenceBatch) -> None:
    cfg = CoreEvalConfig()
    with pytest.raises(UserError, match=r"corpus\.eval_path"):
        evaluate_core({"sae": tiny_sae()}, subject, SITE, lambda _: iter(()), cfg)
    masked = replace(batch, mask=torch.zeros_like(batch.mask))
    with pytest.raises(UserError, match="no unmasked token"):
        evaluate_core({"sae": tiny_sae()}, subject, SITE, split(masked, (4,)), cfg)


def test_activations_with_nan_are_an_error_that_names_the_remedy(subject: Subject, batch: SequenceBatch) -> None:
    acts = batch.acts.clone()
    acts[0, 1, 0] = torch.nan
    with pytest.raises(UserError, match=r"subject\.dtype"):
        evaluate(subject, {"sae": tiny_sae()}, replace(batch, acts=acts))


def test_the_autoencoders_own_mode_is_restored(subject: Subject, batch: SequenceBatch) -> None:
    training, evaluating = tiny_sae().train(), tiny_sae().eval()
    evaluate(subject, {"a": training, "b": evaluating}, batch)
    assert training.training and not evaluating.training


def _reconstruction(metrics: CoreMetrics) -> dict[str, float]:
    return {name: v for name, v in metrics.model_dump().items() if not name.startswith(("ce_", "kl_"))}


@pytest.mark.parametrize("most", [0, 2**29])
def test_reconstructions_kept_or_computed_again_give_the_same_numbers(
    subject: Subject, batch: SequenceBatch, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    saes = {"topk": tiny_sae(), "relu": tiny_sae("relu_l1")}
    n = batch.tokens.numel()
    cfg = CoreEvalConfig(tokens=n, behaviour_tokens=5 * CONTEXT, batch_sequences=3)
    expected = evaluate_core(saes, subject, SITE, split(batch, (3,)), cfg)
    asked: list[int] = []
    monkeypatch.setattr("chronosae.evals.core.data.MOST_BYTES", most)

    def batches(n_tokens: int) -> Iterator[SequenceBatch]:
        asked.append(n_tokens)
        return split(batch, (3,))(n_tokens)

    found = evaluate_core(saes, subject, SITE, batches, cfg)
    assert asked == ([n] if most else [n, 5 * CONTEXT])  # read once, or twice
    for name in saes:
        assert found[name].metrics == expected[name].metrics and found[name].data == expected[name].data
        assert found[name].data.behaviour_sequences == 5
