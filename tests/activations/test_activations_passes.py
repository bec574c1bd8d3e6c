"""How the subject is read fast, and that this changes nothing: several passes, and GPT-2's GELU in one."""

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from chronosae.subject import Subject
from chronosae.subject import model as subject_model

SITES = ["blocks.0.hook_resid_mid", "blocks.1.hook_mlp_out"]


def gpt2(dtype: torch.dtype = torch.float32) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
    return GPT2LMHeadModel(config).to(dtype).eval()


def some_tokens(batch: int = 7, pos: int = 9) -> torch.Tensor:
    return torch.randint(0, 64, (batch, pos), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tokens_a_pass", [1, 9, 20, 36])
@pytest.mark.parametrize("padded", [False, True])
def test_activations_are_the_same_in_any_number_of_passes(monkeypatch, tokens_a_pass, padded):
    subject, tokens = Subject(gpt2(), None, "tiny"), some_tokens()
    mask = (torch.arange(9) >= torch.arange(7)[:, None]) if padded else None
    expected = subject.activations(tokens, SITES, mask)
    monkeypatch.setattr(subject_model, "_PASS_TOKENS", tokens_a_pass)
    found = subject.activations(tokens, SITES, mask)
    assert list(found) == SITES
    for site in SITES:
        torch.testing.assert_close(found[site], expected[site], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens_a_pass", [2048, 18])
def test_activations_come_in_the_precision_that_is_asked_for(monkeypatch, tokens_a_pass):
    monkeypatch.setattr(subject_model, "_PASS_TOKENS", tokens_a_pass)
    subject = Subject(gpt2(torch.bfloat16), None, "tiny")
    own = subject.activations(some_tokens(), SITES)
    wide = subject.activations(some_tokens(), SITES, dtype=torch.float32)
    for site in SITES:
        assert own[site].dtype == torch.bfloat16 and wide[site].dtype == torch.float32
        assert torch.equal(own[site].float(), wide[site])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grad", [False, True])
def test_gelu_in_one_pass_is_the_one_transformers_spells_out(dtype, grad):
    plain = gpt2(dtype)
    subject, tokens = Subject(copy.deepcopy(plain), None, "tiny"), some_tokens()
    with torch.set_grad_enabled(grad):
        expected, found = plain(tokens).logits.float(), subject.run_with(tokens, {}).float()
    bound = 1e-5 if dtype == torch.float32 else 0.05
    assert (found - expected).abs().max() <= bound * expected.abs().max()


def test_gradients_flow_through_the_gelu_as_before():
    plain, tokens, site = gpt2(), some_tokens(), "blocks.0.hook_resid_pre"
    subject = Subject(copy.deepcopy(plain), None, "tiny")
    x = subject.activations(tokens, [site])[site].requires_grad_()
    subject.run_from(site, x).square().sum().backward()
    hidden = x.detach().clone().requires_grad_()
    out = hidden
    for block in plain.transformer.h:
        out = block(out)
        out = out[0] if isinstance(out, tuple) else out
    plain.lm_head(plain.transformer.ln_f(out)).square().sum().backward()
    torch.testing.assert_close(x.grad, hidden.grad, rtol=1e-3, atol=1e-3 * float(hidden.grad.abs().max()))


def test_the_weights_keep_their_names_and_the_subject_its_fingerprint():
    plain = gpt2()
    names = list(plain.state_dict())
    assert list(Subject(plain, None, "tiny").model.state_dict()) == names
