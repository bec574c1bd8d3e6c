"""Norms against their definition, masked tokens left out."""

import torch
from autoencoder_cases import D_IN, inputs

from chronosae.autoencoders.parts.inputs import BatchNorm, LayerNorm
from chronosae.autoencoders.tokens import zero_masked


def test_batch_norm_uses_the_unmasked_tokens_of_the_batch_and_remembers_a_running_mean() -> None:
    part = BatchNorm(momentum=0.25).make(D_IN, 1).double()
    first, second = (inputs(3, 9, seed) for seed in (0, 1))
    seen = [data.acts[data.mask] for data in (first, second)]
    found = part(zero_masked(first.acts, first.mask), first.mask, True)
    mean, var = seen[0].mean(0), seen[0].var(0, unbiased=False)
    torch.testing.assert_close(found[first.mask], (seen[0] - mean) / (var + 1e-5).sqrt())
    torch.testing.assert_close(part.running_mean, mean)
    part(zero_masked(second.acts, second.mask), second.mask, True)
    torch.testing.assert_close(part.running_mean, 0.75 * mean + 0.25 * seen[1].mean(0))
    torch.testing.assert_close(part.running_var, 0.75 * var + 0.25 * seen[1].var(0, unbiased=False))
    later = part(first.acts, None, False)
    torch.testing.assert_close(later, (first.acts - part.running_mean) / (part.running_var + 1e-5).sqrt())


def test_layer_norm_brings_each_token_to_mean_0_and_variance_1() -> None:
    part, x = LayerNorm(eps=1e-12).make(D_IN, 1), inputs(2, 5, 0).acts
    found = part(x, None, False)
    torch.testing.assert_close(found.mean(-1), torch.zeros(2, 5, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.var(-1, unbiased=False), torch.ones(2, 5, dtype=torch.float64))
