"""What always holds (DESIGN section 6), for every preset and every part."""

import copy
from pathlib import Path

import pytest
import torch
from autoencoder_cases import CASES, D_IN, D_SAE, OPTIONS, close, each_case, inputs, loss_of, make, noise
from hypothesis import given, settings
from hypothesis import strategies as st

import chronosae
from chronosae.autoencoders import build_from_spec, empty_from_spec
from chronosae.autoencoders.parts.activations import ACTIVATIONS
from chronosae.autoencoders.parts.position_masks import POSITION_MASKS
from chronosae.presets import PRESETS

few = settings(max_examples=6)
lengths, seeds = st.integers(2, 14), st.integers(0, 10_000)
KINDS = ("none", "dataset", "token")


def test_every_preset_every_mask_and_every_activation_function_is_covered() -> None:
    assert set(PRESETS) <= set(OPTIONS)
    assert {f"{kind}_mask" for kind in POSITION_MASKS.kinds} | {f"mix_{kind}" for kind in ACTIVATIONS.kinds} < set(
        CASES
    )


@each_case
def test_flat_input_is_refused_just_where_neighbours_or_positions_matter(name: str) -> None:
    sae, x = make(name), inputs(2, 5, 0).acts
    if sae.receptive_field == 1 and sae.position_mask is None:
        close(sae.encode(x.flatten(0, 1)).dense(), sae.encode(x).dense().flatten(0, 1))
        close(sae(x.flatten(0, 1)), sae(x).flatten(0, 1))
    else:
        with pytest.raises(ValueError, match=r"needs activations \[batch, pos, d_in\]; got \[10, 8\]"):
            sae.encode(x.flatten(0, 1))


@each_case
@few
@given(pos=lengths, cut=st.integers(1, 13), seed=seeds)
def test_a_later_token_never_changes_an_earlier_code(name: str, pos: int, cut: int, seed: int) -> None:
    sae, data, cut = make(name), inputs(2, pos, seed), min(cut, pos - 1)
    if not sae.causal:
        pytest.skip("not causal")
    changed = torch.cat([data.acts[:, :cut], noise(2, pos - cut, D_IN)], 1)
    close(data.encode(sae, acts=changed)[:, :cut], data.encode(sae)[:, :cut])


@each_case
def test_a_code_depends_on_what_the_receptive_field_reaches_and_on_nothing_beyond(name: str) -> None:
    sae, x = make(name), inputs(1, 24, 1).acts
    before, field = sae.encode(x).dense(), sae.receptive_field
    reach = 24 if field is None else field
    changed = x.clone()
    changed[:, 12] += noise(D_IN)
    differs = (sae.encode(changed).dense() != before).any(-1)[0].nonzero().flatten().tolist()
    assert 12 in differs
    assert max(differs) < 12 + reach
    assert (max(differs) > 12) == (reach > 1), "neighbours matter just where the receptive field says so"
    assert (min(differs) < 12) == (not sae.causal), "a look ahead is named as such"


@each_case
@few
@given(pos=lengths, left=st.integers(0, 5), right=st.integers(0, 5), kind=st.sampled_from(KINDS), seed=seeds)
def test_padding_on_either_side_changes_no_code_at_a_real_token(
    name: str, pos: int, left: int, right: int, kind: str, seed: int
) -> None:
    sae, data = make(name, kind), inputs(2, pos, seed)
    padded = torch.cat([noise(2, left, D_IN), data.acts, noise(2, right, D_IN)], 1)
    mask = torch.nn.functional.pad(data.mask, (left, right), value=False)
    codes = data.encode(sae, acts=padded, mask=mask, doc_ids=None)
    close(codes[:, left : left + pos], data.encode(sae, doc_ids=None))
    assert not codes[~mask].any(), "masked tokens have zero codes"


@each_case
@few
@given(pos=lengths, bad=st.sampled_from([float("nan"), float("inf")]), kind=st.sampled_from(KINDS), seed=seeds)
def test_what_a_masked_token_holds_reaches_neither_codes_nor_losses_nor_gradients(
    name: str, pos: int, bad: float, kind: str, seed: int
) -> None:
    sae, data = make(name, kind), inputs(2, pos, seed)
    poisoned = torch.where(data.mask.unsqueeze(-1), data.acts, bad)
    assert torch.equal(data.encode(sae, acts=poisoned), data.encode(sae))
    clean_sae, poisoned_sae = copy.deepcopy(sae), copy.deepcopy(sae)
    clean, _ = loss_of(clean_sae, data)
    loss, forward = loss_of(poisoned_sae, data, acts=poisoned)
    assert torch.equal(loss, clean) and torch.isfinite(loss)
    loss.backward()
    clean.backward()
    for a, b in zip(poisoned_sae.parameters(), clean_sae.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) and (a.grad is None or torch.equal(a.grad, b.grad))
    assert torch.isfinite(forward.recon).all()
    for a, b in zip(poisoned_sae.buffers(), clean_sae.buffers(), strict=True):
        assert torch.equal(a, b), "statistics too"


