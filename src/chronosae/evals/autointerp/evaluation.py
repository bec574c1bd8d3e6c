"""Can a language model say in words what a latent is active on? Explanations, judged by detection."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chronosae.autoencoders import Autoencoder
from chronosae.config import UserError
from chronosae.evals.autointerp.answers import Answers
from chronosae.evals.autointerp.contexts import Contexts, read_contexts
from chronosae.evals.autointerp.cost import Estimate
from chronosae.evals.autointerp.endpoint import Endpoint
from chronosae.evals.autointerp.examples import Examples, make_examples
from chronosae.evals.autointerp.gather import NAME, Gathered, Pool, gather_examples
from chronosae.evals.autointerp.judge import Judge
from chronosae.evals.autointerp.key import read_key
from chronosae.evals.autointerp.options import AutointerpOptions
from chronosae.evals.autointerp.ready import check_latents, find_missing
from chronosae.evals.autointerp.report import Asked, make_result
from chronosae.evals.autointerp.score import Scored
from chronosae.evals.evaluation import EVALUATIONS, Evaluation
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.workbench import Workbench


@dataclass(frozen=True)
class _Task:
    """One latent to ask about."""

    sae: str
    place: int
    """Among the autoencoder's watched latents."""
    examples: Examples


@EVALUATIONS.add
class Autointerp(AutointerpOptions, Evaluation):
    """A language model explains latents from examples and detects where they are active by its explanation.

    Explanation and detection (arXiv 2410.13928) by SAEBench's recipe, against any OpenAI-compatible endpoint.
    """

    name = NAME
    eval_type_id = "autointerp"
    undefined = -1
    outward = ("base_url", "key_env", "data", "subset", "split", "text_field", "answers_dir")

    def preflight(self, setting: Setting) -> list[Missing]:
        return find_missing(self, setting)

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """See `Evaluation.run`.

        Raises:
            UserError: no endpoint or key is given, the endpoint fails for good, or the estimated cost is above
                `max_cost`; answers until then are kept.
        """
        for name, sae in saes.items():
            check_latents(self, name, sae.d_sae)
        judge = _judge(self, bench)
        contexts = read_contexts(self, bench)
        found, pool = gather_examples(self, bench, contexts, saes)
        tasks = [
            _Task(name, place, examples)
            for name, gathered in found.items()
            for place in gathered.chosen(self)
            if (examples := _examples(self, bench, contexts, gathered, pool, place))
        ]
        asked = _ask(self, bench, judge, tasks)
        scored: dict[str, list[Scored]] = {name: [] for name in saes}
        for task, verdict in zip(tasks, asked.verdicts, strict=True):
            gathered = found[task.sae]
            latent, fires_on = gathered.watched[task.place], gathered.fires_on(task.place)
            scored[task.sae].append(Scored(latent, fires_on, task.examples, verdict))
        return {name: make_result(self, bench, contexts, found[name], scored[name], asked) for name in saes}


def _judge(options: AutointerpOptions, bench: Workbench) -> Judge:
    if options.base_url is None or options.model is None:
        raise UserError(
            "evals.autointerp: no endpoint; give it with --set evals.autointerp.base_url=URL"
            " --set evals.autointerp.model=NAME"
        )
    endpoint = Endpoint(
        options.base_url,
        read_key(options.key_env),
        timeout=options.timeout,
        retries=options.retries,
        backoff=options.backoff,
    )
    folder = None if bench.keep is None else bench.keep / NAME / "answers"
    if options.answers_dir is not None:
        folder = Path(options.answers_dir).expanduser()
    return Judge(options, endpoint, Answers(folder, options.base_url), bench.seed)


def _examples(
    options: AutointerpOptions, bench: Workbench, contexts: Contexts, found: Gathered, pool: Pool, place: int
) -> Examples | None:
    # Randomness by latent: the same examples whichever others are asked about.
    generator = bench.generator(NAME, options.data, "examples", str(found.watched[place]))
    return make_examples(options, contexts, found, pool, place, generator)


def _ask(options: AutointerpOptions, bench: Workbench, judge: Judge, tasks: list[_Task]) -> Asked:
    examples = [task.examples for task in tasks]
    estimate = sum((judge.estimate(one) for one in examples), Estimate())
    estimate.check(options)
    what = f"{NAME}: asking {options.model} ({estimate.line(options)})"
    bench.progress(what, 0, len(tasks))
    verdicts = {}
    for place, verdict in judge.interpret_all(examples):
        verdicts[place] = verdict
        bench.progress(what, len(verdicts), len(tasks))
    return Asked([verdicts[i] for i in range(len(tasks))], estimate, judge.spending)
