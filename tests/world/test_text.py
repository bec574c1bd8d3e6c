"""Marks, slots and grammar."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from chronosae.world.text import article, capitalise, fill, mark, parse, plain

words = st.text(alphabet="abcdefgh ", min_size=1, max_size=12)


@given(words, words, words)
def test_nested_marks_come_back_as_the_spans_they_wrap(before, inner, after):
    text, annotations = parse(before + mark("outer", after + mark("inner", inner, "note")))
    assert text == before + after + inner
    spans = {a.label: text[a.start : a.end] for a in annotations}
    assert spans == {"outer": after + inner, "inner": inner}
    assert next(a for a in annotations if a.label == "inner").note == "note"


def test_articles_follow_the_sound():
    assert [article(w) for w in ("apple", "hour", "rope", "useful tool", "honest answer", mark("x", "owl"))] == [
        "an", "an", "a", "a", "an", "an",
    ]  # fmt: skip


def test_a_capital_goes_to_the_first_letter_behind_marks_and_quotes():
    assert plain(capitalise(mark("x", '"rain fell'))) == '"Rain fell'
    assert plain(capitalise("12 geese")) == "12 geese"


def test_a_repeated_slot_takes_two_different_words():
    for seed in range(20):
        a, b = fill(Random(seed), "{w} {w}", {"w": ("one", "two")}).lower().split()
        assert a != b
