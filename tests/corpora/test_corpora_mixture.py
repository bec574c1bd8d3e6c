"""Mixtures: shares, held-out documents, and resuming at the exact next document."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chronosae.config import UserError
from chronosae.corpora import Mixture, hash64, permutation, uniform


class Listed:
    """A source from a list."""

    fingerprint = "listed"

    def __init__(self, name: str, rows: list[str]) -> None:
        self.name, self._rows = name, rows

    def documents(self, start: int = 0) -> Iterator[str]:
        return iter(self._rows[start:])


def numbered(name: str, n: int) -> Listed:
    return Listed(name, [f"{name}{i}" for i in range(n)])


def mix(sizes: list[int], **options) -> Mixture:
    sources = [numbered(name, n) for name, n in zip("abc", sizes, strict=False)]
    return Mixture(sources, [1.0 + i for i in range(len(sources))], **options)


@given(
    sizes=st.lists(st.integers(3, 9), min_size=1, max_size=3),
    part=st.sampled_from(["train", "heldout", "all"]),
    stop=st.integers(0, 30),
    repeat=st.booleans(),
    seed=st.integers(-3, 2**64),
)
def test_a_mixture_resumed_anywhere_goes_on_as_if_uninterrupted(sizes, part, stop, repeat, seed):
    options = {"seed": seed, "part": part, "holdout_every": 3, "repeat": repeat}
    whole = list(islice(mix(sizes, **options).documents(), 50))
    first = mix(sizes, **options)
    head = list(islice(first.documents(), stop))
    second = mix(sizes, **options)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert head + list(islice(second.documents(), 50 - len(head))) == whole


@given(n=st.integers(3, 40), every=st.integers(2, 3))
def test_the_two_parts_hold_every_document_once(n, every):
    def part(which):
        return [d.index for d in mix([n], part=which, holdout_every=every, repeat=False).documents()]

    assert sorted(part("train") + part("heldout")) == part("all") == list(range(n))
    assert all(i % every == every - 1 for i in part("heldout"))


def test_documents_are_drawn_in_proportion_to_the_weights():
    mixture = Mixture([numbered("a", 10), numbered("b", 10)], [1.0, 3.0], seed=1)
    shares = Counter(d.source for d in islice(mixture.documents(), 4000))
    assert shares["b"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_the_source_of_a_draw_depends_on_the_seed_and_its_number_alone():
    def order(seed, sizes):
        return [d.source for d in islice(mix(sizes, seed=seed).documents(), 60)]

    assert order(1, [5, 5]) == order(1, [50, 9]) != order(2, [5, 5])


def test_a_source_that_ends_starts_again_and_counts_its_passes():
    documents = list(islice(mix([3]).documents(), 8))
    assert [(d.index, d.epoch) for d in documents] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2)]
    assert len({d.serial for d in documents}) == 8


def test_epochs_know_the_fraction_from_the_second_pass_on():
    mixture = mix([4])
    list(islice(mixture.documents(), 6))
    assert mixture.epochs == [1.5]


def test_without_repeat_every_source_is_read_to_its_end():
    documents = list(mix([2, 5, 3], repeat=False).documents())
    assert Counter(d.source for d in documents) == {"a": 2, "b": 5, "c": 3}


def test_blank_documents_are_passed_over_and_not_counted():
    rows = ["", "a", " \n", "b", "", "c"]
    documents = list(Mixture([Listed("x", rows)], repeat=False).documents())
    assert [(d.text, d.index) for d in documents] == [("a", 0), ("b", 1), ("c", 2)]


@pytest.mark.parametrize("rows", [[], ["", " \n\t"]])
@pytest.mark.parametrize("repeat", [True, False])
def test_a_source_without_text_is_an_error_and_no_endless_search(rows, repeat):
    with pytest.raises(UserError, match="corpus 'x' holds no document"):
        next(Mixture([Listed("x", rows)], repeat=repeat).documents())


def test_a_source_too_small_to_hold_a_document_out_is_an_error_and_no_endless_search():
    with pytest.raises(UserError, match="no held-out document"):
        next(mix([3], part="heldout").documents())


def test_a_state_of_other_sources_is_refused():
    with pytest.raises(UserError, match="saved data order mixes"):
        mix([3, 3]).load_state_dict(mix([3]).state_dict())


def test_counter_based_randomness_is_the_same_on_every_machine():
    assert hash64(1, 2) == 15671754871817308195 != hash64(2, 1)
    assert permutation(8, 1, 2).tolist() == [2, 3, 7, 6, 0, 5, 4, 1]
    assert 0 <= uniform(-1, 5) < 1
    assert np.mean([uniform(7, i) for i in range(4000)]) == pytest.approx(0.5, abs=0.02)


@given(n=st.integers(0, 300), seed=st.integers(-(2**63), 2**64))
def test_a_permutation_holds_every_number_once(n, seed):
    assert sorted(permutation(n, seed, 3).tolist()) == list(range(n))
