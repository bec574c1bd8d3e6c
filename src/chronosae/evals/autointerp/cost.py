"""What asking will cost, before it starts, and what it has cost."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chronosae.config import UserError
from chronosae.evals.autointerp.endpoint import Answer
from chronosae.evals.autointerp.options import AutointerpOptions

Messages = list[dict[str, str]]

# UTF-8 bytes a token. English has about 4, so this is on the safe side.
BYTES = 3
# Tokens that a chat template puts around a message.
AROUND = 8


def prompt_tokens(messages: Iterable[Mapping[str, str]]) -> int:
    """Tokens of a prompt: an estimate on the high side, for the endpoint's tokenizer isn't known."""
    return sum(len(message["content"].encode("utf-8", "replace")) // BYTES + AROUND for message in messages)


@dataclass(frozen=True)
class Estimate:
    """Requests that no kept answer serves, at most."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def cost(self, options: AutointerpOptions) -> float | None:
        """In the currency of the prices; None without them."""
        if options.price_in is None or options.price_out is None:
            return None
        return (self.prompt_tokens * options.price_in + self.completion_tokens * options.price_out) / 1e6

    def line(self, options: AutointerpOptions) -> str:
        """For people."""
        cost = self.cost(options)
        price = "" if cost is None else f", at most {cost:.4g}"
        return f"{self.calls:,} calls, about {self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out{price}"

    def check(self, options: AutointerpOptions) -> None:
        """`UserError` where the estimate is above `max_cost`."""
        cost = self.cost(options)
        if cost is not None and options.max_cost is not None and cost > options.max_cost:
            raise UserError(
                f"autointerp: {self.line(options)}: above evals.autointerp.max_cost ({options.max_cost:g}); raise it or"
                " lower evals.autointerp.n_latents. Nothing was asked"
            )


class Spending:
    """Counts what was asked; from many threads."""

    def __init__(self, options: AutointerpOptions) -> None:
        self._options, self._lock = options, threading.Lock()
        self.spent = Estimate()
        self.kept = 0
        """Answers that were kept from before."""
        self.refused = 0

    def add(self, messages: Messages, answer: Answer) -> None:
        """Count an answer; by our own estimate where the endpoint doesn't tell its usage.

        Raises:
            UserError: `max_cost` is spent.
        """
        used = answer.prompt_tokens or prompt_tokens(messages)
        wrote = answer.completion_tokens or len(answer.text.encode("utf-8", "replace")) // BYTES
        with self._lock:
            self.spent = self.spent + Estimate(1, used, wrote)
            cost = self.spent.cost(self._options)
        if cost is not None and self._options.max_cost is not None and cost > self._options.max_cost:
            raise UserError(
                f"autointerp: stopped after {cost:.4g}: more than evals.autointerp.max_cost"
                f" ({self._options.max_cost:g}) and than was estimated; answers so far are kept where a cache is set"
            )

    def reuse(self) -> None:
        """Count an answer that was kept."""
        with self._lock:
            self.kept += 1

    def refuse(self) -> bool:
        """Count a refusal; whether everything so far was refused."""
        with self._lock:
            self.refused += 1
            return self.spent.calls == 0 and self.refused >= 3
