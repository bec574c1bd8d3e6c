"""Fed SAEBench 0.6.0's probes and splits, our effects, chosen features and scores equal those of its own functions.

SAEBench is no dependency of ours: this runs in a separate environment (`tests/parity/requirements.txt`) with
`JAXTYPING_DISABLE=1` and is skipped everywhere else.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("sae_bench", reason="needs SAEBench (tests/parity/requirements.txt)")
sys.path.insert(0, str(Path(__file__).parents[1] / "evals"))

from pydantic import TypeAdapter
from sae_bench.custom_saes.base_sae import BaseSAE
from sae_bench.evals.scr_and_tpp import main as saebench
from sae_bench.evals.scr_and_tpp.eval_output import ScrEvalOutput, TppEvalOutput
from sae_bench.evals.sparse_probing import probe_training
from sae_bench.sae_bench_utils import activation_collection, dataset_info
from scr_tpp_planted import ANIMALS, PlantedBench, animals, crossed, random_sae

from chronosae.autoencoders import Autoencoder
from chronosae.config import SubjectConfig
from chronosae.evals.data import LABELLED
from chronosae.evals.envelope import Provenance, result_envelope
from chronosae.evals.scr_tpp import Scr, Tpp
from chronosae.evals.scr_tpp.data import Reading, Tasks, crossed_and_biased, one_vs_rest
from chronosae.evals.scr_tpp.measure import (
    Attribution,
    Logits,
    Probes,
    ablated_logits,
    ablations,
    choose,
    contrasts,
    effects_either_way,
    effects_for_class,
)
from chronosae.evals.scr_tpp.report import scr_scores, tpp_scores
from chronosae.subject import Subject
from chronosae.world import model_folder

CONTEXT, NS = 16, [2, 5, 10, 20]
KEYS = ("professor / nurse", "male / female", "male_professor / female_nurse")
"""SAEBench's names of our three tasks, in our order."""


class Adapted(BaseSAE):
    """Our autoencoder under SAEBench's contract: dense codes, no mask."""

    def __init__(self, sae: Autoencoder) -> None:
        super().__init__(sae.d_in, sae.d_sae, "tiny", 1, torch.device("cpu"), torch.float32, "blocks.1.hook_resid_post")
        self.inner = sae
        self.W_dec.data = sae.W_dec.data

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.encode(x).dense()

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return feature_acts @ self.inner.W_dec + self.inner.b_dec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


@pytest.fixture(scope="module")
def bench() -> PlantedBench:
    subject = Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")
    return PlantedBench(subject, "blocks.1.hook_resid_post")


@pytest.fixture(autouse=True)
def first_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAEBench draws negatives anew each time it looks at them; both sides take the first instead."""
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))


def zeroed(bench: PlantedBench, tasks: Tasks) -> torch.Tensor:
    """Activations as SAEBench keeps them: zeros at special tokens and padding, up to the context."""
    rows = bench.read(tasks.texts, CONTEXT)
    found = torch.zeros(len(rows), CONTEXT, bench.subject.info.d_model)
    for part in bench.batches(rows, "test"):
        acts = part.batch.acts * part.batch.mask.unsqueeze(-1)
        found[part.index, : acts.shape[1]] = acts
    return found


def by_key(tasks: Tasks, acts: torch.Tensor) -> dict[str, torch.Tensor]:
    """Our SCR tasks as SAEBench's six lists of activations."""
    found = {}
    for i, key in enumerate(KEYS):
        member = tasks.weight[i] > 0
        found[key] = acts[member & tasks.positive[i]]
        found[dataset_info.PAIRED_CLASS_KEYS[key]] = acts[member & ~tasks.positive[i]]
    return found


def their_probes(train: dict[str, torch.Tensor], test: dict[str, torch.Tensor], perform_scr: bool) -> dict:
    means = [activation_collection.create_meaned_model_activations(acts) for acts in (train, test)]
    torch.manual_seed(0)
    probes, _ = probe_training.train_probe_on_activations(
        *means, use_sklearn=False, epochs=6, lr=0.02, perform_scr=perform_scr, l1_penalty=1e-3
    )
    torch.set_grad_enabled(False)
    return probes


def ours(
    bench: PlantedBench, sae: Autoencoder, train: Tasks, test: Tasks, probes: Probes, attribute: Attribution
) -> tuple[torch.Tensor, Logits]:
    readings = [Reading(bench, bench.read(t.texts, CONTEXT), "saebench", CONTEXT, "test") for t in (train, test)]
    _, contrast = contrasts(readings[0], {"sae": sae}, train.contrast)
    acts, ablation = ablations(readings[1], {"sae": sae})
    effects = attribute(contrast["sae"], probes.weight, sae.W_dec.detach())
    return effects, ablated_logits(probes, acts, effects, ablation["sae"], NS, "saebench")


def as_ours(probes: dict, names: tuple[str, ...]) -> Probes:
    weights = torch.cat([probes[name].net.weight.detach() for name in names])
    return Probes(weights, torch.cat([probes[name].net.bias.detach() for name in names]))


