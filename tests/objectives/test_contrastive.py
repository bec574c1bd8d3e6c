"""The contrastive term against its equations, and the pairs it is made of."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.objectives.contrastive import contrastive_error, high_codes, info_nce, sample_pairs


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def documents(batch: int, pos: int, seed: int) -> tuple[Tensor, Tensor]:
    g = gen(seed)
    return torch.rand(batch, pos, generator=g) > 0.3, (torch.rand(batch, pos, generator=g) < 0.15).long().cumsum(1)


def sparse(batch: int, pos: int, d_sae: int, seed: int = 0) -> SparseCodes:
    g = gen(seed)
    indices = torch.rand(batch, pos, d_sae, generator=g).topk(4, -1).indices.sort(-1).values
    values = torch.rand(batch, pos, 4, generator=g, dtype=torch.float64).requires_grad_()
    return SparseCodes(values, None, indices, d_sae)


@pytest.mark.parametrize("form", ["release", "paper"])
def test_each_form_equals_its_equation(form: str) -> None:
    now, before = torch.rand(2, 5, 3, generator=gen(), dtype=torch.float64)
    total = 0.0
    for i in range(5):
        for own, others in ((now, before), (before, now)):

            def s(j: int, own: Tensor = own, others: Tensor = others, i: int = i) -> float:
                dot = float(own[i] @ others[j])
                return dot if form == "release" else dot / float(own[i].norm() * others[j].norm()) / 0.2

            total -= math.log(math.exp(s(i)) / sum(math.exp(s(j)) for j in range(5)))
    expected = total / 5 / (2 if form == "release" else 1)
    assert form in ("release", "paper")
    assert float(info_nce(now, before, form, temperature=0.2)) == pytest.approx(expected)


def test_the_paper_form_does_not_see_the_scale_of_codes_and_the_release_form_does() -> None:
    now, before = torch.rand(2, 6, 4, generator=gen(1), dtype=torch.float64)
    torch.testing.assert_close(info_nce(now * 7, before, "paper"), info_nce(now, before, "paper"))
    assert not torch.isclose(info_nce(now * 7, before), info_nce(now, before))


def test_autocast_changes_nothing() -> None:
    now, before = torch.rand(2, 6, 40, generator=gen(4)) * 5
    with torch.autocast("cpu", torch.bfloat16):
        inside = info_nce(now, before), info_nce(now, before, "paper")
    assert inside == (info_nce(now, before), info_nce(now, before, "paper"))


def test_a_token_without_high_level_features_gives_the_paper_form_no_nan_and_gets_no_gradient() -> None:
    now, before = torch.rand(2, 4, 3, generator=gen(2))
    now[1] = 0
    now.requires_grad_()
    (grad,) = torch.autograd.grad(info_nce(now, before, "paper"), now)
    assert grad.isfinite().all() and (grad[1] == 0).all() and (grad[0] != 0).any()


@given(batch=st.integers(1, 4), pos=st.integers(1, 20), seed=st.integers(0, 1000), many=st.sampled_from([1, 9, 500]))
def test_pairs_stay_within_a_document_look_back_and_are_bounded(batch: int, pos: int, seed: int, many: int) -> None:
    mask, doc_ids = documents(batch, pos, seed)
    unmasked = mask.flatten().nonzero().squeeze(1)
    for pair in ("previous", "random"):
        now, before = sample_pairs(mask, doc_ids, pair, many, gen(seed))
        assert len(now) <= max(many, batch) and len(now.unique()) == len(now)
        assert mask.flatten()[now].all() and mask.flatten()[before].all() and (before < now).all()
        assert (now // pos == before // pos).all() and (doc_ids.flatten()[now] == doc_ids.flatten()[before]).all()
        if pair == "previous":
            assert (torch.searchsorted(unmasked, now) - torch.searchsorted(unmasked, before) == 1).all()


def test_with_room_for_all_every_token_that_has_an_earlier_one_is_paired() -> None:
    mask, doc_ids = documents(3, 20, seed=5)
    now, _ = sample_pairs(mask, doc_ids, "previous", 1000, gen())
    expected = [
        row * 20 + t
        for row in range(3)
        for t in range(20)
        if mask[row, t] and any(mask[row, s] and doc_ids[row, s] == doc_ids[row, t] for s in range(t))
    ]
    assert now.tolist() == expected


def test_a_random_partner_is_each_earlier_token_equally_often() -> None:
    mask, doc_ids = torch.ones(4000, 5, dtype=torch.bool), torch.zeros(4000, 5, dtype=torch.long)
    now, before = sample_pairs(mask, doc_ids, "random", 20_000, gen())
    counts = torch.bincount(before[now % 5 == 4] % 5, minlength=5)
    assert counts.sum() == 4000 and counts[4] == 0
    assert (counts[:4] - 1000).abs().max() < 120, "four standard deviations"


def test_pairs_are_spread_evenly_over_sequences() -> None:
    mask, doc_ids = torch.ones(8, 30, dtype=torch.bool), torch.zeros(8, 30, dtype=torch.long)
    now, _ = sample_pairs(mask, doc_ids, "previous", 27, gen())
    assert torch.bincount(now // 30).tolist() == [3] * 8


def test_the_same_generator_state_gives_the_same_value() -> None:
    codes, (mask, doc_ids) = sparse(4, 20, 16), documents(4, 20, 0)
    values = [contrastive_error(codes, mask, doc_ids, 8, max_pairs=12, generator=gen(s)) for s in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_only_the_high_split_is_read_and_only_it_learns() -> None:
    codes, (mask, doc_ids) = sparse(3, 12, 16), documents(3, 12, 1)
    value = contrastive_error(codes, mask, doc_ids, 5, "previous", max_pairs=99, generator=gen())
    dense = codes.dense().flatten(0, 1)[:, :5]
    now, before = sample_pairs(mask, doc_ids, "previous", 99, gen())
    torch.testing.assert_close(value, info_nce(dense[now], dense[before]))
    torch.testing.assert_close(high_codes(DenseCodes(codes.dense(), None), now, 5), high_codes(codes, now, 5))
    (grad,) = torch.autograd.grad(value, codes.values)
    assert (grad[codes.indices >= 5] == 0).all() and (grad[codes.indices < 5] != 0).any()


def test_gradcheck_through_sparse_codes() -> None:
    codes, (mask, doc_ids) = sparse(2, 8, 6), documents(2, 8, 2)
    for form in ("release", "paper"):

        def error(values: Tensor, form: str = form) -> Tensor:
            sparse_codes = SparseCodes(values, None, codes.indices, 6)
            assert form in ("release", "paper")
            return contrastive_error(sparse_codes, mask, doc_ids, 4, "previous", form, 0.5, 50, gen())

        assert torch.autograd.gradcheck(error, codes.values)


def test_without_a_pair_it_is_zero_and_its_gradient_too() -> None:
    values = torch.ones(2, 3, 4, requires_grad=True)
    doc_ids = torch.arange(3).expand(2, 3)
    error = contrastive_error(DenseCodes(values, None), torch.ones(2, 3, dtype=torch.bool), doc_ids, 2)
    error.backward()
    assert error == 0 and values.grad is not None and (values.grad == 0).all()


@pytest.mark.parametrize("n_high", [0, 17])
def test_a_high_split_outside_the_features_is_refused(n_high: int) -> None:
    mask, doc_ids = documents(2, 8, 0)
    with pytest.raises(ValueError, match=f"n_high is {n_high}; the high split of 16 features has 1 to 16"):
        contrastive_error(sparse(2, 8, 16), mask, doc_ids, n_high)
