"""Our absorption numbers equal SAEBench 0.6.0's own on the same probes, codes and split features.

SAEBench is no dependency of ours: this runs in a separate environment (`tests/parity/requirements.txt`) with
`JAXTYPING_DISABLE=1` and is skipped everywhere else. SAEBench's own functions get tensors; only its model and its
tokenizer are stood in for.
"""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("sae_bench", reason="needs SAEBench (tests/parity/requirements.txt)")

from pydantic import TypeAdapter
from sae_bench.evals.absorption import k_sparse_probing as saebench_splits
from sae_bench.evals.absorption.eval_output import AbsorptionEvalOutput
from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
from sae_bench.evals.absorption.probing import train_multi_probe
from sae_bench.evals.absorption.prompting import create_icl_prompt, first_letter_formatter
from sae_bench.evals.absorption.vocab import LETTERS

from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.config import SubjectConfig
from chronosae.evals.absorption import Absorption, AbsorptionOptions
from chronosae.evals.absorption.data import codes_at, make_prompts
from chronosae.evals.absorption.measure import absorbed, choose_k, leading_features, project, sparse_probes
from chronosae.evals.absorption.probes import LetterProbe, Training, f1, fit_probe
from chronosae.evals.envelope import Provenance, result_envelope, write_envelope
from chronosae.evals.workbench import Workbench
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder
from chronosae.world.evaluation_data import register

WIDTH, FEATURES, A_LETTER = 40, 96, 14
OPTIONS = AbsorptionOptions(protocol="saebench", max_k=5)
WORDS = [letter + f"{chr(97 + i)}" for letter in LETTERS for i in range(A_LETTER)]


class StubSAE:
    """What SAEBench asks of an SAE: codes of flat activations, a decoder."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        dec = torch.randn(FEATURES, WIDTH, generator=g)
        dec[: len(LETTERS)] += 3 * letter_directions()
        self.W_dec = dec / dec.norm(dim=1, keepdim=True)
        self.W_enc = self.W_dec.T.clone()
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.cfg = SimpleNamespace(d_sae=FEATURES)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.W_enc - 1.5)


def letter_directions() -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(len(LETTERS), WIDTH, generator=torch.Generator().manual_seed(9)), dim=1
    )


def activations(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations of `WORDS`: a letter's direction, noise."""
    letters = torch.arange(len(LETTERS)).repeat_interleave(A_LETTER)
    noise = torch.randn(len(letters), WIDTH, generator=torch.Generator().manual_seed(seed))
    return letters, 4 * letter_directions()[letters] + 0.7 * noise


def sparse(codes: torch.Tensor) -> SparseCodes:
    """Dense codes of single tokens as the evaluation keeps them."""
    sae = build("topk", d_in=WIDTH, d_sae=FEATURES, k=2)
    return codes_at(sae, DenseCodes(codes.unsqueeze(1), None), torch.zeros(len(codes), dtype=torch.long))


class StubModel:
    """Gives the activations of the words in the order in which they are asked."""

    def __init__(self, acts: torch.Tensor) -> None:
        self.acts, self.done = acts, 0

    def to_tokens(self, _text: str) -> torch.Tensor:
        return torch.zeros(1, 3)

    def run_with_cache(self, prompts: list[str], names_filter: list[str]) -> tuple[None, dict[str, torch.Tensor]]:
        part = self.acts[self.done : self.done + len(prompts)]
        self.done += len(prompts)
        return None, {names_filter[0]: part.unsqueeze(1)}


def their_absorption(
    sae: StubSAE, acts: torch.Tensor, words: list[str], direction: torch.Tensor, split: list[int]
) -> tuple[list[float], list[bool]]:
    calculator: Any = FeatureAbsorptionCalculator(
        model=StubModel(acts),  # pyright: ignore[reportArgumentType]
        icl_word_list=WORDS,
        max_icl_examples=2,
        word_token_pos=0,
    )
    found = calculator.calculate_absorption(sae, words, direction, split, layer=0, show_progress=False)
    return [w.absorption_fraction for w in found.word_results], [w.is_full_absorption for w in found.word_results]


def test_absorption_equals_the_calculator_of_saebench() -> None:
    random.seed(0)
    kinds = {kind for seed in range(3) for kind in agreed(seed)}
    # Every branch was taken: none, partial, whole; full and not.
    assert kinds == {"none", "partial", "whole", True, False}


def agreed(seed: int) -> set[str | bool]:
    """The kinds of words on which both agree; fails where they don't."""
    sae = StubSAE(seed)
    letters, acts = activations(10 + seed)
    # Directions near the letters' own and less so; leading features that stand for the letter and others.
    g = torch.Generator().manual_seed(seed)
    directions = letter_directions() * 2 + 0.2 * seed * torch.randn(len(LETTERS), WIDTH, generator=g)
    ranked = torch.randint(FEATURES, (len(LETTERS), 5), generator=g)
    ranked[::3, 0] = torch.arange(len(LETTERS))[::3]
    codes = sparse(sae.encode(acts))
    along = project(codes, letters, acts, directions.T, sae.W_dec, None)
    ours = absorbed(codes, along, ranked[letters], OPTIONS)
    kinds: set[str | bool] = set()
    for k in (1, 2, 5):
        for letter in range(len(LETTERS)):
            own = letters == letter
            words = [word for word, mine in zip(WORDS, own.tolist(), strict=True) if mine]
            fraction, full = their_absorption(sae, acts[own], words, directions[letter], ranked[letter, :k].tolist())
            np.testing.assert_allclose(ours.fraction[own, k - 1].numpy(), fraction, atol=1e-3)
            assert ours.full[own, k - 1].tolist() == full
            kinds |= {"none" if x == 0 else "whole" if x == 1 else "partial" for x in fraction} | set(full)
    return kinds


