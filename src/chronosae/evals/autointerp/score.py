"""Scores of latents, and what they come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from chronosae.evals.autointerp.examples import Example, Examples
from chronosae.evals.autointerp.judge import Verdict
from chronosae.evals.bootstrap import Interval, bootstrap


@dataclass(frozen=True)
class Scored:
    """One latent that was asked about. Scores are None where the answer can't be used."""

    latent: int
    fires_on: int
    """Tokens on which it fires."""
    examples: Examples
    verdict: Verdict

    @property
    def score(self) -> float | None:
        """Share of the examples that the model judged right."""
        return self._right([example.active for example in self.examples.to_judge])

    @property
    def score_saebench(self) -> float | None:
        """The same where every random example counts as inactive, unlooked at."""
        return self._right([example.active and not example.random for example in self.examples.to_judge])

    @property
    def balanced(self) -> float | None:
        """Mean of the shares judged right among active and among inactive examples; None where a kind is missing."""
        shares = [self._right_among(kind) for kind in (True, False)]
        return None if None in shares else fmean(share for share in shares if share is not None)

    @property
    def none_score(self) -> float:
        """What an answer of "None" to whatever explanation earns."""
        return fmean(not example.active for example in self.examples.to_judge)

    def _predicted(self) -> list[bool] | None:
        predicted = self.verdict.predicted
        return None if predicted is None else [i in predicted for i in range(1, len(self.examples.to_judge) + 1)]

    def _right(self, truth: Sequence[bool]) -> float | None:
        predicted = self._predicted()
        return None if predicted is None else fmean(p == t for p, t in zip(predicted, truth, strict=True))

    def _right_among(self, kind: bool) -> float | None:
        predicted = self._predicted()
        truth = [example.active for example in self.examples.to_judge]
        if predicted is None or kind not in truth:
            return None
        return fmean(p == kind for p, t in zip(predicted, truth, strict=True) if t == kind)


def summarise(scored: Sequence[Scored]) -> dict[str, float | None]:
    """Metrics over latents."""
    scores = _known([one.score for one in scored])
    return {
        "autointerp_score": _mean(scores),
        "autointerp_std_dev": stdev(scores) if len(scores) > 1 else None,
        "autointerp_balanced_accuracy": _mean(_known([one.balanced for one in scored])),
        "autointerp_score_saebench": _mean(_known([one.score_saebench for one in scored])),
        "autointerp_score_unanswered_as_0": _mean([one.score or 0.0 for one in scored]),
        "autointerp_none_score": _mean([one.none_score for one in scored if one.score is not None]),
    }


def intervals(scored: Sequence[Scored], seed: int) -> dict[str, Interval]:
    """95 % intervals over resampled latents."""
    found = {
        "autointerp_score": _known([one.score for one in scored]),
        "autointerp_balanced_accuracy": _known([one.balanced for one in scored]),
        "autointerp_score_saebench": _known([one.score_saebench for one in scored]),
    }
    drawn = {name: _interval(values, seed) for name, values in found.items()}
    return {name: interval for name, interval in drawn.items() if interval is not None}


def _interval(values: Sequence[float], seed: int) -> Interval | None:
    each = torch.tensor(values, dtype=torch.float64)

    def mean(counts: Tensor) -> Tensor:
        return counts @ each / counts.sum(1)

    return bootstrap(mean, len(values), seed)


def details(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """One flat row a latent."""
    return [
        {
            "latent": one.latent,
            "score": one.score,
            "balanced_accuracy": one.balanced,
            "score_saebench": one.score_saebench,
            "fires_on": one.fires_on,
            "max_activation": one.examples.to_explain[0].largest,
            "problem": one.verdict.problem or "",
        }
        for one in scored
    ]


def unstructured(scored: Sequence[Scored], keep_texts: bool) -> dict[str, Any]:
    """SAEBench's record of every latent that has a score."""
    return {str(one.latent): _record(one, keep_texts) for one in scored if one.verdict.predicted is not None}


def _record(one: Scored, keep_texts: bool) -> Mapping[str, Any]:
    assert one.verdict.predicted is not None
    record = {
        "latent": one.latent,
        "explanation": one.verdict.explanation,
        "predictions": sorted(one.verdict.predicted),
        "correct seqs": [i for i, example in enumerate(one.examples.to_judge, start=1) if example.active],
        "score": one.score,
    }
    if keep_texts:
        record["logs"] = _logs(one)
    return record


def _logs(one: Scored) -> str:
    """The examples, for people."""
    predicted = one.verdict.predicted or frozenset()
    lines = ["Explained from:"]
    lines += [f"  {example.largest:9.3f}  {_shown(example)}" for example in one.examples.to_explain]
    lines += [f"Explanation: {one.verdict.explanation}", "Judged on (A: active, P: predicted, r: random):"]
    for i, example in enumerate(one.examples.to_judge, start=1):
        signs = ("A" if example.active else " ") + ("P" if i in predicted else " ") + ("r" if example.random else " ")
        lines.append(f"  {i:2} {signs} {example.largest:9.3f}  {_shown(example)}")
    return "\n".join(lines)


def _shown(example: Example) -> str:
    return example.text.replace("\n", "↵")


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
