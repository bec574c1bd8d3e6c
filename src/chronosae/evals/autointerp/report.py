"""The result of one autoencoder, in SAEBench's words and ours."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chronosae.evals.autointerp.contexts import Contexts
from chronosae.evals.autointerp.cost import Estimate, Spending
from chronosae.evals.autointerp.gather import Gathered
from chronosae.evals.autointerp.judge import Verdict
from chronosae.evals.autointerp.options import AutointerpOptions
from chronosae.evals.autointerp.score import Scored, details, intervals, summarise, unstructured
from chronosae.evals.result import EvalResult
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


@dataclass(frozen=True)
class Asked:
    """What came back for all autoencoders of a run, and what it cost."""

    verdicts: list[Verdict]
    estimate: Estimate
    spending: Spending


def make_result(
    options: AutointerpOptions,
    bench: Workbench,
    contexts: Contexts,
    found: Gathered,
    scored: Sequence[Scored],
    asked: Asked,
) -> EvalResult:
    """Metrics, rows, flags, and the costs of the run (of all its autoencoders together)."""
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
            "estimate": asdict(asked.estimate) | {"cost": asked.estimate.cost(options)},
            "spent": asdict(asked.spending.spent) | {"cost": asked.spending.spent.cost(options)},
            "kept_answers": asked.spending.kept,
            "refused": asked.spending.refused,
        },
        "tokens": int(contexts.rows.mask.sum()),
        "contexts": len(contexts.rows),
    }
    return EvalResult(
        metrics={"autointerp": summarise(scored)},
        eval_config=_saebench_config(options, bench),
        data_sha256=contexts.rows.sha256(),
        details=tuple(details(scored)),
        unstructured=unstructured(scored, options.keep_texts),
        intervals=intervals(scored, bench.seed),
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
