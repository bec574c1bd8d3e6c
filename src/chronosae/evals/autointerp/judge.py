"""Explain each latent, then judge the explanation: two requests a latent, many latents at once."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal

from chronosae.config import UserError
from chronosae.evals.autointerp.answers import Answers
from chronosae.evals.autointerp.cost import BYTES, Estimate, Messages, Spending, prompt_tokens
from chronosae.evals.autointerp.endpoint import Answer, Endpoint, Refused
from chronosae.evals.autointerp.examples import Examples
from chronosae.evals.autointerp.options import AutointerpOptions
from chronosae.evals.autointerp.prompts import explain_prompt, judge_prompt, read_explanation, read_numbers

Problem = Literal["unparsable", "no_explanation", "refused"]


@dataclass(frozen=True)
class Verdict:
    """What the model made of one latent."""

    explanation: str | None
    predicted: frozenset[int] | None
    """Numbers (from 1) of the examples to judge in which it expects the latent to be active; None: no usable answer."""
    problem: Problem | None
    cut: bool
    """An answer reached its largest number of tokens."""


class Judge:
    """Asks one model, keeps its answers, counts the cost. Safe to use from many threads."""

    def __init__(self, options: AutointerpOptions, endpoint: Endpoint, answers: Answers, seed: int) -> None:
        self.spending = Spending(options)
        self._options, self._endpoint, self._answers, self._seed = options, endpoint, answers, seed

    def estimate(self, examples: Examples) -> Estimate:
        """Of the requests about one latent that no kept answer serves."""
        options = self._options
        asked = explain_prompt(examples.to_explain)
        known = self._answers.get(self._request(asked, options.explanation_tokens))
        estimate = Estimate()
        if known is None:
            estimate += Estimate(1, prompt_tokens(asked), options.explanation_tokens)
            explanation = "x" * BYTES * options.explanation_tokens
        else:
            explanation = read_explanation(known.text)
        if explanation is None:
            return estimate
        asked = judge_prompt(explanation, examples.to_judge)
        if known is None or self._answers.get(self._request(asked, options.answer_tokens)) is None:
            estimate += Estimate(1, prompt_tokens(asked), options.answer_tokens)
        return estimate

    def interpret(self, examples: Examples) -> Verdict:
        """Explain, then judge."""
        try:
            said = self._ask(explain_prompt(examples.to_explain), self._options.explanation_tokens)
            cut = said.finish == "length"
            explanation = read_explanation(said.text)
            if explanation is None:
                return Verdict(None, None, "no_explanation", cut)
        except Refused:
            return Verdict(None, None, "refused", False)
        try:
            asked = judge_prompt(explanation, examples.to_judge)
            said = self._ask(asked, self._options.answer_tokens)
        except Refused:
            return Verdict(explanation, None, "refused", cut)
        predicted = read_numbers(said.text, len(examples.to_judge))
        problem: Problem | None = "unparsable" if predicted is None else None
        return Verdict(explanation, predicted, problem, cut or said.finish == "length")

    def interpret_all(self, latents: Sequence[Examples]) -> Iterator[tuple[int, Verdict]]:
        """Place in `latents` and verdict, as they come; the first request that fails for good ends all.

        Raises:
            UserError: see `Endpoint.ask`; or `max_cost` is spent; or nothing but refusals came.
        """
        # Leaving this block waits for requests under way: their answers are paid for, so they are kept.
        with ThreadPoolExecutor(self._options.concurrency, "autointerp") as pool:
            places = {pool.submit(self.interpret, one): i for i, one in enumerate(latents)}
            try:
                for done in as_completed(places):
                    yield places[done], done.result()
            except BaseException:
                self._endpoint.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, messages: Messages, limit: int) -> Answer:
        request = self._request(messages, limit)
        known = self._answers.get(request)
        if known is not None:
            self.spending.reuse()
            return known
        try:
            answer = self._endpoint.ask(request)
        except Refused as refusal:
            if self.spending.refuse():
                raise UserError(f"autointerp: the endpoint refuses every request: {refusal}") from None
            raise
        self._answers.put(request, answer)
        self.spending.add(messages, answer)
        return answer

    def _request(self, messages: Messages, limit: int) -> dict[str, Any]:
        options = self._options
        request: dict[str, Any] = {"model": options.model, "messages": messages, options.token_limit: limit}
        if options.temperature is not None:
            request["temperature"] = options.temperature
        if options.send_seed:
            request["seed"] = self._seed
        return request
