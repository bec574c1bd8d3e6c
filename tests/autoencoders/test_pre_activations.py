"""Pre-activations of some features, asked for after the pass, are those of all."""

import pytest
import torch

from chronosae.presets import build


@pytest.mark.parametrize("preset", ["topk", "positional", "causal"])
def test_some_pre_activations_are_those_of_all_with_their_gradients_each_time_they_are_asked_for(preset: str) -> None:
    sae = build(preset, d_in=6, d_sae=20, k=3)
    torch.nn.init.normal_(sae.b_enc)
    torch.nn.init.normal_(sae.b_dec)
    acts = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
    mask, features = torch.ones(2, 7, dtype=torch.bool), torch.tensor([0, 3, 19])
    forward = sae.training_pass(acts, mask, wanted=features)

    def gradients(pre: torch.Tensor) -> tuple:
        weights = [sae.W_enc, sae.b_enc, sae.b_dec]
        return pre.detach().clone(), *torch.autograd.grad(pre.square().sum(), weights, retain_graph=True)

    first, again = gradients(forward.pre_of(features)), gradients(forward.pre_of(features))
    for expected, *found in zip(gradients(forward.pre[..., features]), first, again, strict=True):
        for tensor in found:
            torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)
