"""SCR and TPP: planted features must score, random and dead ones must not, and nothing leaks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scr_tpp_planted import ANIMALS, D_SAE, PlantedBench, animals, crossed, oracle, random_sae, sae_of

from chronosae.autoencoders import Autoencoder, Codes
from chronosae.config import SubjectConfig, UserError
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.evals.data.hub_labelled import AMAZON, BIOS
from chronosae.evals.evaluation import EvalResult, Setting
from chronosae.evals.scr_tpp import Scr, Tpp
from chronosae.evals.scr_tpp.data import (
    BIASED,
    FIRST,
    SECOND,
    TABLES,
    AblationOptions,
    Reading,
    Tasks,
    crossed_and_biased,
    one_vs_rest,
    pair_name,
    read_pair,
)
from chronosae.evals.scr_tpp.measure import (
    DecodedAblation,
    Examples,
    Judge,
    LinearAblation,
    Probes,
    ablations,
    adds_up,
    choose,
    fit_probes,
    probes_of,
)
from chronosae.subject import Subject
from chronosae.world import model_folder
from chronosae.world.evaluation_data import PAIRS, paired_texts

NS = [1, 2, 5]
FAST = {
    "train_size": 120,
    "test_size": 120,
    "ns": NS,
    "probe_seeds": 2,
    "probe_epochs": 12,
    "probe_lr": 0.02,
    "context": 16,
}

LABELLED.register("planted/crossed", crossed)
LABELLED.register("planted/animals", animals)


@pytest.fixture(scope="module")
def bench() -> PlantedBench:
    subject = Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")
    return PlantedBench(subject, "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def d_in(bench: PlantedBench) -> int:
    return bench.subject.info.d_model


def run_scr(bench: PlantedBench, saes: dict[str, Autoencoder], **options: object) -> dict[str, EvalResult]:
    return Scr(data=["planted/crossed"], **{**FAST, **options}).run(bench, saes)


def run_tpp(bench: PlantedBench, saes: dict[str, Autoencoder], **options: object) -> dict[str, EvalResult]:
    return Tpp(data=["planted/animals"], **{**FAST, **options}).run(bench, saes)


def names(result: EvalResult) -> set[str]:
    return {flag.split(":")[0] for flag in result.flags}


@pytest.fixture(scope="module")
def removed(bench: PlantedBench, d_in: int) -> dict[str, EvalResult]:
    saes = {"oracle": oracle(d_in), "random": random_sae(d_in), "dead": sae_of(d_in, [])}
    return run_scr(bench, saes)


@pytest.fixture(scope="module")
def perturbed(bench: PlantedBench, d_in: int) -> dict[str, EvalResult]:
    saes = {"oracle": oracle(d_in), "random": random_sae(d_in), "dead": sae_of(d_in, [])}
    return run_tpp(bench, saes)


def test_zeroing_the_features_of_the_spurious_label_gives_the_lost_accuracy_back(
    removed: dict[str, EvalResult],
) -> None:
    metrics = removed["oracle"].metrics["scr_metrics"]
    assert metrics["scr_dir1_threshold_2"] > 0.9 and metrics["scr_metric_threshold_2"] > 0.9
    interval = removed["oracle"].intervals["scr_metric_threshold_2"]
    assert interval.low <= metrics["scr_metric_threshold_2"] <= interval.high
    accuracies = removed["oracle"].block["accuracies"]["crossed"]["blue / red"]
    assert accuracies["biased_probe"] < 0.8 < 0.95 < accuracies["unbiased_probe"]


def test_zeroing_the_features_of_a_class_hurts_its_own_probe(perturbed: dict[str, EvalResult]) -> None:
    result = perturbed["oracle"]
    for animal, metrics in result.unstructured["animals"].items():
        if animal == "nothing":
            assert abs(metrics["tpp_threshold_1_total_metric"]) < 0.05
        else:
            assert metrics["tpp_threshold_1_total_metric"] > 0.3
            assert abs(metrics["tpp_threshold_1_unintended_diff_only"]) < 0.1
    interval = result.intervals["tpp_threshold_1_total_metric"]
    assert 0.2 < interval.low <= result.metrics["tpp_metrics"]["tpp_threshold_1_total_metric"] <= interval.high


def test_random_directions_score_about_nothing(
    removed: dict[str, EvalResult], perturbed: dict[str, EvalResult]
) -> None:
    assert abs(removed["random"].metrics["scr_metrics"]["scr_metric_threshold_2"]) < 0.2
    assert abs(perturbed["random"].metrics["tpp_metrics"]["tpp_threshold_2_total_metric"]) < 0.1


def test_an_autoencoder_that_never_fires_has_no_score_but_a_flag(
    removed: dict[str, EvalResult], perturbed: dict[str, EvalResult]
) -> None:
    for result in (removed["dead"], perturbed["dead"]):
        (metrics,) = result.metrics.values()
        assert set(metrics.values()) == {None} and not result.intervals
        assert "no_feature_has_an_effect" in names(result)


def test_both_are_always_flagged_as_disputed(removed: dict[str, EvalResult], perturbed: dict[str, EvalResult]) -> None:
    assert all("disputed" in names(result) for results in (removed, perturbed) for result in results.values())


def test_seeds_are_reported_and_their_mean_is_the_metric(removed: dict[str, EvalResult]) -> None:
    result = removed["random"]
    seeds = result.block["probe_seeds"]["scr_dir1_threshold_5"]["values"]
    assert len(seeds) == 2
    assert result.metrics["scr_metrics"]["scr_dir1_threshold_5"] == pytest.approx(sum(seeds) / 2)


def test_an_autoencoder_gets_the_same_numbers_alone(bench: PlantedBench, d_in: int, removed, perturbed) -> None:
    alone = {"random": random_sae(d_in)}
    assert run_scr(bench, alone)["random"] == removed["random"]
    assert run_tpp(bench, alone)["random"] == perturbed["random"]


def test_more_features_than_there_are_is_undefined_and_flagged(bench: PlantedBench, d_in: int) -> None:
    result = run_tpp(bench, {"oracle": oracle(d_in)}, ns=[40, D_SAE + 1], probe_seeds=1)["oracle"]
    assert result.metrics["tpp_metrics"][f"tpp_threshold_{D_SAE + 1}_total_metric"] is None
    assert {"more_than_d_sae", "fewer_features_than_n"} <= names(result)


def test_labels_without_meaning_are_flagged_and_give_no_number(bench: PlantedBench, d_in: int) -> None:
    def shuffled(part: str) -> LabelledTexts:
        data = crossed(part)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(3)).tolist()
        return LabelledTexts("shuffled", data.texts, tuple(data.labels[i] for i in order), second=data.second)

    LABELLED.register("planted/shuffled", shuffled)
    options = Scr(data=["planted/shuffled"], **{**FAST, "train_size": 80, "test_size": 80})
    result = options.run(bench, {"oracle": oracle(d_in)})["oracle"]
    assert "subject_does_not_know" in names(result)
    assert result.metrics["scr_metrics"]["scr_dir1_threshold_2"] is None


def test_where_nothing_was_lost_the_score_is_undefined_and_zero_in_saebenchs_protocol(
    bench: PlantedBench, d_in: int
) -> None:
    def easy(part: str) -> LabelledTexts:
        data = crossed(part)  # the stronger label is asked for: the biased probe reads it already
        return LabelledTexts("easy", data.texts, data.second or (), second=data.labels)

    LABELLED.register("planted/easy", easy)
    for protocol, value in (("chronosae", None), ("saebench", 0.0)):
        options = Scr(data=["planted/easy"], **{**FAST, "protocol": protocol, "probe_epochs": 20})
        result = options.run(bench, {"oracle": oracle(d_in)})["oracle"]
        assert result.metrics["scr_metrics"]["scr_dir1_threshold_2"] == value
        assert ("undefined" in names(result)) == (value is None)


def reading(bench: PlantedBench, protocol: str = "chronosae") -> Reading:
    tasks = one_vs_rest(animals("train", 12), ANIMALS, 20, torch.Generator())
    return Reading(bench, bench.read(tasks.texts, 16), protocol, 16, "test")


PRESETS = {
    "topk": {"k": 4},
    "relu_l1": {},
    "gated": {},
    "chrono": {"k": 4},
    "multiscale": {"k": 4},
    "tsae": {"k": 4},
    "tfa": {"k": 4, "n_heads": 2, "bottleneck_factor": 4},
    "txc": {"k": 4, "window": 3},
    "stacked": {"k": 4, "window": 2},
}


@pytest.mark.parametrize("protocol", ["chronosae", "saebench"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("normalisation", ["none", "dataset", "token"])
def test_pooled_codes_are_as_good_as_decoding_whole_contexts(
    bench: PlantedBench, d_in: int, preset: str, protocol: str, normalisation: str
) -> None:
    sae = random_sae(d_in, preset, **PRESETS[preset])
    factor = 0.5 if normalisation == "dataset" else 1.0
    cfg = sae.cfg.model_copy(update={"normalisation": type(sae.cfg.normalisation)(kind=normalisation, factor=factor)})
    sae.cfg = cfg
    read = reading(bench, protocol)
    _, found = ablations(read, {"sae": sae})
    assert isinstance(found["sae"], LinearAblation)
    choices = [torch.tensor([0, 3, 5]), torch.arange(D_SAE), torch.tensor([], dtype=torch.long)]
    weight = torch.randn(3, d_in, generator=torch.Generator().manual_seed(0))
    decoded = DecodedAblation(read, "sae", sae).shifts(choices, weight)
    assert decoded[1].abs().max() > 0.01
    torch.testing.assert_close(found["sae"].shifts(choices, weight), decoded, rtol=1e-3, atol=1e-4)


class Curved(Autoencoder):
    """A decoder that is no sum."""

    def reconstruct(self, codes: Codes) -> torch.Tensor:
        return torch.tanh(super().reconstruct(codes))


def test_a_decoder_that_is_no_sum_is_asked_to_decode(bench: PlantedBench, d_in: int) -> None:
    sae = random_sae(d_in)
    curved = Curved(sae.cfg)
    curved.load_state_dict(sae.state_dict())
    read = reading(bench)
    _, found = ablations(read, {"sae": curved})
    assert isinstance(found["sae"], DecodedAblation)
    weight, chosen = torch.eye(d_in), torch.tensor([1, 2, 3])
    shifts = found["sae"].shifts([chosen], weight)[0]
    for context in read.contexts({"sae": curved}):
        codes = context.codes["sae"].dense()
        kept = codes.clone()
        kept[..., chosen] = 0.0
        change = torch.tanh(kept @ sae.W_dec + sae.b_dec) - torch.tanh(codes @ sae.W_dec + sae.b_dec)
        for i, row in enumerate(context.index.tolist()):
            torch.testing.assert_close(shifts[row], change[i][context.seen[i]].mean(0), rtol=1e-4, atol=1e-5)
        assert not adds_up(curved, context.codes["sae"])


def test_padding_and_special_tokens_never_enter(
    bench: PlantedBench, d_in: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = random_sae(d_in, "chrono", k=4)
    clean_raw, clean = ablations(reading(bench), {"sae": sae})
    monkeypatch.setattr(bench, "garbage", 1e3)
    raw, found = ablations(reading(bench), {"sae": sae})
    choices, weight = [torch.arange(20)], torch.eye(d_in)
    torch.testing.assert_close(raw, clean_raw)
    torch.testing.assert_close(found["sae"].shifts(choices, weight), clean["sae"].shifts(choices, weight))


def test_saebenchs_protocol_leaks_what_zeros_are_encoded_to(bench: PlantedBench, d_in: int) -> None:
    sae = random_sae(d_in)
    for context in reading(bench, "saebench").contexts({"sae": sae}):
        codes = context.codes["sae"]
        assert context.batch.acts.shape[1] == 16 and not context.batch.acts[~context.seen].any()
        zeros = sae.encode(torch.zeros(1, 1, d_in)).dense()[0, 0]
        leak = zeros * ((~context.seen).sum(1) / context.seen.sum(1)).unsqueeze(1)
        torch.testing.assert_close(context.removable(codes), context.pooled(codes) + leak)
        assert leak.abs().max() > 0.1


def test_probes_fitted_together_are_those_fitted_alone_by_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(60, 6, generator=generator)
    positive = torch.stack([acts[:, 0] > 0, acts[:, 1] + acts[:, 2] > 0])
    rows = torch.stack([torch.arange(40), torch.arange(20, 60)])
    options = AblationOptions(probe_epochs=6, probe_lr=0.05)
    examples = Examples(acts, rows, torch.stack([positive[i][rows[i]] for i in range(2)]))
    judge = Judge(acts, positive, torch.full((2, 60), 1 / 60).double())
    found = fit_probes(examples, judge, options, [torch.Generator().manual_seed(i) for i in range(2)])
    for i in range(2):
        alone = _by_torch(acts[rows[i]], examples.positive[i], acts, positive[i], options, i)
        torch.testing.assert_close(found.weight[i], alone.weight[0])
        torch.testing.assert_close(found.bias[i], alone.bias[0])


def _by_torch(acts, positive, judged, labels, options: AblationOptions, seed: int) -> Probes:
    generator = torch.Generator().manual_seed(seed)
    probe = torch.nn.Linear(acts.shape[1], 1)
    start = (2 * torch.rand(acts.shape[1] + 1, generator=generator) - 1) / acts.shape[1] ** 0.5
    probe.weight.data, probe.bias.data = start[None, :-1].clone(), start[-1:].clone()
    optimiser = torch.optim.AdamW(probe.parameters(), lr=options.probe_lr)
    best, kept = -1.0, None
    for _ in range(options.probe_epochs):
        for some in torch.randperm(len(acts), generator=generator).split(options.probe_batch):
            logits = probe(acts[some]).squeeze(1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, positive[some].float())
            optimiser.zero_grad()
            (loss + options.probe_l1 * probe.weight.abs().sum()).backward()
            optimiser.step()
        accuracy = float(((probe(judged).squeeze(1) > 0) == labels).float().mean())
        if accuracy > best:
            best, kept = accuracy, Probes(probe.weight.detach().clone(), probe.bias.detach().clone())
    assert kept is not None
    return kept


def test_epochs_with_as_many_texts_right_are_judged_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    probes, found = Probes(torch.ones(3, 1), torch.zeros(3)), set()
    for _ in range(40):
        labels = torch.stack([torch.randperm(600, generator=generator) < 498 for _ in range(3)])
        judge = Judge(torch.ones(600, 1), labels, torch.full((3, 600), 1 / 600, dtype=torch.float64))
        found |= set(judge.accuracy(probes).tolist())
    assert len(found) == 1


def test_our_probes_never_see_the_test_texts() -> None:
    tasks = crossed_and_biased(crossed("train", 30), ("red", "north"), 40, torch.Generator())
    acts = torch.randn(len(tasks.texts), 8, generator=torch.Generator().manual_seed(1))

    def fitted(test: torch.Tensor, protocol: str) -> torch.Tensor:
        options = AblationOptions(probe_epochs=4, probe_lr=0.1, protocol=protocol)
        generators = [torch.Generator().manual_seed(i) for i in range(3)]
        return probes_of(acts, tasks, test, tasks, options, generators).weight

    assert torch.equal(fitted(acts, "chronosae"), fitted(-acts, "chronosae"))
    assert not torch.equal(fitted(acts, "saebench"), fitted(-acts, "saebench"))


def test_crossed_texts_hold_all_combinations_and_biased_ones_only_those_that_agree() -> None:
    tasks = crossed_and_biased(crossed("train"), ("red", "south"), 100, torch.Generator())
    assert torch.equal(tasks.weight[FIRST], tasks.weight[SECOND])
    both = tasks.positive[FIRST].long() * 2 + tasks.positive[SECOND].long()
    assert torch.bincount(both[tasks.weight[FIRST] > 0]).tolist() == [25, 25, 25, 25]
    assert torch.bincount(both[tasks.weight[BIASED] > 0], minlength=4).tolist() == [50, 0, 0, 50]
    for i, text in enumerate(tasks.texts):
        assert tasks.positive[:, i].tolist() == ["red" in text, "south" in text, "red" in text and "south" in text]
    torch.testing.assert_close(tasks.weight.sum(1), torch.ones(3).double())


def test_negatives_come_evenly_from_the_other_classes() -> None:
    tasks = one_vs_rest(animals("train"), ANIMALS, 80, torch.Generator())
    everything = torch.ones(len(tasks.texts), dtype=torch.bool)
    n = tasks.fit_size(everything)
    rows, positive = tasks.fit_rows(1, everything, n, torch.Generator().manual_seed(0))
    words = [tasks.texts[row].split()[2] for row in rows]
    assert {word: words.count(word) for word in ANIMALS} == dict.fromkeys(ANIMALS, 10) | {"dog": 40}
    assert [word == "dog" for word in words] == positive.tolist()


def held_out_and_fitted(tasks: Tasks) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    held = tasks.held_out()
    n = tasks.fit_size(~held)
    return held, [tasks.fit_rows(task, ~held, n, torch.Generator()) for task in range(len(tasks))]


@given(each=st.integers(20, 80), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_probes_have_as_many_examples_each_whatever_the_size_of_the_data(each: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for tasks in (
        crossed_and_biased(crossed("train", each), ("red", "north"), 4000, g),
        one_vs_rest(animals("train", each), ANIMALS, 4000, g),
    ):
        held, drawn = held_out_and_fitted(tasks)
        assert int(held.sum()) == pytest.approx(len(held) / 5, abs=4)
        assert len({len(rows) for rows, _ in drawn}) == 1
        for rows, positive in drawn:
            assert len(rows) == len(set(rows.tolist())) == 2 * int(positive.sum()) and not held[rows].any()


@pytest.mark.parametrize("each", range(26, 31))
def test_scr_runs_on_any_number_of_texts(bench: PlantedBench, d_in: int, each: int) -> None:
    LABELLED.register("planted/few", lambda part: crossed(part, each))
    options = Scr(data=["planted/few"], **{**FAST, "probe_seeds": 1, "probe_epochs": 1})
    assert options.run(bench, {"oracle": oracle(d_in)})["oracle"].metrics


def test_texts_of_a_group_are_fitted_or_held_out_together() -> None:
    data = crossed("train")
    by_four = replace(data, groups=tuple(str(i // 4) for i in range(len(data))))  # one of each combination
    by_stratum = replace(data, groups=tuple(f"{a}{b}" for a, b in zip(data.labels, data.second or (), strict=True)))
    tasks = crossed_and_biased(by_four, ("red", "north"), 4000, torch.Generator())
    held, drawn = held_out_and_fitted(tasks)
    assert int(held.sum()) == pytest.approx(len(held) / 5, rel=0.3)
    for rows, _ in drawn:
        assert not set(tasks.groups[rows].tolist()) & set(tasks.groups[held].tolist())
    held, _ = held_out_and_fitted(crossed_and_biased(by_stratum, ("red", "north"), 4000, torch.Generator()))
    assert 0 < int(held.sum()) < len(held)


def test_only_features_with_an_effect_are_chosen() -> None:
    effects = torch.tensor([0.0, 3.0, -1.0, 0.0, 2.0, -5.0])
    assert choose(effects, 5, "chronosae").tolist() == [1, 4]
    assert len(choose(effects, 5, "saebench")) == 4
    assert not len(choose(torch.zeros(4), 2, "saebench"))


@pytest.mark.parametrize("protocol", ["chronosae", "saebench"])
def test_effects_that_are_no_numbers_are_no_effects(protocol: str) -> None:
    effects = torch.tensor([torch.nan, 3.0, torch.inf, 2.0, torch.nan])
    assert choose(effects, 5, protocol).tolist() == [1, 3]
    assert (
        choose(effects.index_fill(0, torch.tensor(3), -2.0), 5, protocol).tolist()
        == [1, 3][: 1 + (protocol == "saebench")]
    )
    assert not len(choose(torch.full((4,), torch.nan), 2, protocol))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (LabelledTexts("d", ("a",) * 4, tuple("abab")), "second_label"),
        (LabelledTexts("d", ("a",) * 4, tuple("abca"), second=tuple("xyxy")), "two values of the label, there are 3"),
        (LabelledTexts("d", ("a",) * 4, tuple("abab"), second=tuple("xxyy")), "10 texts or more"),
    ],
)
def test_data_that_scr_cannot_use_are_one_clear_line(data: LabelledTexts, says: str) -> None:
    with pytest.raises(UserError, match=says):
        crossed_and_biased(data, ("a", "x"), 100, torch.Generator())


def test_preflight_lists_all_data_that_are_missing() -> None:
    setting = Setting("world", None)
    missing = Scr(data=["planted/crossed", "no/such", "nor/this"]).preflight(setting)
    assert [one.what.split()[-1] for one in missing] == ["no/such", "nor/this"]
    assert "evals.scr.data" in missing[0].how


@pytest.mark.parametrize("pair", PAIRS)
def test_the_worlds_pairs_are_crossed_and_start_with_the_positive_labels(pair: str) -> None:
    train, test = (paired_texts(pair, part, per_quadrant=3) for part in ("train", "test"))
    assert train.second is not None and not set(train.texts) & set(test.texts)
    assert (train.labels[0], train.second[0]) == (PAIRS[pair].firsts[0], PAIRS[pair].seconds[0])
    combinations = list(zip(train.labels, train.second, strict=True))
    assert len(set(combinations)) == 4 and all(combinations.count(one) == 3 for one in combinations)


def test_spurious_labels_are_read_from_local_files(bench: PlantedBench, d_in: int, tmp_path: Path) -> None:
    for part in ("train", "test"):
        data = crossed(part)
        rows = zip(data.texts, data.labels, data.second or (), strict=True)
        lines = [json.dumps({"text": t, "label": a, "second_label": b}) for t, a, b in rows]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    options = Scr(data=[str(tmp_path)], **FAST)
    result = options.run(bench, {"oracle": oracle(d_in)})["oracle"]
    assert result.metrics["scr_metrics"]["scr_metric_threshold_2"] > 0.7


def test_saebenchs_pairs_are_read_from_a_local_copy(tmp_path: Path) -> None:
    for part in ("train", "test"):
        rows = [
            {"hard_text": f"{part} {p} {g} {i}", "profession": p, "gender": g}
            for i in range(3)
            for p in (13, 21, 5)
            for g in (0, 1)
        ]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = read_pair(str(tmp_path), TABLES[BIOS], ("professor", "nurse"), "test")
    assert len(data) == 12 and data.second is not None
    assert (data.texts[0], data.labels[0], data.second[0]) == ("test 21 0 0", "professor", "male")
    assert data.classes == ("nurse", "professor")
    with pytest.raises(UserError, match="surgeon male"):
        read_pair(str(tmp_path), TABLES[BIOS], ("surgeon", "psychologist"), "test")
    with pytest.raises(UserError, match="has no column text, category, rating"):
        read_pair(str(tmp_path), TABLES[AMAZON], ("Books", "CDs_and_Vinyl"), "test")


def test_an_unreachable_hub_is_one_line_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (classes,) = Tpp(data=[f"{BIOS}_class_set1"]).preflight(Setting("world", None))
    assert "switched off" in classes.why
    wanted = [pair_name(BIOS, pair) for pair in TABLES[BIOS].pairs]
    missing = Scr(data=wanted).preflight(Setting("world", None))
    assert len(missing) == 4 and all("hub" in one.line().lower() and "\n" not in one.line() for one in missing)


def test_preflight_reads_whether_local_texts_have_two_labels(tmp_path: Path) -> None:
    for part in ("train", "test"):
        rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = Scr(data=[str(tmp_path)])
    (missing,) = options.preflight(Setting("world", None))
    assert "second_label" in missing.line() and "--set evals.scr.data=" in missing.line()
    assert Tpp(data=[str(tmp_path)]).preflight(Setting("world", None)) == []