def test_split_features_equal_those_of_saebench_on_the_same_probe_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = StubSAE(0)
    letters, acts = activations(0)
    asked, test_acts = activations(1)
    train, test = sae.encode(acts), sae.encode(test_acts)
    how = Training(epochs=50, batch=4096, l1=0.01, l2=1e-6)
    probe = fit_probe(sparse(train), letters, len(LETTERS), how, torch.Generator().manual_seed(0))
    given = SimpleNamespace(weights=probe.weight.T)
    monkeypatch.setattr(
        saebench_splits,
        "train_sparse_multi_probe",
        lambda *_a, **_k: SimpleNamespace(float=lambda: SimpleNamespace(cpu=lambda: given)),
    )
    stub: Any = sae
    labels = [(word, int(letter)) for word, letter in zip(WORDS, letters.tolist(), strict=True)]
    probes = saebench_splits.train_k_sparse_probes(stub, labels, acts, ks=range(1, 6))
    theirs = {}
    rows = pd.DataFrame({"letter": list(LETTERS)})
    for k in range(1, 6):
        says = torch.stack([probes[k][i](test) > 0 for i in range(len(LETTERS))], 1)
        theirs[k] = f1(says, torch.nn.functional.one_hot(asked).bool())
        rows[f"f1_sparse_sae_{k}"] = theirs[k].numpy()
        rows[f"sparse_sae_k_{k}_feats"] = [probes[k][i].feature_ids.numpy() for i in range(len(LETTERS))]
    saebench_splits.add_feature_splits_to_metrics_df(rows, max_k_value=5, f1_jump_threshold=0.03)

    features = leading_features(probe.weight, 5)
    ours = sparse_probes(features, sparse(train), letters, sparse(test))
    scores = f1(ours.says, torch.nn.functional.one_hot(asked).bool().unsqueeze(2).expand_as(ours.says))
    for k in range(1, 6):
        torch.testing.assert_close(scores[:, k - 1], theirs[k])
    chosen = choose_k(scores, 0.03)
    assert [features[i, :k].tolist() for i, k in enumerate(chosen.tolist())] == [list(x) for x in rows["split_feats"]]
    assert len(set(chosen.tolist())) > 1


def test_probes_trained_freely_are_within_the_range_of_five_seeds_of_saebench() -> None:
    letters, acts = activations(0)
    asked, test_acts = activations(1)
    y, true = torch.nn.functional.one_hot(letters), torch.nn.functional.one_hot(asked).bool()
    sae = StubSAE(0)

    def scores(probe: LetterProbe, sparse_probe: LetterProbe) -> tuple[float, float]:
        probe_f1 = float(f1(probe.logits(test_acts) > 0, true).mean())
        features = leading_features(sparse_probe.weight, 3)
        says = sparse_probes(features, sparse(sae.encode(acts)), letters, sparse(sae.encode(test_acts))).says
        return probe_f1, float(f1(says, true.unsqueeze(2).expand_as(says)).mean())

    def theirs(seed: int) -> tuple[float, float]:
        torch.manual_seed(seed)
        args = {"device": torch.device("cpu"), "show_progress": False, "num_epochs": 50}
        dense = train_multi_probe(acts, y, weight_decay=1e-4, **args)
        codes = saebench_splits.train_sparse_multi_probe(sae.encode(acts), y, **args)
        return scores(*(LetterProbe(p.weights.detach().T, p.biases.detach()) for p in (dense, codes)))

    def ours(seed: int) -> tuple[float, float]:
        g = torch.Generator().manual_seed(seed)
        dense = fit_probe(acts, letters, len(LETTERS), Training(50, 4096, l2=1e-4, random_start=True), g)
        how = Training(50, 4096, l1=0.01, l2=1e-6, random_start=True)
        return scores(dense, fit_probe(sparse(sae.encode(acts)), letters, len(LETTERS), how, g))

    peer, mine = (np.array([run(seed) for seed in range(5)]) for run in (theirs, ours))
    room = 0.01  # the two ranges are of five draws each
    assert (mine.mean(0) >= peer.min(0) - room).all() and (mine.mean(0) <= peer.max(0) + room).all()


def test_prompts_are_built_as_saebench_builds_them() -> None:
    options = AbsorptionOptions(examples=3)
    pool = ["stone", "apple", "velvet", "marble"]
    (prompt,) = make_prompts(["marble"], pool, options, random.Random(0))
    examples = [line.split(" ")[0] for line in prompt.text.strip().split("\n")[:-1]]
    theirs = create_icl_prompt(
        "marble",
        examples,
        base_template=options.template,
        answer_formatter=first_letter_formatter(),
        shuffle_examples=False,
        prepend_separator_to_first_example=True,
    )
    assert prompt.text == theirs.base


def test_our_file_is_read_by_saebench(tmp_path: Path) -> None:
    register()
    subject = Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")
    bench = Workbench(subject, "blocks.2.hook_resid_post")
    saes = {"topk": build("topk", d_in=subject.info.d_model, d_sae=64, k=8)}
    evaluation = Absorption(train_words=72, test_words=48, examples=1, min_letters=5, probe_steps=60, max_k=2)
    where = Provenance("world", "f", "float32", "world", "c", 0, "cpu")
    result = evaluation.run(bench, saes)["topk"]
    write_envelope(result_envelope(evaluation, "topk", saes["topk"], bench.site, result, where), tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    read = TypeAdapter(AbsorptionEvalOutput).validate_python({k: v for k, v in found.items() if k != "chronosae"})
    assert read.eval_result_details and found["eval_type_id"] == "absorption_first_letter"
