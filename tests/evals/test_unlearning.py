"""Unlearning: who can forget scores, who can't doesn't, and a subject that knows nothing is told so."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.config import SourceConfig, SubjectConfig, UserError, load_config
from chronosae.evals.envelope import Provenance, result_envelope, write_envelope
from chronosae.evals.evaluation import EvalResult, Setting
from chronosae.evals.multiple_choice import ORDERS, Asked, _chat_rows, ask_by_letters, clean_scores
from chronosae.evals.unlearning import Unlearning
from chronosae.evals.unlearning.data import read_bank, text_rows
from chronosae.evals.unlearning.measure import (
    check_knows,
    find_known,
    firing_frequencies,
    ranked_features,
    settings,
    sweep,
)
from chronosae.evals.unlearning.report import Outcome, held_out, intervals
from chronosae.evals.workbench import Workbench, encode
from chronosae.interventions import Clamp, SiteEdit
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder
from chronosae.world import register as register_world
from chronosae.world.evaluation_data import register

register()
register_world()

SITE = "blocks.1.hook_resid_post"
OPTIONS = Unlearning(
    text_tokens=3000, max_questions=16, kept_questions=("world/history", "world/geography"), multipliers=(25, 200)
)
D_SAE = 16


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world"), SITE)


def unmasked(bench: Workbench, source: SourceConfig) -> Tensor:
    rows = text_rows(bench, source, "k", 6000, 128)
    return torch.cat([part.batch.acts[part.batch.mask] for part in bench.batches(rows, "k")])


@pytest.fixture(scope="module")
def acts(bench: Workbench) -> tuple[Tensor, Tensor]:
    """Of the forget text and of the retain text."""
    return unmasked(bench, OPTIONS.forget_text), unmasked(bench, OPTIONS.retain_text)


@torch.no_grad()
def detector(acts: tuple[Tensor, Tensor], share: float) -> Autoencoder:
    """Ten features along the direction that tells the texts apart, firing on this share of the retain text."""
    forget, retain = acts
    spread = (forget.T.cov() + retain.T.cov()) / 2
    ridge = 0.05 * spread.diagonal().mean() * torch.eye(len(spread))
    direction = torch.linalg.solve(spread + ridge, forget.mean(0) - retain.mean(0))
    direction = direction / direction.norm()
    sae = build("relu_l1", d_in=len(direction), d_sae=D_SAE)
    sae.b_dec.zero_()
    sae.W_enc.zero_()[:, :10] = direction.unsqueeze(1)
    sae.W_dec[:10] = direction
    sae.b_enc.fill_(-1.0)[:10] = -(retain @ direction).quantile(1 - share)
    return sae


@torch.no_grad()
def dead(bench: Workbench) -> Autoencoder:
    sae = build("relu_l1", d_in=bench.subject.info.d_model, d_sae=D_SAE)
    sae.b_enc.fill_(-1e6)
    return sae


@pytest.fixture(scope="module")
def saes(bench: Workbench, acts: tuple[Tensor, Tensor]) -> dict[str, Autoencoder]:
    random = build("topk", d_in=bench.subject.info.d_model, d_sae=64, k=4)
    return {"oracle": detector(acts, 0.0008), "broad": detector(acts, 0.2), "random": random, "dead": dead(bench)}


@pytest.fixture(scope="module")
def results(bench: Workbench, saes: dict[str, Autoencoder]) -> dict[str, EvalResult]:
    return OPTIONS.run(bench, saes)


def flags(result: EvalResult) -> set[str]:
    return {flag.split(":")[0] for flag in result.flags}


def test_features_that_fire_on_what_is_to_be_forgotten_alone_score_high(results: dict[str, EvalResult]) -> None:
    metrics = results["oracle"].metrics["unlearning"]
    for name in ("unlearning_score", "unlearning_score_held_out"):
        score = metrics[name]
        assert score is not None and score >= 0.6, name
    assert metrics["kept_accuracy"] == metrics["kept_accuracy_held_out"] == 1
    assert results["oracle"].intervals["unlearning_score"].low > 0.2
    assert "never_fires" not in flags(results["oracle"])


def test_random_features_score_near_zero(results: dict[str, EvalResult]) -> None:
    score = results["random"].metrics["unlearning"]["unlearning_score"]
    assert score is not None and score <= 0.1


def test_an_autoencoder_that_never_fires_scores_zero_and_is_flagged(results: dict[str, EvalResult]) -> None:
    assert results["dead"].metrics["unlearning"]["unlearning_score"] == 0
    assert "never_fires" in flags(results["dead"])
    assert {row["questions_touched"] for row in results["dead"].details} == {0}


def test_features_that_fire_on_other_text_too_are_never_clamped(results: dict[str, EvalResult]) -> None:
    assert "no_feature_chosen" in flags(results["broad"])
    assert results["broad"].metrics["unlearning"]["unlearning_score"] == 0


def test_a_result_holds_counts_and_rows_but_no_question(
    bench: Workbench, saes: dict[str, Autoencoder], results: dict[str, EvalResult], tmp_path: Path
) -> None:
    path = tmp_path / "oracle.json"
    where = Provenance("world", "f" * 64, "float32", "world", "c" * 64, seed=0, device="cpu")
    write_envelope(result_envelope(OPTIONS, "oracle", saes["oracle"], SITE, results["oracle"], where), path)
    written = path.read_text(encoding="utf-8")
    assert json.loads(written)["eval_result_metrics"]["unlearning"]["unlearning_score"] > 0
    for question in read_bank(bench, OPTIONS).questions:
        assert not any(text in written for text in (question.stem, *question.options, question.fact))
    assert len(json.loads(written)["chronosae"]["questions"]["world/pathogens"]["rows"]) == 16


def test_the_same_numbers_whatever_other_autoencoders_run(
    bench: Workbench, saes: dict[str, Autoencoder], results: dict[str, EvalResult]
) -> None:
    torch.manual_seed(77)
    alone = OPTIONS.run(bench, {"random": saes["random"]})["random"]
    assert alone == results["random"]


def test_a_subject_at_chance_is_an_error_that_says_so(bench: Workbench, saes: dict[str, Autoencoder]) -> None:
    with pytest.raises(UserError, match=r"^subject_does_not_know: .* format letters, not above chance"):
        OPTIONS.model_copy(update={"format": "letters"}).run(bench, saes)


@pytest.mark.parametrize(("hits", "knows"), [(10, False), (16, False), (18, True), (40, True)])
def test_above_chance_is_a_one_sided_binomial_test(hits: int, knows: bool) -> None:
    right = torch.arange(40) < hits
    if knows:
        check_knows(right, "q", "likelihood")
    else:
        with pytest.raises(UserError, match="nothing to unlearn"):
            check_knows(right, "q", "likelihood")


def test_lettered_questions_must_be_right_in_every_order(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    options = OPTIONS.model_copy(update={"format": "letters"})
    bank = read_bank(bench, options)
    n = len(bank.questions)
    asked: list[int] = []

    def scores(_bench, given, _what) -> Tensor:
        """Right throughout, but for the first question: its answer is always the last letter."""
        right = torch.nn.functional.one_hot(given.answers, 4).float()
        asked.append(len(given))
        if len(given) == n or len(asked) == 2:
            right[0] = torch.tensor([0.0, 0.0, 0.0, 1.0])
        return right

    monkeypatch.setattr("chronosae.evals.unlearning.measure.clean_scores", scores)
    first = bank.questions[0].answer
    known = find_known(bench, bank, options)
    assert known.which.tolist() == list(range(1, n))
    assert asked[0] == n and len(asked) == 24 and asked[-1] == n - 1
    assert known.right[0].item() == (first == 3)


def test_questions_that_one_order_confuses_are_unknown_and_without_any_there_is_a_flag_and_no_number(
    bench: Workbench, saes: dict[str, Autoencoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def scores(_bench, given, _what) -> Tensor:
        """Right in the first order, wrong in the second."""
        asked.append(len(given))
        wanted = given.answers if len(asked) == 1 else (given.answers + 1) % 4
        return torch.nn.functional.one_hot(wanted, 4).float()

    monkeypatch.setattr("chronosae.evals.unlearning.measure.clean_scores", scores)
    result = OPTIONS.model_copy(update={"format": "letters"}).run(bench, {"dead": saes["dead"]})["dead"]
    assert len(asked) == 2
    assert set(result.metrics["unlearning"].values()) == {None} and not result.intervals
    assert any(flag.startswith("no_known_question: none of those to be forgotten") for flag in result.flags)


def test_a_question_must_fit_in_every_order(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    options = OPTIONS.model_copy(update={"format": "letters"})
    bank = read_bank(bench, options)

    def ask(bench, questions, topics, order, chat) -> Asked:
        """The first question is cut in the last order."""
        given = ask_by_letters(bench, questions, topics, order, chat)
        fits = torch.tensor([order != ORDERS[-1] or q != bank.questions[0] for q in questions])
        return replace(given, fits=fits)

    module = "chronosae.evals.unlearning.measure"
    monkeypatch.setattr(f"{module}.ask_by_letters", ask)
    right = lambda _bench, given, _what: torch.nn.functional.one_hot(given.answers, 4).float()  # noqa: E731
    monkeypatch.setattr(f"{module}.clean_scores", right)
    assert find_known(bench, bank, options).which.tolist() == list(range(1, len(bank.questions)))


def test_no_questions_are_no_rows(bench: Workbench) -> None:
    assert len(bench.read([], 16)) == len(ask_by_letters(bench, [], [])) == len(_chat_rows(bench, [])) == 0
    assert not list(bench.batches(bench.read([], 16), "none"))


def test_a_setting_equals_the_same_edit_in_a_full_pass(bench: Workbench) -> None:
    """Cached lower layers, skipped rows and shared settings change nothing, for an autoencoder with memory too."""
    sae = build("chrono", d_in=bench.subject.info.d_model, d_sae=64, k=4)
    torch.nn.init.normal_(sae.kernel.taps, std=0.3)
    options = OPTIONS.model_copy(update={"max_questions": 4})
    known = find_known(bench, read_bank(bench, options), options)
    frequency = np.linspace(0.1, 0.9, 64)
    tried = settings(frequency, np.zeros(64), options)
    found = sweep(bench, known, {"sae": sae}, {"sae": tried})["sae"]
    rows = known.asked.rows
    clean = clean_scores(bench, known.asked, "k")
    for i in (1, len(tried) - 1):
        edit = SiteEdit(sae.eval(), Clamp().edit(tried[i].features, float(tried[i].multiplier)), rows.mask)
        logits = bench.subject.run_with(rows.tokens, {SITE: edit}, rows.real)
        logp = logits[:, :-1].log_softmax(-1).gather(-1, rows.tokens[:, 1:, None]).squeeze(-1)
        place = torch.arange(1, rows.tokens.shape[1])
        scored = (place >= known.asked.start.unsqueeze(1)) & rows.real[:, 1:]
        expected = (logp * scored).sum(1, keepdim=True)
        assert not torch.allclose(expected, clean, atol=0.1)
        assert torch.equal(found.right[i], known.asked.right(expected))


def test_frequencies_count_positive_codes_of_unmasked_tokens(bench: Workbench) -> None:
    sae = build("topk", d_in=bench.subject.info.d_model, d_sae=64, k=4)
    rows = text_rows(bench, OPTIONS.forget_text, "k", 500, 64)
    found = firing_frequencies(bench, rows, {"sae": sae}, "k")["sae"]
    parts = [encode(sae, part.batch).dense()[part.batch.mask] for part in bench.batches(rows, "k")]
    np.testing.assert_allclose(found, (torch.cat(parts) > 0).double().mean(0).numpy())


def test_ranking_takes_the_most_frequent_below_the_retain_threshold_and_ties_by_number() -> None:
    forget, retain = np.array([0.2, 0.5, 0.5, 0.0, 0.9]), np.array([0.0, 0.001, 0.0, 0.0, 0.01])
    assert ranked_features(forget, retain, 0.01, "chronosae") == [1, 2, 0]
    assert ranked_features(forget, retain, 0.001, "chronosae") == [2, 0]
    assert ranked_features(np.array([4e-7, 0.1]), np.zeros(2), 0.01, "saebench") == [1]


@given(seed=st.integers(0, 50))
def test_the_score_is_the_lowest_accuracy_among_settings_that_keep_enough(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    forget, kept = torch.rand(6, 9, generator=g) < 0.5, torch.rand(6, 12, generator=g) < 0.9
    outcome = Outcome(forget, kept, torch.arange(9) // 3, 3 + torch.arange(12) // 3, 7, 0.9)
    enough = [i for i in range(6) if kept[i].double().mean() >= 0.9]
    expected = 1 - min([1.0, *(float(forget[i].double().mean()) for i in enough)])
    assert float(outcome.scores(outcome.all_facts)) == pytest.approx(expected)
    best = outcome.best(outcome.all_facts)
    assert (best is None) == (not enough)
    assert best is None or (best in enough and 1 - forget[best].double().mean() == pytest.approx(expected))


def test_a_lucky_setting_has_no_score_on_held_out_facts() -> None:
    g = torch.Generator().manual_seed(0)
    facts = torch.arange(60)
    forget = torch.rand(400, 60, generator=g) < 0.9  # no setting is better than another
    outcome = Outcome(forget, torch.ones(400, 60, dtype=torch.bool), facts, 60 + facts, 120, 0.99)
    found = held_out(outcome, torch.Generator().manual_seed(1))
    assert found is not None
    assert float(outcome.scores(outcome.all_facts)) > 0.18 and found[0] < 0.15 and found[1] == 1
    assert set(intervals(outcome, 0)) == {"unlearning_score", "forget_accuracy", "kept_accuracy"}


def test_everything_that_is_missing_is_listed_at_once() -> None:
    options = Unlearning(
        format="letters",
        chat=True,
        forget_text=SourceConfig(path="no/forget-corpus"),
        forget_questions="cais/wmdp/wmdp-bio",
        kept_questions=("cais/mmlu/human_aging", "no/such.csv"),
    )
    found = [missing.line() for missing in options.preflight(Setting("no/such-model", None))]
    assert len(found) == 5
    wanted = ("no/forget-corpus", "wmdp-bio", "human_aging", "no/such.csv", "chat template of no/such-model")
    for line, what in zip(found, wanted, strict=True):
        assert what in line and "\n" not in line
    assert Unlearning().preflight(Setting("world", None)) == []


def test_the_configuration_for_gemma_names_each_missing_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = load_config(Path(__file__).parents[2] / "configs" / "unlearning-gemma-2-2b-it.yaml")
    options = Unlearning.read(config.evals.unlearning or {})
    found = " ".join(missing.what for missing in options.preflight(Setting(config.subject.model, None)))
    for piece in ("bio-forget-corpus.jsonl", "wikitext", "wmdp-bio", "human_aging", "chat template of google/gemma"):
        assert piece in found


@pytest.mark.parametrize(
    ("given_options", "says"),
    [({"chat": True}, "format letters"), ({"kept_questions": ("world/pathogens",)}, "different sets")],
)
def test_options_that_contradict_each_other_are_refused(given_options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Unlearning(**given_options)
