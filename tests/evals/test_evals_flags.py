"""Degenerate autoencoders and data: defined values and a named flag, never NaN."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evals_tiny import VOCAB, WIDTH, Seen, core_envelope, evaluate, likely_tokens, make_batch, tiny_sae, tiny_subject

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder, Codes
from chronosae.config import CoreEvalConfig
from chronosae.config.flags import CORE
from chronosae.evals.envelope import Provenance
from chronosae.subject import Subject

PROVENANCE = Provenance("tiny", "f" * 64, "float64", "made up", "c" * 64, seed=0, device="cpu")


def _one(subject: Subject, sae: Autoencoder, batch: SequenceBatch) -> Seen:
    result = evaluate(subject, {"sae": sae}, batch)["sae"]
    assert set(result.flags) <= set(CORE)
    core_envelope("sae", sae, result, CoreEvalConfig(), PROVENANCE)
    return result


def _zero(sae: Autoencoder) -> Autoencoder:
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
    return sae


@pytest.mark.parametrize("preset", ["topk", "relu_l1"])
def test_an_autoencoder_of_zeros_gets_a_number_for_every_metric_and_is_flagged(
    subject: Subject, batch: SequenceBatch, preset: str
) -> None:
    result = _one(subject, _zero(tiny_sae(preset)), batch)
    metrics = result.metrics
    assert metrics.undefined() == []
    assert {"never_fires", "dead_features_over_10_percent", "worse_than_mean"} <= set(result.flags)
    x = batch.unmasked()
    assert metrics.explained_variance == pytest.approx(
        1 - float(x.square().sum() / (x - x.mean(0)).square().sum()), rel=1e-9
    )
    zeros = ("l0", "l1", "frac_alive", "cossim", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias")
    assert {name: getattr(metrics, name) for name in zeros} == dict.fromkeys(zeros, 0.0)
    assert metrics.pca_explained_variance == 0.0  # no component at all: the mean


def test_an_autoencoder_that_never_fires_is_flagged_though_its_bias_reconstructs(
    subject: Subject, batch: SequenceBatch
) -> None:
    sae = tiny_sae("relu_l1")
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
        sae.b_dec.copy_(batch.unmasked().mean(0))
    result = _one(subject, sae, batch)
    assert "never_fires" in result.flags
    assert result.metrics.explained_variance == pytest.approx(0, abs=1e-12)
    # the mean at unmasked positions is exactly mean ablation
    assert result.metrics.ce_loss_with_sae == pytest.approx(result.metrics.ce_loss_with_mean_ablation)
    assert result.metrics.kl_div_score_mean_ablation == pytest.approx(0, abs=1e-9)


def test_constant_activations_have_no_explained_variance(subject: Subject, batch: SequenceBatch) -> None:
    constant = torch.linspace(-3, 7, WIDTH, dtype=torch.float64).expand_as(batch.acts)
    result = _one(subject, tiny_sae(), replace(batch, acts=constant))
    assert "constant_activations" in result.flags
    assert result.metrics.explained_variance is None
    assert result.metrics.pca_explained_variance is None
    assert result.pca_curve == {}
    assert result.metrics.mse is not None


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("preset", ["topk", "relu_l1"])
def test_an_autoencoder_that_puts_out_nan_has_no_metrics_and_leaves_its_neighbours_alone(
    subject: Subject, batch: SequenceBatch, preset: str, poison: float
) -> None:
    broken, sound = tiny_sae(preset), tiny_sae("topk")
    with torch.no_grad():
        broken.b_dec[3] = poison
    results = evaluate(subject, {"broken": broken, "sound": sound}, batch)
    assert results["broken"].flags == ("non_finite_output",)
    assert results["broken"].metrics.defined() == {}
    assert results["sound"].metrics == evaluate(subject, {"sound": sound}, batch)["sound"].metrics


class _Negated(Autoencoder):
    """Codes below zero."""

    def encode(self, *args, **kwargs) -> Codes:
        codes = super().encode(*args, **kwargs)
        return replace(codes, values=-codes.values)


def test_negative_codes_are_flagged_and_count_as_active(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae("topk")
    negated = _Negated(sae.cfg).double()
    negated.load_state_dict(sae.state_dict())
    plain, result = _one(subject, sae, batch), _one(subject, negated, batch)
    assert "negative_codes" in result.flags and "negative_codes" not in plain.flags
    for name in ("l0", "l1", "frac_alive", "freq_over_10_percent"):
        assert getattr(result.metrics, name) == getattr(plain.metrics, name)


def test_an_ablation_that_does_not_hurt_leaves_the_scores_undefined() -> None:
    subject = tiny_subject()
    with torch.no_grad():
        subject.model.lm_head.weight.zero_()  # tied: the embedding goes too, and every logit is the same
    tokens = torch.randint(VOCAB, (4, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    result = _one(subject, tiny_sae(), make_batch(subject, tokens, mask))
    for flag in ("ce_undefined", "kl_undefined", "ce_undefined_mean_ablation", "kl_undefined_mean_ablation"):
        assert flag in result.flags
    assert result.metrics.ce_loss_score is None and result.metrics.kl_div_score is None
    assert result.metrics.ce_loss_with_sae == pytest.approx(result.metrics.ce_loss_without_sae)
    assert "ce_loss_score" not in result.intervals


def test_an_ablation_that_helps_the_subject_is_no_yardstick(subject: Subject) -> None:
    # the tokens that the subject finds least likely: knowing nothing is better than knowing wrongly
    tokens = likely_tokens(subject, 6)
    for position in range(1, tokens.shape[1]):
        tokens[:, position] = subject.logits(tokens[:, :position])[:, -1].argmin(-1)
    batch = make_batch(subject, tokens, torch.ones_like(tokens, dtype=torch.bool))
    result = _one(subject, tiny_sae(), batch)
    assert result.metrics.ce_loss_with_ablation < result.metrics.ce_loss_without_sae
    assert result.metrics.ce_loss_score is None and "ce_undefined" in result.flags
    assert result.metrics.kl_div_score is not None


def test_a_reconstruction_as_bad_as_ablation_is_flagged(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae("relu_l1")
    with torch.no_grad():
        sae.W_dec.mul_(-30)
    result = _one(subject, sae, batch)
    assert {"ablation_not_worse_than_sae", "worse_than_mean", "worse_than_pca"} <= set(result.flags)
    assert result.metrics.ce_loss_score < 0


def test_logits_that_overflow_under_a_reconstruction_are_flagged(subject: Subject, batch: SequenceBatch) -> None:
    single = Subject(tiny_subject().model.float(), tokenizer=None, name="single")
    sae = tiny_sae("relu_l1").float()
    with torch.no_grad():
        sae.W_dec.mul_(1e25)  # finite, but its square inside the norm isn't
    small = make_batch(single, batch.tokens, batch.mask)
    result = _one(single, sae, small)
    assert "non_finite_logits" in result.flags
    assert result.metrics.ce_loss_with_sae is None and result.metrics.kl_div_with_sae is None
    assert result.metrics.ce_loss_without_sae is not None


def test_a_good_autoencoder_raises_no_flag(subject: Subject, batch: SequenceBatch) -> None:
    """Signed principal axes: fires everywhere, reconstructs exactly, beats PCA with as many components."""
    sae = tiny_sae("relu_l1", d_sae=2 * WIDTH)
    with torch.no_grad():
        eye = torch.eye(WIDTH, dtype=torch.float64)
        sae.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
        sae.b_enc.zero_()
        sae.b_dec.copy_(batch.unmasked().median(0).values - 1e-3)
    result = _one(subject, sae, batch)
    assert [flag for flag in result.flags if flag != "worse_than_pca"] == []


def test_every_flag_is_documented_where_users_look() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/evaluations/core.md").read_text(encoding="utf-8")
    assert [flag for flag in CORE if f"`{flag}`" not in page] == []
