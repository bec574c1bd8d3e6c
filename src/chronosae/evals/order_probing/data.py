"""What order probing reads: options, and tasks of labelled tokens in whole texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from chronosae.config import UserError
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.evals.evaluation import EvalOptions
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

NAME = "order_probing"
DATA_KEY = f"evals.{NAME}.data"
N_BACK_KEY = f"evals.{NAME}.n_back_data"
# Most n-back pairs that are taken from one text.
PAIRS_A_TEXT = 4


class OrderProbingOptions(EvalOptions):
    """`evals.order_probing` in a configuration."""

    data: tuple[str, ...] = (
        "world/order_role",
        "world/order_mention",
        "world/order_bracket",
        "world/order_place",
    )
    """Labelled texts with spans and two labels: registered names, or local .jsonl with text, label, start, end."""
    n_back: tuple[PositiveInt, ...] = (3, 5)
    """Distances of the n-back tasks; none: no n-back."""
    n_back_data: str = "world/topic"
    """Texts of the n-back tasks; their labels aren't used."""
    k: tuple[PositiveInt, ...] = Field(default=(1, 5, 20), min_length=1)
    """Features of the sparse probes."""
    train: int = Field(default=800, ge=40)
    """Items (tokens) for fitting, a task."""
    test: int = Field(default=600, ge=40)
    """Items for testing, a task."""
    context: int = Field(default=256, ge=8)
    """Longest context in tokens."""


@dataclass(frozen=True)
class TokenItems:
    """Tokens of `rows` with labels; a text that holds several of them is one row."""

    rows: TokenRows
    row: Int[Tensor, " items"]
    pos: Int[Tensor, " items"]
    label: Bool[Tensor, " items"]
    """True: the second of the two labels in alphabetical order."""
    group: Int[Tensor, " items"]
    """Items of one group (a document, a minimal pair) are kept, drawn and resampled together."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def tokens(self) -> Int[Tensor, " items"]:
        """The labelled tokens' ids."""
        return self.rows.tokens[self.row, self.pos]

    def pick(self, which: Int[Tensor, " n"]) -> "TokenItems":
        """Some items, in this order, and the rows that they need."""
        used, row = self.row[which].unique(return_inverse=True)
        return TokenItems(self.rows.rows(used), row, self.pos[which], self.label[which], self.group[which])


def unfit(data: LabelledTexts) -> str | None:
    """Why such data can't be probed, in a phrase; None: they can."""
    if data.spans is None:
        return "it labels whole texts; order probing needs start and end of what is labelled"
    if len(data.classes) != 2:
        return f"it has the labels {', '.join(data.classes[:5])}; order probing tells two apart"
    return None


def labelled_items(bench: Workbench, data: LabelledTexts, context: int, key: str) -> tuple[TokenItems, int]:
    """Each span's last token, and how many items were left out.

    A group goes as a whole when one of its spans lies beyond the context or at a token that autoencoders don't see:
    half a minimal pair would let the token or the bag tell the label.

    Raises:
        UserError: the data have no spans, or not exactly two labels.
    """
    problem = unfit(data)
    if problem is not None:
        raise UserError(f"{key}: {data.name}: {problem}")
    assert data.spans is not None
    places = {text: i for i, text in enumerate(dict.fromkeys(data.texts))}
    rows = bench.read(list(places), context)
    row = torch.tensor([places[text] for text in data.texts])
    spans = [rows.span(r, *span) for r, span in zip(row.tolist(), data.spans, strict=True)]
    pos = torch.tensor([span[-1] if span else 0 for span in spans])
    items = TokenItems(
        rows, row, pos, torch.tensor([label == data.classes[1] for label in data.labels]), data.group_ids
    )
    seen = torch.tensor([bool(span) for span in spans]) & rows.mask[row, pos]
    whole = ~torch.isin(items.group, items.group[~seen])
    return items.pick(whole.nonzero().squeeze(1)), int((~whole).sum())


def drawn(items: TokenItems, n: int, generator: torch.Generator) -> TokenItems:
    """About `n` items (at most `n` where groups allow it): whole groups in random order, then as many of each label.

    Balanced groups stay whole.
    """
    groups, number, sizes = items.group.unique(return_inverse=True, return_counts=True)
    order = torch.randperm(len(groups), generator=generator)
    taken = torch.zeros(len(groups), dtype=torch.bool)
    taken[order[: max(1, int((sizes[order].cumsum(0) <= n).sum()))]] = True
    chosen = taken[number].nonzero().squeeze(1)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    label = items.label[chosen]
    share = min(int(label.sum()), int((~label).sum()))
    rank = torch.where(label, label.long().cumsum(0), (~label).long().cumsum(0))
    return items.pick(chosen[rank <= share].sort().values)


