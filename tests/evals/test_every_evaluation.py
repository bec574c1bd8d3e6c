"""What holds for all evaluations alike: whole contexts are encoded, numbers repeat, options and files are sound."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from every_evaluation import ALONE, SITE, SMALL, options, workbench
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.config import SubjectConfig, UserError
from chronosae.evals import EVALUATIONS, Setting
from chronosae.evals.envelope import Provenance, result_envelope
from chronosae.evals.evaluation import EvalResult
from chronosae.presets import build
from chronosae.subject import Subject, inspect_subject
from chronosae.world import model_folder, register, register_evaluation_data


@pytest.fixture(scope="module")
def subject() -> Subject:
    register()
    register_evaluation_data()
    return Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")


@pytest.fixture(scope="module")
def saes(subject: Subject) -> dict[str, Autoencoder]:
    made = {}
    for seed, (name, preset) in enumerate((("chrono", "chrono"), ("topk", "topk"))):
        made[name] = build(preset, d_in=subject.info.d_model, d_sae=48, k=4, seed=seed)
    torch.nn.init.normal_(made["chrono"].kernel.taps, std=0.3, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr]
    return made


BEGIN = 24
"""Rows of a context that tell most contexts apart."""


def digest(row: Tensor) -> bytes:
    return hashlib.sha256(row.detach().float().contiguous().numpy().tobytes()).digest()


class Spy:
    """Notes every whole context that the subject hands out, and everything that autoencoders are asked to encode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: dict[bytes, dict[int, set[bytes]]] = {}
        """How a context begins -> its length -> what it is; shorter ones stand under nothing."""
        self.asked: list[Tensor] = []
        activations, encode, run_with = Subject.activations, Autoencoder.encode, Subject.run_with

        def note(acts: Tensor, real: Tensor) -> None:
            for row in (acts[i, real[i]] for i in range(len(acts))):
                begins = digest(row[:BEGIN]) if len(row) >= BEGIN else b""
                self.given.setdefault(begins, {}).setdefault(len(row), set()).add(digest(row))

        def spied_activations(
            subject: Subject, tokens: Tensor, sites: Any, attention_mask: Any = None, **more: Any
        ) -> Any:
            found = activations(subject, tokens, sites, attention_mask, **more)
            real = torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
            for acts in found.values():
                note(acts, real)
            return found

        def spied_run_with(subject: Subject, tokens: Tensor, edits: Any, attention_mask: Any = None) -> Any:
            real = torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask.bool()

            def watched(edit: Any) -> Any:
                def apply(acts: Tensor) -> Tensor:
                    note(acts, real)
                    return edit(acts)

                return apply

            watching = {site: watched(edit) for site, edit in edits.items()}
            return run_with(subject, tokens, watching, attention_mask)

        def spied_encode(sae: Autoencoder, acts: Tensor, mask: Tensor | None = None, **more: Any) -> Any:
            assert acts.dim() == 3, "positions were flattened"
            self.asked.append(acts)
            return encode(sae, acts, mask, **more)

        monkeypatch.setattr(Subject, "activations", spied_activations)
        monkeypatch.setattr(Subject, "run_with", spied_run_with)
        monkeypatch.setattr(Autoencoder, "encode", spied_encode)

    def whole(self) -> Iterator[bool]:
        """Whether each row that was encoded is one that the subject handed out, padding apart."""
        for acts in self.asked:
            for row in acts:
                found = self.given.get(digest(row[:BEGIN]), {}) | self.given.get(b"", {})
                yield any(digest(row[:n]) in contexts for n, contexts in found.items())


def test_every_evaluation_is_covered() -> None:
    assert {*SMALL, *ALONE} == set(EVALUATIONS)


@pytest.mark.parametrize("name", SMALL)
def test_autoencoders_are_given_whole_contexts_only(
    name: str, subject: Subject, saes: dict[str, Autoencoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    options(name).run(workbench(subject), saes)
    assert spy.asked, "nothing was encoded"
    assert all(spy.whole())


@pytest.mark.parametrize("name", SMALL)
def test_numbers_depend_neither_on_company_nor_on_the_global_random_state(
    name: str, subject: Subject, saes: dict[str, Autoencoder]
) -> None:
    torch.manual_seed(1)
    together = options(name).run(workbench(subject), saes)
    torch.manual_seed(2)
    alone = options(name).run(workbench(subject), {"topk": saes["topk"]})
    assert numbers(together["topk"]) == pytest.approx(numbers(alone["topk"]), rel=1e-6, nan_ok=False)
    assert together["topk"].data_sha256 == alone["topk"].data_sha256


def numbers(result: EvalResult) -> dict[str, float]:
    flat = {name: value for values in result.metrics.values() for name, value in values.items()}
    return {name: value for name, value in flat.items() if value is not None}


@pytest.mark.parametrize("name", SMALL)
def test_results_are_json_without_nan_in_one_envelope(
    name: str, subject: Subject, saes: dict[str, Autoencoder]
) -> None:
    evaluation = options(name)
    result = evaluation.run(workbench(subject), {"topk": saes["topk"]})["topk"]
    provenance = Provenance("world", subject.fingerprint, "float32", "text", "c" * 64, 0, "cpu")
    made = result_envelope(evaluation, "topk", saes["topk"], SITE, result, provenance)
    text = json.dumps(made, allow_nan=False)
    assert made["eval_type_id"] == evaluation.eval_type_id and len(made) == 13
    assert all(math.isfinite(value) for value in numbers(result).values())
    assert "/root" not in text and str(Path.home()) not in text


@pytest.mark.parametrize("name", EVALUATIONS.names())
def test_every_option_is_documented_and_unknown_ones_are_refused(name: str) -> None:
    fields = EVALUATIONS[name].model_fields
    assert all(field.description for field in fields.values())
    with pytest.raises(UserError, match=rf"evals\.{name}\.nonsense"):
        EVALUATIONS[name].read({"nonsense": 1})


@pytest.mark.parametrize("name", SMALL)
def test_the_world_lacks_nothing(name: str, subject: Subject) -> None:
    info = inspect_subject(SubjectConfig(model=str(model_folder())))
    setting = Setting("world", info, "cpu", {"topk": 48})
    assert EVALUATIONS[name]().preflight(setting) == []
