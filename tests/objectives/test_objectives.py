"""Each term against its formula written out, values and gradients."""

import pytest
import torch

from chronosae.autoencoders import Pass
from chronosae.objectives import auxk_error, l1_penalty, reconstruction_error
from chronosae.presets import build


def forward(preset: str, **options: object) -> tuple[torch.nn.Module, Pass]:
    sae = build(preset, d_in=6, d_sae=20, seed=1, **options).double()
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, 5, 6, generator=g, dtype=torch.float64)
    mask = torch.rand(2, 5, generator=g) > 0.3
    return sae, sae.training_pass(x, mask)


def test_reconstruction_error_is_summed_over_width_and_averaged_over_unmasked_tokens() -> None:
    _, step = forward("topk", k=3)
    errors = [
        ((step.target[b, p] - step.recon[b, p]) ** 2).sum() for b in range(2) for p in range(5) if step.mask[b, p]
    ]
    torch.testing.assert_close(reconstruction_error(step), torch.stack(errors).mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_l1_sums_codes_each_times_its_decoder_norm_when_weighted(weighted: bool) -> None:
    sae, step = forward("relu_l1")
    with torch.no_grad():
        sae.W_dec.mul_(torch.arange(1, 21).unsqueeze(1))
    norms = sae.W_dec.norm(dim=1) if weighted else torch.ones(20, dtype=torch.float64)
    expected = (step.codes.dense().abs() * norms).sum(-1)[step.mask].mean()
    torch.testing.assert_close(l1_penalty(step, sae.W_dec, decoder_weighted=weighted), expected)


def test_auxk_is_the_error_that_the_strongest_dead_features_leave() -> None:
    sae, step = forward("topk", k=3)
    dead = torch.zeros(20, dtype=torch.bool)
    dead[[2, 5, 11, 17, 19]] = True
    acts = torch.relu(step.pre).masked_fill(~dead, 0)
    kept = torch.where(acts >= acts.topk(3, dim=-1).values[..., -1:], acts, 0)
    left = (step.target - step.recon).detach() - kept @ sae.W_dec
    expected = left.pow(2).sum(-1)[step.mask].mean()
    value = auxk_error(step, sae.W_dec, dead, k_aux=3)
    assert value is not None
    torch.testing.assert_close(value, expected)
    grads = torch.autograd.grad(value, [sae.W_enc, sae.W_dec], retain_graph=True)
    dense = torch.autograd.grad(expected, [sae.W_enc, sae.W_dec])
    for fast, slow in zip(grads, dense, strict=True):
        assert slow.abs().max() > 0, "both encoder and decoder of dead features learn"
        torch.testing.assert_close(fast.to_dense(), slow)


def test_the_gradient_of_dead_rows_is_added_in_place_to_that_of_the_whole_decoder() -> None:
    sae, step = forward("topk", k=3)
    dead = torch.zeros(20, dtype=torch.bool)
    dead[[2, 11]] = True
    error = auxk_error(step, sae.W_dec, dead, k_aux=2)
    assert error is not None
    whole = step.recon.square().sum()
    (rows,) = torch.autograd.grad(error, [sae.W_dec], retain_graph=True)
    expected = torch.autograd.grad(whole, [sae.W_dec], retain_graph=True)[0] + rows.to_dense()
    (error + whole).backward()
    assert rows.is_sparse and not sae.W_dec.grad.is_sparse
    torch.testing.assert_close(sae.W_dec.grad, expected)


def test_auxk_with_few_dead_features_counts_in_proportion_and_with_none_not_at_all() -> None:
    sae, step = forward("topk", k=3)
    dead = torch.zeros(20, dtype=torch.bool)
    assert auxk_error(step, sae.W_dec, dead, k_aux=4) is None
    dead[7] = True
    full, quarter = auxk_error(step, sae.W_dec, dead, k_aux=1), auxk_error(step, sae.W_dec, dead, k_aux=4)
    assert full is not None and quarter is not None
    torch.testing.assert_close(quarter, full / 4)


def test_masked_tokens_enter_no_term() -> None:
    sae, step = forward("relu_l1")
    changed = step._replace(
        target=torch.where(step.mask.unsqueeze(-1), step.target, torch.full_like(step.target, 100.0))
    )
    torch.testing.assert_close(reconstruction_error(changed), reconstruction_error(step))
    torch.testing.assert_close(l1_penalty(changed, sae.W_dec), l1_penalty(step, sae.W_dec))
