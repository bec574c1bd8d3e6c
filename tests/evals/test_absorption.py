"""First-letter absorption: planted answers, whole prompts, and a subject that knows too little."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from absorption_planted import (
    LETTERS,
    OPTIONS,
    absorbing_features,
    directions,
    letter_features,
    read,
    scored,
    words,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from chronosae.autoencoders import Autoencoder, DenseCodes, SparseCodes
from chronosae.config import SubjectConfig, UserError
from chronosae.evals.absorption import Absorption
from chronosae.evals.absorption.data import (
    Asked,
    alphabetic_tokens,
    choose_words,
    codes_at,
    make_prompts,
    read_prompts,
    read_words,
    word_tokens,
)
from chronosae.evals.absorption.measure import absorbed, choose_k, find_splits, project
from chronosae.evals.absorption.probes import f1
from chronosae.evals.absorption.report import intervals
from chronosae.evals.data.questions import WORDS
from chronosae.evals.evaluation import Setting
from chronosae.evals.workbench import Workbench, encode
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder
from chronosae.world.evaluation_data import register
from chronosae.world.spelling import FORMATS
from chronosae.world.spelling import LETTERS as WORLD_LETTERS

register()
SITE = "blocks.2.hook_resid_post"
SMALL = Absorption(train_words=96, test_words=48, examples=1, min_letters=12, probe_steps=60, max_k=3)
WORLD_WORDS = ["marble", "stone", "velvet", "apple", "zinc", "on"]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")


@pytest.fixture(scope="module")
def bench(subject: Subject) -> Workbench:
    return Workbench(subject, SITE)


def test_features_that_stand_for_letters_alone_absorb_nothing_and_are_one_a_letter() -> None:
    scores = scored(letter_features)
    assert scores.k.tolist() == [1] * LETTERS
    assert not scores.at_k(scores.fraction).any() and not scores.full.any()
    assert (scores.scores[:, 0] > 0.97).all()


def test_a_feature_that_writes_the_letter_itself_absorbs_it_at_its_words_and_nowhere_else() -> None:
    special = words(1)[2]
    scores = scored(absorbing_features)
    assert scores.k.tolist() == [1] * LETTERS
    assert torch.equal(scores.full[:, 0].bool(), special)
    assert torch.equal(scores.fraction[:, 0] == 1, special) and not scores.fraction[~special, 0].any()
    assert scores.at_k(scores.full).sum(0).tolist() == [1] * LETTERS


def in_other_units() -> Autoencoder:
    """`absorbing_features` with codes four times as large and a decoder that makes up for it."""
    sae = absorbing_features()
    with torch.no_grad():
        sae.W_enc.mul_(4)
        sae.b_enc.mul_(4)
        sae.W_dec.div_(4)
    return sae


def test_the_same_autoencoder_in_other_units_scores_the_same() -> None:
    ours, theirs = scored(absorbing_features), scored(in_other_units)
    assert torch.equal(ours.probes.features, theirs.probes.features) and torch.equal(ours.full, theirs.full)
    torch.testing.assert_close(ours.fraction, theirs.fraction)


def test_what_b_dec_writes_is_not_left_to_features() -> None:
    sae = absorbing_features()
    here = read({"sae": sae}).test
    leading = here.letters.unsqueeze(1)  # feature i stands for letter i
    letters = directions()[:LETTERS].T
    fractions = []
    for shift in (0.0, 50.0):
        along = project(
            here.codes["sae"], here.letters, here.acts + shift, letters, sae.W_dec.detach(), sae.b_dec.detach() + shift
        )
        fractions.append(absorbed(here.codes["sae"], along, leading, OPTIONS).fraction)
    assert fractions[0].any()
    torch.testing.assert_close(fractions[0], fractions[1], rtol=1e-3, atol=1e-3)


def test_intervals_hold_the_score_and_words_that_look_the_same_are_drawn_together() -> None:
    scores = scored(absorbing_features)
    units = torch.arange(len(scores.true))
    found = intervals(scores, units, seed=0)["mean_full_absorption_score"]
    assert found.low <= 1 / 20 <= found.high and found.se > 0
    assert intervals(scores, units, seed=0)["mean_full_absorption_score"] == found
    assert intervals(scores, torch.zeros_like(units), seed=0) == {}
    assert intervals(scores, units // 20, seed=0)["mean_full_absorption_score"].n_units == LETTERS


def test_a_dead_autoencoder_has_no_leading_features() -> None:
    sae = letter_features()
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    assert find_splits(read({"sae": sae}), "sae", LETTERS, OPTIONS, torch.Generator()) is None


@pytest.mark.parametrize(
    ("scores", "k"),
    [([0.5, 0.6, 0.7], 3), ([0.5, 0.52, 0.9], 1), ([0.0, 0.0, 0.9], 1), ([0.5, 0.6, 0.62], 2), ([0.9, 0.1, 1.0], 1)],
)
def test_split_features_end_at_the_first_that_adds_too_little(scores: list[float], k: int) -> None:
    assert choose_k(torch.tensor([scores]), 0.03).tolist() == [k]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_f1_is_that_of_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    said, true = torch.tensor(pairs).T
    assert float(f1(said, true)) == pytest.approx(f1_score(true, said, zero_division=0))


def test_dense_codes_are_read_as_sparse_ones_are() -> None:
    values = torch.relu(torch.randn(3, 4, 9))
    found = codes_at(build("topk", d_in=4, d_sae=9, k=2), DenseCodes(values, None), torch.tensor([3, 0, 1]))
    assert isinstance(found, SparseCodes)
    assert torch.equal(found.dense(), values[torch.arange(3), torch.tensor([3, 0, 1])])


def test_the_word_is_found_in_every_format_and_is_no_example_of_itself(bench: Workbench) -> None:
    for line in FORMATS:
        template, _, end = line.replace("{w}", "{word}").partition(" {l}")
        options = Absorption(template=template, answer=" {letter}" + end, examples=4)
        prompts = make_prompts(WORLD_WORDS, WORLD_WORDS, options, random.Random(0))
        rows = read_prompts(bench, prompts)
        for which in ("first", "last"):
            positions, tokens = word_tokens(rows, prompts, which)
            for i, (word, prompt) in enumerate(zip(WORLD_WORDS, prompts, strict=True)):
                assert prompt.text[prompt.start : prompt.end] == word
                assert prompt.text.count(f" {word} ") + prompt.text.count(f"\n{word} ") == 1
                read_text = bench.subject.tokenizer.decode(list(tokens[i])).strip()
                assert word.startswith(read_text) if which == "first" else read_text == word
                assert rows.tokens[i, positions[i]] == tokens[i][-1]


def test_codes_are_those_of_whole_prompts(bench: Workbench) -> None:
    sae = build("chrono", d_in=bench.subject.info.d_model, d_sae=64, k=4)
    torch.nn.init.normal_(sae.kernel.taps, std=0.3)
    options = Absorption(examples=2)
    prompts = make_prompts(WORLD_WORDS, WORLD_WORDS, options, random.Random(0))
    rows = read_prompts(bench, prompts)
    positions, _ = word_tokens(rows, prompts, "last")
    zeros = torch.zeros(len(rows), dtype=torch.long)
    found = read_words(bench, rows, positions, zeros, zeros, {"sae": sae}, "test")
    for i in range(len(rows)):
        (part,) = bench.batches(rows.rows(torch.tensor([i])), "test")
        at = int(positions[i])
        whole = encode(sae, part.batch).dense()[0, at].detach()
        torch.testing.assert_close(found.codes["sae"].dense()[i], whole, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.acts[i], part.batch.acts[0, at], rtol=1e-3, atol=1e-3)


def saes(width: int) -> dict[str, Autoencoder]:
    made = {
        "topk": build("topk", d_in=width, d_sae=96, k=8),
        "chrono": build("chrono", d_in=width, d_sae=96, k=8),
        "dead": build("relu_l1", d_in=width, d_sae=96),
        "broken": build("relu_l1", d_in=width, d_sae=96),
    }
    torch.nn.init.constant_(made["broken"].b_enc[:3], torch.nan)
    torch.nn.init.constant_(made["dead"].b_enc, -1e6)
    return made


@pytest.fixture(scope="module")
def results(bench: Workbench) -> Iterator[dict]:
    state = torch.random.get_rng_state()
    yield SMALL.run(bench, saes(bench.subject.info.d_model))
    assert torch.equal(state, torch.random.get_rng_state())  # nothing drew from the global generator


def test_the_world_is_measured_with_the_names_of_saebench(results: dict) -> None:
    result = results["topk"]
    means = result.metrics["mean"]
    assert set(means) == {
        f"{which}_{what}"
        for which in ("mean", "std_dev")
        for what in ("absorption_fraction_score", "full_absorption_score", "num_split_features")
    }
    assert 0 <= means["mean_absorption_fraction_score"] <= 1 and 1 <= means["mean_num_split_features"] <= 3
    assert all(row["num_full_absorption"] <= row["num_probe_true_positives"] for row in result.details)
    assert result.block["subject_spelling"]["accuracy"] > 0.8
    assert len(result.block["letters"]) == len(WORLD_LETTERS)
    assert any(flag.startswith("letters_left_out") and "q" in flag for flag in result.flags)


def test_features_of_random_weights_are_said_not_to_know_the_letters(results: dict) -> None:
    assert any(flag.startswith("letters_not_in_codes") for flag in results["topk"].flags)
    assert results["topk"].metrics["probes"]["mean_split_f1"] < results["topk"].metrics["probes"]["mean_probe_f1"]


def test_a_dead_autoencoder_has_a_flag_and_no_score(results: dict) -> None:
    assert any(flag.startswith("never_fires") for flag in results["dead"].flags)
    assert set(results["dead"].metrics["mean"].values()) == {None} and results["dead"].details == ()


def test_codes_that_are_not_finite_give_a_flag_and_no_score(results: dict) -> None:
    assert any(flag.startswith("non_finite_codes") for flag in results["broken"].flags)
    assert {value for values in results["broken"].metrics.values() for value in values.values()} == {None}


def test_the_same_numbers_whatever_is_beside_it(results: dict, bench: Workbench) -> None:
    alone = SMALL.run(bench, {"another name": saes(bench.subject.info.d_model)["topk"]})["another name"]
    for part in ("metrics", "details", "intervals", "flags", "block", "data_sha256"):
        assert getattr(alone, part) == getattr(results["topk"], part)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"template": "{word} was painted in a"}, "not above chance"),
        ({"token": "last", "train_words": 72, "test_words": 48}, "a probe on the last token"),
    ],
)
def test_a_subject_that_does_not_know_gives_a_flag_and_no_number(bench: Workbench, options: dict, why: str) -> None:
    sae = saes(bench.subject.info.d_model)["topk"]
    result = SMALL.model_copy(update=options).run(bench, {"sae": sae})["sae"]
    assert any(flag.startswith("subject_does_not_know") and why in flag for flag in result.flags)
    assert {value for values in result.metrics.values() for value in values.values()} == {None}


def test_saebench_measures_on_prompts_of_its_own(bench: Workbench) -> None:
    options = SMALL.model_copy(update={"protocol": "saebench"})
    ours, theirs = (Asked(o, bench, choose_words(o, bench)) for o in (SMALL, options))
    assert set(ours.rows) == {"train", "test"} and set(theirs.rows) == {"train", "test", "again"}
    assert torch.equal(ours.rows["test"].tokens, theirs.rows["test"].tokens)
    assert theirs.rows["again"].sha256() != theirs.rows["test"].sha256()


def test_words_of_a_file_are_cut_into_parts_that_share_none(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(["naïve", "e-mail", "", "twice", "twice", *(f"w{chr(97 + i)}" for i in range(26))]))
    train, test = (WORDS.read(str(path), part, "k").words for part in ("train", "test"))
    assert len({*train, *test}) == len(train) + len(test) == 27 and not set(train) & set(test)


def test_real_words_are_read(shared: Path) -> None:
    found = WORDS.read(str(shared / "data/words/basic_english_words.txt"), "train", "k")
    assert len(found) > 600


def test_what_is_wrong_with_the_words_is_one_line(tmp_path: Path, bench: Workbench) -> None:
    missing = Absorption(data="no/such").preflight(Setting("world", None))
    assert len(missing) == 1 and "--set evals.absorption.data=PATH" in missing[0].how
    assert Absorption(data="vocabulary").preflight(Setting("world", None)) == []
    (tmp_path / "few.txt").write_text("one\ntwo\n42\n")
    with pytest.raises(UserError, match=r"few.*too few|no line"):
        choose_words(Absorption(data=str(tmp_path / "few.txt")), bench)
    (tmp_path / "none.txt").write_text("42\n")
    with pytest.raises(UserError, match="no line"):
        WORDS.read(str(tmp_path / "none.txt"), "train", "k")
    with pytest.raises(ValueError, match="exactly once"):
        Absorption(template="no word")


def test_words_are_balanced_over_letters_and_the_vocabulary_is_words_too(bench: Workbench) -> None:
    found = choose_words(SMALL, bench)
    assert {sum(word[0] == letter for word in found.train) for letter in WORLD_LETTERS} == {4}
    tokens = alphabetic_tokens(bench.subject.tokenizer)
    assert " the" in tokens and all(t.strip().isalpha() for t in tokens)
    parts = choose_words(Absorption(data="vocabulary", train_words=None, test_words=None), bench)
    assert len(parts.train) + len(parts.test) <= len(tokens) and not set(parts.train) & set(parts.test)
