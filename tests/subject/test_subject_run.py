"""Reading, continuing and editing agree with the plain forward pass, for every family and every kind of site."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subject_families import CONTEXT, LAYERS, VOCAB, WIDTH, tiny_model
from torch import Tensor

from chronosae.config import UserError
from chronosae.subject import Site, Subject

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


def random_tokens(batch: int, pos: int, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCAB, (batch, pos), generator=torch.Generator().manual_seed(seed))


def all_sites(subject: Subject) -> list[str]:
    return [str(Site(layer, kind)) for layer in range(subject.n_layers) for kind in subject.info.kinds]


def plain_logits(subject: Subject, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return subject.model(tokens).logits


def test_the_residual_stream_equals_hugging_face_s_hidden_states(subject: Subject) -> None:
    tokens = random_tokens(2, 11)
    with torch.no_grad():
        hidden = subject.model(tokens, output_hidden_states=True).hidden_states
    acts = subject.activations(tokens, [f"blocks.{layer}.hook_resid_pre" for layer in range(LAYERS)])
    for layer in range(LAYERS):
        assert torch.equal(acts[f"blocks.{layer}.hook_resid_pre"], hidden[layer])


def test_branches_add_up_to_the_residual_stream(subject: Subject) -> None:
    acts = subject.activations(random_tokens(2, 11), all_sites(subject))
    for layer in range(LAYERS):
        pre, post, attn, mlp = (
            acts[f"blocks.{layer}.hook_{kind}"] for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out")
        )
        torch.testing.assert_close(pre + attn + mlp, post)
        if "resid_mid" in subject.info.kinds:
            torch.testing.assert_close(acts[f"blocks.{layer}.hook_resid_mid"], pre + attn)


def test_logits_are_the_model_s_own(subject: Subject) -> None:
    tokens = random_tokens(2, 11)
    assert torch.equal(subject.logits(tokens), plain_logits(subject, tokens))


def test_continuing_from_any_site_gives_the_uninterrupted_logits(subject: Subject) -> None:
    tokens = random_tokens(2, 13)
    acts = subject.activations(tokens, all_sites(subject))
    expected = plain_logits(subject, tokens)
    for site in acts:
        given_tokens = tokens if site.endswith("_out") else None
        torch.testing.assert_close(subject.run_from(site, acts[site], given_tokens), expected, **TOLERANCE)


@settings(max_examples=4)
@given(batch=st.integers(1, 3), pos=st.integers(1, 17), left=st.booleans(), data=st.data())
def test_padding_on_either_side_changes_nothing_at_a_real_token(
    subject: Subject, batch: int, pos: int, left: bool, data: st.DataObject
) -> None:
    tokens = random_tokens(batch, pos)
    lengths = data.draw(st.lists(st.integers(1, pos), min_size=batch, max_size=batch))
    mask = torch.arange(pos)[None] < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if left else mask
    site = f"blocks.{LAYERS - 1}.hook_resid_post"
    padded = subject.activations(tokens, [site], attention_mask=mask)[site]
    logits = subject.run_from(site, padded, attention_mask=mask)
    # From an early layer as well, where the mask still matters on the way.
    early = subject.activations(tokens, ["blocks.1.hook_resid_pre"], attention_mask=mask)["blocks.1.hook_resid_pre"]
    from_early = subject.run_from("blocks.1.hook_resid_pre", early, attention_mask=mask)
    assert padded.isfinite().all() and logits.isfinite().all()
    for row in range(batch):
        alone = tokens[row][mask[row]][None]
        torch.testing.assert_close(padded[row][mask[row]], subject.activations(alone, [site])[site][0], **TOLERANCE)
        torch.testing.assert_close(logits[row][mask[row]], plain_logits(subject, alone)[0], **TOLERANCE)
        torch.testing.assert_close(from_early[row][mask[row]], plain_logits(subject, alone)[0], **TOLERANCE)


def test_several_sites_in_one_pass_equal_each_alone(subject: Subject) -> None:
    tokens = random_tokens(2, 7)
    together = subject.activations(tokens, all_sites(subject)[::-1])
    assert list(together) == all_sites(subject)[::-1]
    for site, acts in together.items():
        assert acts.shape == (2, 7, WIDTH) == (2, 7, subject.d_in(site))
        assert torch.equal(acts, subject.activations(tokens, [site])[site])


def test_an_edit_that_changes_nothing_changes_no_logit(subject: Subject) -> None:
    tokens = random_tokens(2, 9)
    edits = {site: lambda acts: acts for site in all_sites(subject)}
    torch.testing.assert_close(subject.run_with(tokens, edits), plain_logits(subject, tokens))


def test_an_edit_at_a_site_equals_continuing_from_the_edited_activations(subject: Subject) -> None:
    tokens = random_tokens(2, 9)
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    for site, acts in subject.activations(tokens, all_sites(subject)[len(subject.info.kinds) :]).items():
        edited = subject.run_with(tokens, {site: lambda acts: acts + direction})
        torch.testing.assert_close(edited, subject.run_from(site, acts + direction, tokens), **TOLERANCE)
        # A direction, not a shift of all coordinates, which a layer norm would remove.
        assert (edited - plain_logits(subject, tokens)).abs().max() > 1e-3, f"{site} doesn't reach the logits"


def test_edits_at_all_sites_of_a_layer_apply_in_the_order_of_the_pass(subject: Subject) -> None:
    tokens = random_tokens(1, 6)
    seen: list[str] = []

    def noting(site: str):
        def edit(acts: Tensor) -> Tensor:
            seen.append(site)
            return acts * 1.5

        return edit

    sites = [site for site in all_sites(subject) if site.startswith("blocks.1.")]
    logits = subject.run_with(tokens, {site: noting(site) for site in reversed(sites)})
    assert seen == sites
    scaled_last = 1.5 * _layer_by_hand(subject, tokens)
    torch.testing.assert_close(logits, subject.run_from("blocks.1.hook_resid_post", scaled_last), **TOLERANCE)


def _layer_by_hand(subject: Subject, tokens: Tensor) -> Tensor:
    """resid_post of layer 1 when each earlier site of that layer was scaled by 1.5, one at a time."""
    kinds = [kind for kind in subject.info.kinds if kind != "resid_post"]
    edits = {str(Site(1, kind)): lambda acts: acts * 1.5 for kind in kinds}
    grabbed: list[Tensor] = []
    subject.run_with(tokens, edits | {"blocks.1.hook_resid_post": lambda acts: grabbed.append(acts) or acts})
    pre, post = 1.5 * subject.activations(tokens, ["blocks.1.hook_resid_pre"])["blocks.1.hook_resid_pre"], grabbed[0]
    assert not torch.allclose(pre, post)
    return post


def test_gradients_flow_to_the_activations_continued_from(subject: Subject) -> None:
    tokens = random_tokens(1, 5)
    sites = all_sites(subject)[len(subject.info.kinds) :]
    for site, acts in subject.activations(tokens, sites).items():
        acts.requires_grad_(True)
        subject.run_from(site, acts, tokens).logsumexp(-1).sum().backward()
        assert acts.grad is not None and acts.grad.isfinite().all() and acts.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in subject.model.parameters())


def test_harvest_never_reaches_what_lies_behind_the_last_site(subject: Subject) -> None:
    reached: list[str] = []
    parts = {"layer 2": subject._anatomy.layers[2]}
    parts["head"] = subject.model.get_output_embeddings()
    handles = [part.register_forward_hook(lambda *_, name=name: reached.append(name)) for name, part in parts.items()]
    subject.activations(random_tokens(1, 4), ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"])
    assert reached == []
    subject.activations(random_tokens(1, 4), [f"blocks.{LAYERS - 1}.hook_resid_post"])
    assert reached == ["layer 2"]
    for handle in handles:
        handle.remove()


def test_continuing_never_computes_the_layers_before(subject: Subject) -> None:
    acts = torch.randn(1, 4, WIDTH)
    # Once for each subject, one token through layer 0 tells whether layers return tuples; here it has happened.
    subject.run_from("blocks.1.hook_resid_post", acts)
    norms = [subject._anatomy.attn_norm(layer) for layer in range(LAYERS)]
    reached: list[int] = []
    handles = [norm.register_forward_hook(lambda *_, i=i: reached.append(i)) for i, norm in enumerate(norms)]
    subject.run_from("blocks.1.hook_resid_post", acts)
    assert reached == [2]
    for handle in handles:
        handle.remove()


def test_no_hook_stays_behind_even_when_an_edit_fails(subject: Subject) -> None:
    tokens = random_tokens(1, 4)
    before, hooks_before = plain_logits(subject, tokens), _n_hooks(subject)

    def failing(acts: Tensor) -> Tensor:
        raise RuntimeError("an edit's own trouble")

    for site in all_sites(subject)[: len(subject.info.kinds)]:
        with pytest.raises(RuntimeError, match="own trouble"):
            subject.run_with(tokens, {site: failing})
        with pytest.raises(ValueError, match=r"returned shape \(1, 4, 1\)"):
            subject.run_with(tokens, {site: lambda acts: acts[..., :1]})
    assert torch.equal(plain_logits(subject, tokens), before)
    assert _n_hooks(subject) == hooks_before


def _n_hooks(subject: Subject) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules())


def test_a_branch_s_output_alone_can_t_be_continued_from(subject: Subject) -> None:
    with pytest.raises(ValueError, match="needs tokens"):
        subject.run_from("blocks.1.hook_mlp_out", torch.zeros(1, 3, WIDTH))


def test_generation_with_edits_applies_them_at_every_token(subject: Subject) -> None:
    prompt = random_tokens(2, 5)
    options = {"pad_token_id": 0, "eos_token_id": None}
    plain = subject.generate(prompt, 6, **options)
    unchanged = subject.generate(prompt, 6, {site: lambda a: a for site in all_sites(subject)}, **options)
    assert torch.equal(plain, unchanged) and plain.shape == (2, 11)
    lengths: list[int] = []
    subject.generate(prompt, 6, {"blocks.1.hook_resid_post": lambda a: lengths.append(a.shape[1]) or a}, **options)
    assert sum(lengths) == 5 + 6 - 1
    direction = 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))
    edit = {f"blocks.{LAYERS - 1}.hook_resid_post": lambda a: a + direction}
    steered = subject.generate(prompt, 6, edit, **options)
    for length in range(5, 11):
        assert torch.equal(subject.run_with(steered[:, :length], edit)[:, -1].argmax(-1), steered[:, length])


def test_a_context_longer_than_the_model_s_is_an_error(subject: Subject) -> None:
    assert subject.max_context == CONTEXT
    with pytest.raises(UserError, match="65 tokens is longer than the model's 64"):
        subject.activations(random_tokens(1, CONTEXT + 1), ["blocks.0.hook_resid_pre"])


def test_activations_can_feed_a_computation_that_needs_gradients(subject: Subject) -> None:
    acts = subject.activations(random_tokens(1, 4), ["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]
    weight = torch.ones(WIDTH, requires_grad=True)
    (acts * weight).sum().backward()
    assert weight.grad is not None and weight.grad.abs().max() > 0


def test_half_precision_edits_may_come_back_in_single_precision() -> None:
    subject = Subject(tiny_model("gemma2").to(torch.bfloat16), tokenizer=None, name="half")
    tokens = random_tokens(1, 4)
    acts = subject.activations(tokens, ["blocks.1.hook_resid_mid"])["blocks.1.hook_resid_mid"]
    assert acts.dtype == torch.bfloat16
    logits = subject.run_from("blocks.1.hook_resid_mid", acts.float())
    assert torch.equal(logits, subject.logits(tokens))
