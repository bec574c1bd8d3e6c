"""What autointerp reads: options, and text as whole contexts, each (a piece of) one document."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import torch
from jaxtyping import Int
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from chronosae.config import SourceConfig, UserError
from chronosae.corpora import open_source
from chronosae.evals.endpoint import LOCAL
from chronosae.evals.evaluation import EvalOptions
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

NAME = "autointerp"
# Documents tokenised at once.
AT_ONCE = 64

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Price = Annotated[float, Field(ge=0)]


class AutointerpOptions(EvalOptions):
    """Options of `autointerp`. The endpoint's key is never one of them: it is read from the environment."""

    base_url: str | None = None
    """Address of an OpenAI-compatible endpoint up to `/chat/completions`, such as `https://api.openai.com/v1` or
    `http://localhost:8000/v1`. Text of `data` is sent there."""
    model: str | None = None
    """Name of the model that explains and judges, as the endpoint knows it."""
    key_env: str | None = "OPENAI_API_KEY"
    """Name of the environment variable that holds the endpoint's key; null for an endpoint that wants none."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 10
    """Requests under way at once."""
    retries: NonNegative = 6
    """Further tries of a request after 429, 5xx, a timeout or a lost connection."""
    backoff: Annotated[float, Field(ge=0, le=60)] = 1.0
    """Seconds before the first further try; doubles each time, up to a minute. A server's Retry-After goes first."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds until a request without an answer counts as lost."""
    price_in: Price | None = None
    """Price of a million prompt tokens, in any currency; for the estimate and `max_cost`."""
    price_out: Price | None = None
    """Price of a million answer tokens."""
    max_cost: Price | None = None
    """Refuse to start above this estimate, and stop when it is spent; needs both prices."""
    answers_dir: str | None = None
    """Folder of the answers kept; absent: `evals/autointerp/answers` in the run's folder."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """Sent with each request; null sends none, for models that refuse it."""
    send_seed: bool = True
    """Send the evaluations' seed with each request; endpoints that know no seed mostly ignore it."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Field in which the endpoint wants the largest number of answer tokens."""
    explanation_tokens: Positive = 30
    """Most tokens of an explanation. A model that reasons before it answers needs more."""
    answer_tokens: Positive = 60
    """Most tokens of a list of examples. A model that reasons before it answers needs more."""

    data: str = "world"
    """A registered corpus (`world`), a local .txt/.jsonl/.parquet file or folder of them, or a Hugging Face name."""
    subset: str | None = None
    """Subset of a Hugging Face data set or of a registered corpus."""
    split: str = "test"
    """Split of a Hugging Face data set or of a registered corpus; local files have none."""
    text_field: str = "text"
    """Field that holds the text in .jsonl, parquet and Hugging Face rows."""
    tokens: Positive = 100_000
    """Tokens of text in which examples are looked for. SAEBench: 2,000,000."""
    context: Annotated[int, Field(ge=8)] = 128
    """Tokens of a sequence, the leading special token included."""

    n_latents: Positive = 1000
    """Latents drawn among those alive; all of them where there are fewer."""
    override_latents: list[NonNegative] | None = None
    """These latents, alive or not, instead of drawn ones."""
    dead_latent_threshold: NonNegative = 15
    """A latent is alive that fires on more tokens than this."""
    buffer: NonNegative = 10
    """Tokens of an example on each side of the token it is chosen for."""
    act_threshold_frac: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """A latent is active at a token above this share of its largest activation."""
    n_top_ex_for_generation: Positive = 10
    """Most activating examples to explain from."""
    n_iw_sampled_ex_for_generation: NonNegative = 5
    """Importance-weighted examples to explain from."""
    n_top_ex_for_scoring: Positive = 2
    """Most activating examples to judge."""
    n_iw_sampled_ex_for_scoring: NonNegative = 2
    """Importance-weighted examples to judge."""
    n_random_ex_for_scoring: Positive = 10
    """Random examples to judge."""
    keep_texts: bool = True
    """Write the examples' text into the result (`logs`), as SAEBench does."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        # No message here shows the value: it may hold a password.
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port)
        except ValueError:
            raise ValueError("is no address; give one such as https://api.openai.com/v1") from None
        if not sound or re.search(r"\s", value):
            raise ValueError("must be an http(s) address such as https://api.openai.com/v1")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("must hold neither user, password nor query; the key belongs into the environment")
        return value.rstrip("/").removesuffix("/chat/completions")

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        # Somebody may have given the key itself: the message must not show it.
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", value):
            raise ValueError("must be the NAME of an environment variable that holds the key, never the key itself")
        return value

    @model_validator(mode="after")
    def _belong_together(self) -> "AutointerpOptions":
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise ValueError("max_cost needs price_in and price_out, the endpoint's prices of a million tokens")
        if self.base_url is not None and self.key_env is not None:
            parts = urlsplit(self.base_url)
            if parts.scheme == "http" and parts.hostname not in LOCAL:
                raise ValueError("base_url: a key would go unencrypted; take https, or key_env=null to send none")
        if self.window > self.context - 1:
            raise ValueError(f"buffer: an example of {self.window} tokens doesn't fit a context of {self.context}")
        return self

    @property
    def window(self) -> int:
        """Tokens of an example."""
        return 2 * self.buffer + 1

    @property
    def n_top(self) -> int:
        """Most activating examples of a latent."""
        return self.n_top_ex_for_generation + self.n_top_ex_for_scoring

    @property
    def n_importance(self) -> int:
        """Importance-weighted examples of a latent."""
        return self.n_iw_sampled_ex_for_generation + self.n_iw_sampled_ex_for_scoring

    @property
    def n_active_scored(self) -> int:
        """Examples to judge that were chosen because the latent fires."""
        return self.n_top_ex_for_scoring + self.n_iw_sampled_ex_for_scoring

    @property
    def source(self) -> SourceConfig:
        """Where the text comes from."""
        return SourceConfig(path=self.data, subset=self.subset, split=self.split, text_field=self.text_field)


@dataclass(frozen=True)
class Contexts:
    """Token rows and the text of each."""

    texts: list[str]
    rows: TokenRows
    first: Int[Tensor, " rows"]
    """Position of the first token of the text: 1 behind a BOS."""
    short: bool
    """The source ended before there were as many tokens as asked."""

    def text(self, row: int, start: int, end: int) -> tuple[str, list[tuple[int, int]]]:
        """The text of the tokens `start` to `end - 1` of a row, and the characters of each of them in it."""
        spans = self.rows.offsets[row, start:end].tolist()
        begin, stop = min(a for a, _ in spans), max(b for _, b in spans)
        return self.texts[row][begin:stop], [(a - begin, b - begin) for a, b in spans]


def read_contexts(options: AutointerpOptions, bench: Workbench) -> Contexts:
    """Contexts of at most `options.context` tokens until there are `options.tokens`.

    What is shorter than an example is left out: the ends of documents.

    Raises:
        UserError: the source can't be read, or holds no document as long as an example.
    """
    context = min(options.context, bench.subject.max_context)
    bench.read(["."], context)  # refuses a tokenizer that can't tell where its tokens stand
    tokenizer = bench.subject.tokenizer
    room = context - int(bench.prepend_bos and tokenizer.bos_token_id is not None)
    source = open_source(options.source, "evals.autointerp.data")
    pieces: list[str] = []
    found = 0
    for text, n in _pieces(source.documents(), tokenizer, room):
        if found >= options.tokens:
            break
        if n >= options.window:
            pieces.append(text)
            found += n
    rows = bench.read(pieces, context)
    # A BOS stands for no characters; a token of the text does.
    has_text = rows.offsets[..., 1] > rows.offsets[..., 0]
    first = has_text.long().argmax(1) if pieces else torch.zeros(0, dtype=torch.long)
    # Read alone, a piece may have a token more or fewer than inside its document.
    whole = (rows.lengths - first >= options.window).nonzero().squeeze(1)
    if not len(whole):
        raise UserError(
            f"evals.autointerp.data: {options.data} holds no document of {options.window} tokens; give longer texts or"
            " lower evals.autointerp.buffer"
        )
    return Contexts([pieces[i] for i in whole.tolist()], rows.rows(whole), first[whole], found < options.tokens)


def _pieces(documents: Iterator[str], tokenizer: Any, room: int) -> Iterator[tuple[str, int]]:
    """Consecutive pieces of `room` tokens of every document, and the tokens of each."""
    texts = (text for text in documents if text and not text.isspace())
    while batch := list(islice(texts, AT_ONCE)):
        encoded = tokenizer(
            batch,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        for text, offsets in zip(batch, encoded["offset_mapping"], strict=True):
            for start in range(0, len(offsets), room):
                part = offsets[start : start + room]
                yield text[part[0][0] : part[-1][1]], len(part)