def window(n: int) -> int:
    """How far back is looked for the one other occurrence: as far beyond n as before it."""
    return n + max(n - 1, 2)


def n_back_items(
    bench: Workbench, texts: Sequence[str], n: int, wanted: int, context: int, generator: torch.Generator
) -> TokenItems:
    """n-back from any text: did this token stand n tokens ago, or at another distance just as near?

    The two items of a pair are the same token of the same text, so neither the token nor the text's bag tells them
    apart. Both tokens came up exactly once in the window behind them: one n tokens ago (label True), the other (a lure)
    elsewhere. That a token repeats, or that it repeated lately, says nothing.

    At least `wanted` items, where texts in this order hold so many. Each text is a group. Empty where nothing fits.
    """
    rows = bench.read(list(dict.fromkeys(texts)), context)
    found: list[tuple[int, int, bool]] = []
    for row in range(len(rows)):
        if len(found) >= wanted:
            break
        seen = rows.mask[row].nonzero().squeeze(1).tolist()
        occurrences = _occurrences(rows.tokens[row, seen].tolist(), n)
        pairs = [pair for same, lures in occurrences.values() for pair in _nearest(same, lures)]
        for i in torch.randperm(len(pairs), generator=generator)[:PAIRS_A_TEXT].tolist():
            a, b = pairs[i]
            found += [(row, seen[a], True), (row, seen[b], False)]
    row, pos, label = (list(values) for values in zip(*found, strict=True)) if found else ([], [], [])
    where = torch.tensor(row, dtype=torch.long)
    items = TokenItems(rows, where, torch.tensor(pos, dtype=torch.long), torch.tensor(label, dtype=torch.bool), where)
    return items.pick(torch.arange(len(items)))


def _occurrences(tokens: list[int], n: int) -> dict[int, tuple[list[int], list[int]]]:
    """Token -> places where it was seen n tokens ago and nowhere else in the window, places where only elsewhere."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    reach = window(n)
    for t in range(reach, len(tokens)):
        distances = [d for d in range(1, reach + 1) if tokens[t - d] == tokens[t]]
        if len(distances) == 1:
            same, lures = found.setdefault(tokens[t], ([], []))
            (same if distances[0] == n else lures).append(t)
    return found


def _nearest(same: list[int], lures: list[int]) -> list[tuple[int, int]]:
    """Each lure goes to one place at most, nearest pairs first: where a token stands should tell little."""
    free_same, free_lures, pairs = set(same), set(lures), []
    for _, a, b in sorted((abs(a - b), a, b) for a in same for b in lures):
        if a in free_same and b in free_lures:
            free_same.remove(a)
            free_lures.remove(b)
            pairs.append((a, b))
    return pairs


@dataclass(frozen=True)
class Task:
    """One question about tokens."""

    name: str
    train: TokenItems
    test: TokenItems
    left_out: int
    """Items whose group didn't fit into the context."""


def task_names(options: OrderProbingOptions) -> dict[str, str]:
    """Short name -> data set; short names are those of the metrics.

    Raises:
        UserError: two data sets share a short name.
    """
    names: dict[str, str] = {}
    for data in options.data:
        short = Path(data).stem
        if short in names:
            raise UserError(f"{DATA_KEY}: {names[short]} and {data} would both be called {short}; rename one")
        names[short] = data
    return names


def read_tasks(options: OrderProbingOptions, bench: Workbench) -> Iterator[Task]:
    """Every task, one after another."""
    for short, data in task_names(options).items():
        yield _labelled(options, bench, short, data)
    for n in options.n_back:
        yield _n_back(options, bench, n)


def _labelled(options: OrderProbingOptions, bench: Workbench, short: str, data: str) -> Task:
    parts, left_out = [], 0
    for split, n in (("train", options.train), ("test", options.test)):
        items, lost = labelled_items(bench, LABELLED.read(data, split, DATA_KEY), options.context, DATA_KEY)
        parts.append(drawn(items, n, bench.generator(NAME, LABELLED.label(data), split)))
        left_out += lost
    return Task(short, parts[0], parts[1], left_out)


def _n_back(options: OrderProbingOptions, bench: Workbench, n: int) -> Task:
    parts = []
    for split, wanted in (("train", options.train), ("test", options.test)):
        generator = bench.generator(NAME, LABELLED.label(options.n_back_data), str(n), split)
        texts = LABELLED.read(options.n_back_data, split, N_BACK_KEY).texts
        order = torch.randperm(len(texts), generator=generator).tolist()
        found = n_back_items(bench, [texts[i] for i in order], n, wanted, options.context, generator)
        parts.append(drawn(found, wanted, generator))
    return Task(f"n_back_{n}", parts[0], parts[1], 0)