@each_case
@few
@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=4), seed=seeds)
def test_codes_of_documents_in_one_sequence_equal_those_of_each_alone(name: str, lengths: list[int], seed: int) -> None:
    sae, pos = make(name), sum(lengths)
    data, positions = inputs(2, pos, seed), torch.arange(pos).expand(2, -1)
    # The third document has the number of the first: a number that returns is another document.
    documents = (torch.arange(len(lengths)) % 2).repeat_interleave(torch.tensor(lengths)).expand(2, -1)
    together = data.encode(sae, doc_ids=documents, positions=positions).split(lengths, 1)
    parts = zip(data.acts.split(lengths, 1), data.mask.split(lengths, 1), positions.split(lengths, 1), strict=True)
    for (acts, mask, where), expected in zip(parts, together, strict=True):
        close(data.encode(sae, acts=acts, mask=mask, positions=where, doc_ids=None), expected)


@each_case
@few
@given(batch=st.integers(2, 4), pos=lengths, seed=seeds)
def test_codes_of_a_sequence_do_not_depend_on_its_neighbours_in_the_batch(
    name: str, batch: int, pos: int, seed: int
) -> None:
    sae, data = make(name), inputs(batch, pos, seed)
    together = data.encode(sae)
    for i in range(batch):
        one = slice(i, i + 1)
        alone = data.encode(sae, acts=data.acts[one], mask=data.mask[one], doc_ids=data.doc_ids[one])
        close(alone, together[one])


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_and_loading_is_bit_exact_buffers_included(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    sae, x = make(name, "dataset", dtype), inputs(2, 9, 0).acts.to(dtype)
    sae.save(tmp_path)
    loaded = chronosae.load(tmp_path)
    assert loaded.cfg == sae.cfg
    before, after = sae.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    assert torch.equal(loaded(x), sae(x))


@each_case
def test_construction_without_storage_has_the_same_shapes_and_touches_no_random_numbers(name: str) -> None:
    spec = make(name).cfg
    torch.manual_seed(1)
    real = build_from_spec(spec).state_dict()
    ghost = empty_from_spec(spec).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    assert all(weight.is_meta for weight in ghost.values())
    assert {k: (v.shape, v.dtype) for k, v in ghost.items()} == {k: (v.shape, v.dtype) for k, v in real.items()}


@each_case
def test_moving_to_a_type_moves_everything_and_changes_no_shape(name: str) -> None:
    sae = make(name, dtype=torch.float32)
    for dtype in (torch.bfloat16, torch.float64):
        sae = sae.to(dtype)
        assert {v.dtype for v in sae.state_dict().values() if v.is_floating_point()} == {dtype}
        data = inputs(2, 6, 0, dtype)
        codes = data.encode(sae)
        assert codes.dtype == dtype and torch.isfinite(codes).all()
        loss_of(sae, data)[0].backward()


@each_case
def test_statistics_are_never_parameters(name: str) -> None:
    """A training pass without an optimiser moves statistics; it must move no Parameter."""
    sae, data = make(name), inputs(3, 12, 0)
    loss_of(sae, data)  # a weight may take its initial value from the first batch
    before = {key: parameter.detach().clone() for key, parameter in sae.named_parameters()}
    loss_of(sae, data)
    assert all(torch.equal(parameter, before[key]) for key, parameter in sae.named_parameters())
    assert not any(buffer.requires_grad for buffer in sae.buffers())


@each_case
def test_the_same_size_and_seed_give_the_same_dictionary_whatever_the_parts(name: str) -> None:
    preset, options = CASES[name]
    sae = chronosae.build(preset, d_in=D_IN, d_sae=D_SAE, seed=7, **options)
    plain = chronosae.build("topk", d_in=D_IN, d_sae=D_SAE, seed=7, k=4)
    if sae.cfg.body.kind == "linear":
        assert torch.equal(sae.W_dec, plain.W_dec)
    else:
        cosine = torch.nn.functional.cosine_similarity(sae.W_dec, plain.W_dec)
        assert cosine[: D_SAE // 3].min() > 0.999, "other bodies scale the rows, or own fewer of them"
