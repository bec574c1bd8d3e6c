"""Running freely, our SCR and TPP in SAEBench's protocol lie within SAEBench 0.6.0's own range of five seeds.

SAEBench's side is its whole procedure, `run_eval_single_sae`: it reads a data set (ours, in place of the hub's), draws
and tokenizes texts, fits probes, chooses features, zeroes them. Ours is `Evaluation.run`, with splits and probes of its
own. Both see the embedded subject's activations and one dictionary without context, half of it planted.

What is compared. A single seed leaves the range of five others of the same distribution in one case of three, so ours
is the mean of ten seeds. SAEBench's SCR takes the first texts of a file, whatever its seed, and we draw them: for its
range to be one over texts too, each of its seeds gets the file's rows in another order.
"""

import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch

pytest.importorskip("sae_bench", reason="needs SAEBench (tests/parity/requirements.txt)")
sys.path.insert(0, str(Path(__file__).parent))

from sae_bench.evals.scr_and_tpp import dataset_creation
from sae_bench.evals.scr_and_tpp import main as saebench
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.sae_bench_utils import dataset_info, dataset_utils
from test_parity_scr_tpp import Adapted

from chronosae.autoencoders import Autoencoder
from chronosae.config import SubjectConfig
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.evals.probes import pool_dense
from chronosae.evals.scr_tpp import Scr, Tpp, measure
from chronosae.evals.workbench import Workbench
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder
from chronosae.world.probing import probing_texts

SITE, CONTEXT, WIDTH, NS, SEEDS = "blocks.1.hook_resid_post", 80, 64, [2, 10], range(5)
OURS = range(10)
"""Our mean must be known better than the range of five."""
HUB = "LabHC/bias_in_bios_class_set1"
"""The name under which SAEBench asks for the data; ours have the same columns."""
FIRST, SECOND, EACH = ("history", "computing"), ("geography", "pathogens"), 301
"""SCR's texts: a little about one of the first, then more about one of the second; as many of all combinations.

The more the second says, the more a biased probe leans on it: there is then something to remove.
"""
PER_CLASS = 200
SIZES = {"scr": {"train_size": 600, "test_size": 600}, "tpp": {"train_size": 200, "test_size": 300}}

HEADLINES = {"scr": "scr_metric_threshold_10", "tpp": "tpp_threshold_10_total_metric"}
"""Among what SAEBench's schemas mark to be shown by default."""

Scores = list[dict[str, float | None]]


