"""Facts, wordings, questions and spelling: counts, balance, and what is held out."""

from collections import Counter

import pytest

from chronosae.world.corpus import make_document
from chronosae.world.knowledge import FORGET_SUBJECT, SUBJECTS, TABLES, facts, facts_by_entity
from chronosae.world.multiple_choice import LETTERS, letter_prompt, likelihood_prompt, questions
from chronosae.world.paraphrases import LEAD_INS_HELD_OUT, WORDINGS, training_wordings
from chronosae.world.spelling import LETTERS as SPELLED
from chronosae.world.spelling import words


@pytest.mark.parametrize("subject", SUBJECTS)
def test_there_are_enough_facts_and_their_values_are_balanced(subject):
    assert len(facts(subject)) >= (200 if subject == FORGET_SUBJECT else 100)
    assert len({f.key for f in facts(subject)}) == len(facts(subject))
    assert all(len(group) >= 2 for group in facts_by_entity(subject).values())
    for attribute, values in TABLES[subject].values.items():
        counts = Counter(f.value for f in facts(subject) if f.attribute == attribute)
        assert set(counts) == set(values) and len(values) >= 8
        assert max(counts.values()) - min(counts.values()) <= 1


def test_an_entity_belongs_to_one_subject_and_no_name_hides_in_another():
    names = [f.entity for s in SUBJECTS for f in facts(s)]
    distinct = set(names)
    assert not [(a, b) for a in distinct for b in distinct if a != b and a in b]


def test_every_attribute_has_many_wordings_and_none_is_both_trained_and_held_out():
    for (subject, attribute), w in WORDINGS.items():
        assert attribute in TABLES[subject].values
        assert len(w.statements) >= 8 and len(w.questions) >= 6 and len(w.questions_held_out) >= 3
        assert not set(w.statements) & set(w.statements_held_out)
        assert not set(w.questions) & set(w.questions_held_out)
        assert all(
            "{e}" in line for line in (*w.statements, *w.statements_held_out, *w.questions, *w.questions_held_out)
        )
        assert all("{v}" in line for line in w.statements)
        assert all(line.rstrip(".").endswith("{v}") for line in w.statements_held_out)
    assert len(WORDINGS) == sum(len(t.values) for t in TABLES.values())
    assert min(len(set(training_wordings(f))) for f in facts()) >= 100


def test_held_out_wordings_occur_in_no_document():
    for split in ("train", "valid", "test"):
        for kind in ("encyclopaedia", "quiz", "letters", "dialogue", "report"):
            for i in range(12):
                document = make_document(split, i, kind=kind)
                text = document.text.lower()
                assert not any(lead in text for lead in LEAD_INS_HELD_OUT)
                for a in sorted({a.note for a in document.annotations if a.label == "fact_entity"}):
                    subject, entity, attribute = a.split("/")
                    value = next(f.value for f in facts(subject) if f.key == a)
                    w = WORDINGS[subject, attribute]
                    for line in (*w.statements_held_out, *w.questions_held_out):
                        said = line.replace("{e}", entity).replace("{v}", value)
                        assert said.lower() not in text


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_question_has_four_distinct_options_and_one_right_answer(subject):
    asked = questions(subject)
    assert len(asked) == 3 * len(facts(subject))
    for q in asked:
        assert len(set(q.options)) == 4
        assert q.options[q.answer] == q.fact.value and q.options.count(q.fact.value) == 1
        assert set(q.options) <= set(TABLES[subject].values[q.fact.attribute])
        assert q.fact.entity in q.stem and q.subject == subject
    letters = Counter(q.letter for q in asked)
    assert max(letters.values()) - min(letters.values()) <= 1


def test_prompts_hold_the_stem_and_end_where_the_answer_begins():
    q = questions("history")[7]
    prompt, continuations = likelihood_prompt(q)
    assert prompt == f"Question: {q.stem}\nAnswer:" and continuations[q.answer] == f" {q.fact.value}."
    prompt, continuations = letter_prompt(q)
    assert prompt.endswith("\nAnswer:") and f"\n{q.letter}) {q.fact.value}\n" in prompt
    assert continuations == tuple(f" {letter}" for letter in LETTERS)


def test_answers_cannot_be_read_off_their_length():
    # A ranker that always takes the shortest (or the longest) option stays near chance.
    asked = questions()
    for pick in (min, max):
        hits = sum(pick(q.options, key=len) == q.fact.value for q in asked)
        assert 0.18 < hits / len(asked) < 0.32


def test_spelling_has_enough_letters_and_held_out_words():
    assert len(SPELLED) >= 20
    trained = {w for letter in SPELLED for w in words(letter, "train")}
    for letter in SPELLED:
        held_out = words(letter, "test")
        assert len(set(held_out)) >= 15 and not set(held_out) & trained
        assert all(w[0] == letter for w in (*held_out, *words(letter, "train")))
    text = " ".join(make_document("train", i, kind="spelling").text for i in range(200))
    assert not set(text.split()) & {w for letter in SPELLED for w in words(letter, "test")}


def test_the_facts_are_the_same_on_every_machine():
    assert facts("pathogens")[0].key == "pathogens/the Wissune fever/carrier"
    assert facts("pathogens")[0].value == "sand lizards"