def same_features(effects: torch.Tensor, theirs: dict[str, torch.Tensor], names: tuple[str, ...]) -> None:
    for effect, name in zip(effects, names, strict=True):
        torch.testing.assert_close(effect, theirs[name], rtol=1e-3, atol=1e-5)
        for n in NS:
            mask = saebench.select_top_n_features(theirs[name], n, name)
            assert sorted(choose(effect, n, "saebench").tolist()) == mask.nonzero().squeeze(1).tolist()


def test_scr_equals_saebenchs(bench: PlantedBench) -> None:
    sae = random_sae(bench.subject.info.d_model)
    train, test = (
        crossed_and_biased(crossed(part), ("red", "north"), 120, torch.Generator()) for part in ("train", "test")
    )
    train_acts, test_acts = by_key(train, zeroed(bench, train)), by_key(test, zeroed(bench, test))
    probes = their_probes(train_acts, test_acts, perform_scr=True)
    adapted = Adapted(sae)
    classes = list(dataset_info.PAIRED_CLASS_KEYS)
    effects = saebench.get_all_node_effects_for_one_sae(adapted, probes, classes, True, train_acts, 25)
    ablated = saebench.perform_feature_ablations(
        probes, adapted, 25, test_acts, effects, NS, classes, 500, perform_scr=True
    )
    means = activation_collection.create_meaned_model_activations(test_acts)
    clean = saebench.get_probe_test_accuracy(probes, classes, means, 500, perform_scr=True)
    expected = saebench.get_scr_plotting_dict(ablated, clean)

    found, logits = ours(bench, sae, train, test, as_ours(probes, KEYS), effects_either_way)
    same_features(found, effects, KEYS)
    counts = torch.ones(1, len(test.texts), dtype=torch.float64)
    for n in NS:
        scores = scr_scores(test, logits, n, counts, "saebench")
        for name, value in zip(("dir1", "dir2", "metric"), scores, strict=True):
            assert float(value) == pytest.approx(expected[f"scr_{name}_threshold_{n}"], abs=1e-3)
    assert any(abs(value) > 0.02 for value in expected.values())


def test_tpp_equals_saebenchs(bench: PlantedBench) -> None:
    sae = random_sae(bench.subject.info.d_model)
    train, test = (first_negatives(one_vs_rest(animals(p), ANIMALS, 80, torch.Generator())) for p in ("train", "test"))
    train_acts, test_acts = (
        {name: acts[tasks.strata == i] for i, name in enumerate(ANIMALS)}
        for tasks, acts in ((train, zeroed(bench, train)), (test, zeroed(bench, test)))
    )
    probes = their_probes(train_acts, test_acts, perform_scr=False)
    adapted, classes = Adapted(sae), list(ANIMALS)
    effects = saebench.get_all_node_effects_for_one_sae(adapted, probes, classes, False, train_acts, 25)
    ablated = saebench.perform_feature_ablations(
        probes, adapted, 25, test_acts, effects, NS, classes, 500, perform_scr=False
    )
    means = activation_collection.create_meaned_model_activations(test_acts)
    clean = saebench.get_probe_test_accuracy(probes, classes, means, 500, perform_scr=False)
    expected, _ = saebench.create_tpp_plotting_dict(ablated, clean)

    found, logits = ours(bench, sae, train, test, as_ours(probes, ANIMALS), effects_for_class)
    counts = torch.ones(1, len(test.texts), dtype=torch.float64)
    same_features(found, effects, ANIMALS)
    for n in NS:
        intended, unintended = (part.mean(1) for part in tpp_scores(test, logits, n, counts))
        name = f"tpp_threshold_{n}"
        assert float(intended) == pytest.approx(expected[f"{name}_intended_diff_only"], abs=1e-3)
        assert float(unintended) == pytest.approx(expected[f"{name}_unintended_diff_only"], abs=1e-3)
        assert float(intended - unintended) == pytest.approx(expected[f"{name}_total_metric"], abs=1e-3)
    assert any(abs(value) > 0.02 for value in expected.values())


def first_negatives(tasks: Tasks) -> Tasks:
    """The same tasks with SAEBench's split: the first texts of each other class, as many as positive ones."""
    weight = torch.zeros_like(tasks.weight)
    each = -(-40 // (len(tasks) - 1))
    for i in range(len(tasks)):
        others = (~tasks.positive[i] & (tasks.turn < each)).nonzero().squeeze(1)[:40]
        weight[i, others] = weight[i, tasks.positive[i].nonzero().squeeze(1)] = 1 / 80
    return replace(tasks, weight=weight)


def test_saebenchs_readers_take_our_files(bench: PlantedBench) -> None:
    LABELLED.register("planted/crossed", crossed)
    LABELLED.register("planted/animals", animals)
    sae = random_sae(bench.subject.info.d_model)
    provenance = Provenance("world", "0", "float32", "planted", "0", 0, "cpu")
    fast = {"train_size": 80, "test_size": 80, "probe_epochs": 2, "probe_seeds": 1, "context": CONTEXT}
    for evaluation, schema in (
        (Scr(data=["planted/crossed"], **fast), ScrEvalOutput),
        (Tpp(data=["planted/animals"], **fast), TppEvalOutput),
    ):
        result = evaluation.run(bench, {"sae": sae})["sae"]
        written = result_envelope(evaluation, "sae", sae, bench.site, result, provenance)
        TypeAdapter(schema).validate_python({k: v for k, v in written.items() if k != "chronosae"})