def piece(text: str, number: int, length: int) -> str:
    """From somewhere in the text, of half to one and a half times the length."""
    start = 37 * number % 80
    return text[start : start + length // 2 + 53 * number % length]


@cache
def subjects(part: str, n: int) -> dict[str, list[str]]:
    found = probing_texts("subject", part, n)
    return {label: [item.text for item in found if item.label == label] for label in sorted({i.label for i in found})}


@cache
def crossed(part: str) -> LabelledTexts:
    by, rows = subjects(part, 10 * EACH), []
    for i in range(EACH):
        for a, one in enumerate(FIRST):
            for b, other in enumerate(SECOND):
                halves = piece(by[one][2 * i + b], i, 70), piece(by[other][2 * i + a], i + 7, 160)
                rows.append(("\n".join(halves), one, other))
    texts, firsts, seconds = zip(*rows, strict=True)
    return LabelledTexts("crossed", texts, firsts, second=seconds)


@cache
def classes(part: str) -> LabelledTexts:
    by = subjects(part, 5 * PER_CLASS)
    rows = [(piece(by[label][i], i, 120), label) for i in range(PER_CLASS) for label in by]
    texts, labels = zip(*rows, strict=True)
    return LabelledTexts("classes", texts, labels)


DATA = {"scr": crossed, "tpp": classes}


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")


@pytest.fixture(scope="module")
def saes(subject: Subject) -> dict[str, Autoencoder]:
    return {name: dictionary(Workbench(subject, SITE), data("train")) for name, data in DATA.items()}


def dictionary(bench: Workbench, data: LabelledTexts) -> Autoencoder:
    """Each feature fires on a fifth of all tokens; a few point to a label, more or less, the others to some token."""
    rows = bench.read(data.texts, CONTEXT)
    pooled, tokens = torch.zeros(len(rows), bench.subject.info.d_model), []
    for part in bench.batches(rows, "parity"):
        pooled[part.index] = pool_dense(part.batch.acts, part.batch.mask, "mean")
        tokens.append(part.batch.acts[part.batch.mask][::4])
    centred = torch.cat(tokens)
    mean = centred.mean(0)
    centred = centred - mean
    found = centred[torch.randperm(len(centred), generator=torch.Generator().manual_seed(5))[:WIDTH]]
    directions = torch.nn.functional.normalize(found, dim=1)
    labels = [list(labels) for labels in (data.labels, data.second) if labels is not None]
    values = [torch.tensor([one == value for one in some]) for some in labels for value in sorted(set(some))]
    for number in range(4 * len(values)):
        has = values[number % len(values)]
        label = torch.nn.functional.normalize(pooled[has].mean(0) - pooled[~has].mean(0), dim=0)
        blur = 0.5 + 0.5 * (number // len(values))
        directions[number] = torch.nn.functional.normalize(label + blur * directions[number], dim=0)
    sae = build("relu_l1", d_in=len(mean), d_sae=WIDTH)
    with torch.no_grad():
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
        sae.b_dec.copy_(mean)
        sae.b_enc.copy_(-(centred[:20000] @ directions.T).quantile(0.8, dim=0))
    return sae


class TheirModel:
    """What SAEBench calls of a HookedTransformer; each text is run once for all seeds."""

    def __init__(self, subject: Subject) -> None:
        self.tokenizer, self._subject = subject.tokenizer, subject
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def run_with_hooks(self, tokens: torch.Tensor, stop_at_layer: int, fwd_hooks: list[tuple[str, Any]]) -> None:
        ((site, hook),) = fwd_hooks
        assert site == SITE and stop_at_layer == 2
        keys = [tuple(row) for row in tokens.tolist()]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            acts = self._subject.activations(tokens[new], [SITE])[SITE].float()
            self._known |= dict(zip([keys[i] for i in new], acts, strict=True))
        hook(torch.stack([self._known[key] for key in keys]), None)


def as_hub_rows(data: LabelledTexts) -> list[dict[str, str | int]]:
    """Columns as in bias in bios: SCR's classes are a professor and a nurse, TPP's have our names."""
    if data.second is None:  # TPP wants as many of both genders in each class
        return [{"hard_text": t, "profession": a, "gender": i // 5 % 2} for i, (t, a) in enumerate(labelled(data))]
    return [
        {"hard_text": text, "profession": (21, 13)[FIRST.index(a)], "gender": SECOND.index(b)}
        for (text, a), b in zip(labelled(data), data.second, strict=True)
    ]


def labelled(data: LabelledTexts) -> list[tuple[str, str]]:
    return list(zip(data.texts, data.labels, strict=True))


@pytest.fixture(scope="module")
def theirs(subject: Subject, saes: dict[str, Autoencoder], tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """SAEBench's own metrics, one dictionary a seed."""
    model: Any = TheirModel(subject)

    @cache
    def run(name: str) -> Scores:
        with pytest.MonkeyPatch.context() as patch, torch.enable_grad(), torch.random.fork_rng():
            patch.setitem(dataset_info.chosen_classes_per_dataset, HUB, sorted(set(classes("train").labels)))
            return [one(name, seed, patch) for seed in SEEDS]

    def one(name: str, seed: int, patch: pytest.MonkeyPatch) -> dict[str, float | None]:
        rows = {part: as_hub_rows(DATA[name](part)) for part in ("train", "test")}
        rows = {part: random.Random(f"{seed}{part}").sample(some, len(some)) for part, some in rows.items()}
        for module in (dataset_creation, dataset_utils):
            patch.setattr(module, "load_dataset", lambda _: rows)
        config = ScrAndTppEvalConfig(
            random_seed=seed,
            dataset_names=[HUB],
            perform_scr=name == "scr",
            train_set_size=SIZES[name]["train_size"],
            test_set_size=SIZES[name]["test_size"],
            context_length=CONTEXT,
            n_values=NS,
            llm_batch_size=64,
            llm_dtype="float32",
            column1_vals_lookup={HUB: [("professor", "nurse")]},
        )
        sae, folder = Adapted(saes[name]), str(tmp_path_factory.mktemp(name))
        found, _ = saebench.run_eval_single_sae(config, sae, model, "cpu", folder, save_activations=False)
        return {metric: value for metric, value in found.items() if not isinstance(value, dict)}

    return run


def ours(subject: Subject, saes: dict[str, Autoencoder], name: str, seeds: range = OURS) -> Scores:
    LABELLED.register(f"free/{name}", DATA[name])
    evaluation = {"scr": Scr, "tpp": Tpp}[name].model_validate(
        {
            "data": [f"free/{name}"],
            "protocol": "saebench",
            "probe_seeds": 1,
            "context": CONTEXT,
            "ns": NS,
            **SIZES[name],
        }
    )
    results = [evaluation.run(Workbench(subject, SITE, seed=seed), {"sae": saes[name]})["sae"] for seed in seeds]
    return [result.metrics[f"{name}_metrics"] for result in results]


def outside(found: Scores, peer: Scores) -> list[str]:
    """The metrics whose mean over our seeds isn't within the peer's range.

    Seeds that leave a metric undefined stay out: SAEBench has no `scr_metric` where both probes are as good.
    """
    missed = []
    for metric in sorted({metric for one in peer for metric in one}):
        mine, its = ([value for one in some if (value := one.get(metric)) is not None] for some in (found, peer))
        low, high, mean, error = min(its), max(its), fmean(mine), stdev(mine) / len(mine) ** 0.5
        print(f"{metric}: SAEBench {low:.4f} to {high:.4f}, ours {mean:.4f} +- {error:.4f}")
        assert high > low
        if not low <= mean <= high:
            missed.append(metric)
    return missed


@pytest.mark.parametrize("name", ["scr", "tpp"])
def test_our_scores_are_within_the_range_of_five_seeds_of_saebench(
    subject: Subject, saes: dict[str, Autoencoder], theirs: Callable, name: str
) -> None:
    peer, mine = theirs(name), ours(subject, saes, name)
    assert max(map(len, peer)) == 3 * len(NS)
    assert outside(mine, peer) == []


@pytest.mark.parametrize("name", ["scr", "tpp"])
def test_scores_of_features_chosen_wrongly_are_not(
    subject: Subject, saes: dict[str, Autoencoder], theirs: Callable, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "choose", lambda effects, n, _: effects.abs().topk(2 * n).indices[n:])
    missed = outside(ours(subject, saes, name, range(2)), theirs(name))
    assert HEADLINES[name] in missed and len(missed) > len(NS)
