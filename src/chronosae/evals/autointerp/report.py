"""The result of one autoencoder: scores of latents and what they come to, in SAEBench's words and ours."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from chronosae.evals.autointerp.data import AutointerpOptions, Contexts
from chronosae.evals.autointerp.examples import Example
from chronosae.evals.autointerp.measure import Measured, Scored
from chronosae.evals.bootstrap import Interval, bootstrap
from chronosae.evals.evaluation import EvalResult
from chronosae.evals.workbench import Workbench

SAME = (
    "override_latents",
    "dead_latent_threshold",
    "buffer",
    "act_threshold_frac",
    "n_top_ex_for_generation",
    "n_iw_sampled_ex_for_generation",
    "n_top_ex_for_scoring",
    "n_random_ex_for_scoring",
    "n_iw_sampled_ex_for_scoring",
)
"""Options that mean what they mean in SAEBench."""


def report(options: AutointerpOptions, bench: Workbench, measured: Measured, name: str) -> EvalResult:
    """Metrics, rows and flags of autoencoder `name`, and the costs of the run (of all its autoencoders together)."""
    contexts, found, scored = measured.contexts, measured.found[name], measured.scored[name]
    estimate, spending = measured.estimate, measured.spending
    problems = Counter(one.verdict.problem for one in scored if one.verdict.problem)
    chosen = len(found.chosen(options))
    block = {
        "latents": {
            "alive": found.alive(options),
            "chosen": chosen,
            "too_few_examples": chosen - len(scored),
            "scored": sum(one.score is not None for one in scored),
            **{f"unanswered_{problem}": n for problem, n in sorted(problems.items())},
        },
        "asked": {
            "base_url": options.base_url,
            "model": options.model,
            "estimate": asdict(estimate) | {"cost": estimate.cost(options)},
            "spent": asdict(spending.spent) | {"cost": spending.spent.cost(options)},
            "kept_answers": spending.kept,
            "refused": spending.refused,
        },
        "tokens": int(contexts.rows.mask.sum()),
        "contexts": len(contexts.rows),
    }
    return EvalResult(
        metrics={"autointerp": summarise(scored)},
        eval_config=_saebench_config(options, bench),
        data_sha256=contexts.rows.sha256(),
        details=tuple(_details(scored)),
        unstructured=_unstructured(scored, options.keep_texts),
        intervals=_intervals(scored, bench.seed),
        resampled="latents",
        flags=_flags(contexts, chosen, scored, problems),
        block=block,
    )


def _flags(contexts: Contexts, chosen: int, scored: Sequence[Scored], problems: Counter[Any]) -> tuple[str, ...]:
    n = len(scored)
    few = chosen - n
    cut = sum(one.verdict.cut for one in scored)
    unscored = chosen > 0 and all(one.score is None for one in scored)
    said = {
        "no_alive_latents": not chosen and "none fires often enough",
        "no_scores": unscored and "see the other flags",
        "few_examples": few and f"{few} of {chosen} latents are active in too few contexts to be asked about",
        "unparsable_replies": problems["unparsable"] and f"{problems['unparsable']} of {n}",
        "no_explanation": problems["no_explanation"] and f"{problems['no_explanation']} of {n}",
        "refused": problems["refused"] and f"{problems['refused']} of {n}",
        "answers_cut": cut and f"{cut} of {n} latents; raise explanation_tokens or answer_tokens",
        "fewer_tokens_than_asked": contexts.short and "the text ran out",
    }
    return tuple(f"{name}: {why}" for name, why in said.items() if why)


def _saebench_config(options: AutointerpOptions, bench: Workbench) -> dict[str, Any]:
    return {
        "model_name": bench.subject.name,
        "random_seed": bench.seed,
        "dataset_name": options.data,
        "llm_context_size": options.context,
        "llm_batch_size": 0,
        "llm_dtype": str(bench.subject.dtype).removeprefix("torch."),
        "no_overlap": True,
        "total_tokens": options.tokens,
        "scoring": True,
        "max_tokens_in_explanation": options.explanation_tokens,
        "use_demos_in_explanation": True,
        **{name: getattr(options, name) for name in SAME},
        # SAEBench takes a number of latents or a list of them, never both.
        "n_latents": options.n_latents if options.override_latents is None else None,
    }


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


def _intervals(scored: Sequence[Scored], seed: int) -> dict[str, Interval]:
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


def _details(scored: Sequence[Scored]) -> list[dict[str, Any]]:
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


def _unstructured(scored: Sequence[Scored], keep_texts: bool) -> dict[str, Any]:
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
