"""Questions as token rows: scores are those of a plain pass, in every order and however the rows are cut."""

from types import SimpleNamespace

import pytest
import torch

from chronosae.config import SubjectConfig, UserError
from chronosae.evals import multiple_choice
from chronosae.evals.data import QUESTIONS, Question
from chronosae.evals.multiple_choice import ORDERS, ask_by_letters, ask_by_likelihood, clean_scores, scores, topic
from chronosae.evals.workbench import Workbench
from chronosae.subject import Subject
from chronosae.world import model_folder
from chronosae.world.evaluation_data import register
from chronosae.world.model import continuation_scores
from chronosae.world.multiple_choice import likelihood_prompt, questions

register()

SITE = "blocks.1.hook_resid_post"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[model] {% endif %}"
)


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world"), SITE)


@pytest.fixture(scope="module")
def asked_about() -> tuple[Question, ...]:
    return QUESTIONS.read("world/history", "test", "k").questions[:6]


def test_answers_by_likelihood_score_as_the_world_scores_them(bench: Workbench, asked_about) -> None:
    asked = ask_by_likelihood(bench, asked_about)
    found = clean_scores(bench, asked, "test")
    subject = bench.subject
    expected = continuation_scores(
        subject.model, subject.tokenizer, [likelihood_prompt(q) for q in questions("history")[:6]]
    )
    torch.testing.assert_close(found.view(-1, 4), torch.tensor(expected), rtol=1e-3, atol=1e-3)
    assert asked.right(found).all() and asked.fits.all()


def test_letters_score_as_the_next_token_of_the_prompt(bench: Workbench, asked_about) -> None:
    question, order = asked_about[0], ORDERS[7]
    asked = ask_by_letters(bench, asked_about, ["history"] * 6, order)
    found = clean_scores(bench, asked, "test")
    lines = "".join(f"\n{letter}. {question.options[i]}" for letter, i in zip("ABCD", order, strict=True))
    prompt = (
        f"The following are multiple choice questions (with answers) about history.\n{question.stem}{lines}\nAnswer:"
    )
    tokenizer = bench.subject.tokenizer
    logp = bench.subject.logits(torch.tensor([tokenizer(prompt).input_ids]))[0, -1].log_softmax(-1)
    ids = [[tokenizer(b + letter, add_special_tokens=False).input_ids[0] for b in ("", " ")] for letter in "ABCD"]
    torch.testing.assert_close(found[0], logp[torch.tensor(ids)].amax(-1), rtol=1e-3, atol=1e-3)
    assert asked.answers.tolist() == [order.index(q.answer) for q in asked_about]


def test_right_needs_the_best_score_and_numbers(bench: Workbench, asked_about) -> None:
    asked = ask_by_letters(bench, asked_about[:3], ["history"] * 3)
    given = torch.nn.functional.one_hot(asked.answers, 4).float()
    given[1] = 1 - given[1]
    given[2, (asked.answers[2] + 1) % 4] = torch.nan
    assert asked.right(given).tolist() == [True, False, False]
    assert asked.right(given.expand(2, 3, 4)).shape == (2, 3)


@pytest.mark.parametrize("form", ["likelihood", "letters"])
def test_some_questions_are_asked_as_they_were_among_all(bench: Workbench, asked_about, form: str) -> None:
    def ask(which):
        if form == "likelihood":
            return ask_by_likelihood(bench, which)
        return ask_by_letters(bench, which, ["history"] * len(which))

    some = ask(asked_about).some(torch.tensor([4, 1]))
    again = ask([asked_about[4], asked_about[1]])
    assert torch.equal(some.rows.tokens, again.rows.tokens) and torch.equal(some.start, again.start)
    assert torch.equal(some.answers, again.answers) and some.sha256() == again.sha256()


def test_scores_do_not_depend_on_how_many_rows_are_run_at_once(
    bench: Workbench, asked_about, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask_by_likelihood(bench, asked_about[:2])
    (part,) = bench.batches(asked.rows, "test")
    which = torch.tensor([5, 0, 3])
    together = scores(bench, asked, part, part.batch.acts, which)
    monkeypatch.setattr(multiple_choice, "LOGITS", 1)
    torch.testing.assert_close(scores(bench, asked, part, part.batch.acts, which), together, rtol=1e-4, atol=1e-4)
    assert scores(bench, asked, part, part.batch.acts, torch.tensor([], dtype=torch.long)).shape == (0, 1)


def test_edited_activations_change_the_scores_of_their_rows_alone(bench: Workbench, asked_about) -> None:
    asked = ask_by_likelihood(bench, asked_about[:2])
    (part,) = bench.batches(asked.rows, "test")
    acts = part.batch.acts.clone()
    acts[2, 3] += 50
    every = torch.arange(8)
    before, after = (scores(bench, asked, part, x, every) for x in (part.batch.acts, acts))
    assert (before != after).any(1).tolist() == [False, False, True, *[False] * 5]


def test_a_chat_is_the_template_around_the_question_and_the_answer_begun(bench: Workbench, asked_about) -> None:
    tokenizer = bench.subject.tokenizer
    before, tokenizer.chat_template = tokenizer.chat_template, TEMPLATE
    try:
        asked = ask_by_letters(bench, asked_about[:2], ["history"] * 2, chat=True)
    finally:
        tokenizer.chat_template = before
    ids = asked.rows.tokens[0, asked.rows.real[0]]
    text = tokenizer.decode(ids)
    assert text.startswith(f"{tokenizer.bos_token}[user] The following") and text.endswith("[model] Answer: (")
    assert int((ids == tokenizer.bos_token_id).sum()) == 1 and not asked.rows.mask[:, 0].any()
    assert clean_scores(bench, asked, "test").isfinite().all()
    with pytest.raises(UserError, match="no chat template"):
        ask_by_letters(bench, asked_about[:1], ["history"], chat=True)


def test_a_question_that_is_cut_does_not_fit(bench: Workbench, asked_about) -> None:
    long = Question("why " * bench.subject.max_context, ("a", "b", "c", "d"), 0, "f")
    assert ask_by_likelihood(bench, [long, asked_about[0]]).fits.tolist() == [False, True]
    assert ask_by_letters(bench, [long, asked_about[0]], ["x", "x"]).fits.tolist() == [False, True]


def test_a_tokenizer_without_letters_is_refused() -> None:
    def tokenizer(_text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [1, 2]}

    subject = SimpleNamespace(tokenizer=tokenizer)
    with pytest.raises(UserError, match="use format likelihood"):
        multiple_choice._letter_tokens(subject.tokenizer)


def test_topics_are_words() -> None:
    assert [topic(name) for name in ("wmdp-bio", "human_aging", "world/history")] == [
        "biology",
        "human aging",
        "history",
    ]
