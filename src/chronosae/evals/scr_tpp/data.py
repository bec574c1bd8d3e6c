"""What SCR and TPP are asked to do and what they read: options, texts by task, whole contexts with their codes.

TPP's tasks are one-vs-rest classes; SCR's cross two labels, and let them go together where a probe is to be biased.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder, Codes
from chronosae.config import UserError
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.evals.data.hub_labelled import AMAZON, BIOS, hub_problem
from chronosae.evals.evaluation import EvalOptions
from chronosae.evals.probes import pool_codes, pool_dense
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import PASS_TOKENS, Workbench, encode, evaluating

# One training text in so many judges the epochs of a probe.
HELD_OUT = 5
# Fewer texts than this of a class or combination aren't enough for a probe.
FEWEST = 10
# Of a hub set, more texts of one combination are never needed: SAEBench takes 2,000.
ENOUGH = 2000

FIRST, SECOND, BIASED = range(3)
"""Tasks of SCR: either label where both are crossed, and both at once where they go together."""

Protocol = Literal["chronosae", "saebench"]


class AblationOptions(EvalOptions):
    """Probes on pooled activations, and how many features are taken out."""

    context: int = Field(default=128, ge=8)
    """Tokens of each text; what is longer is cut at its end."""
    train_size: int = Field(default=4000, ge=40)
    """Texts on which one probe is fitted, half of them positive; fewer where the data have fewer."""
    test_size: int = Field(default=1000, ge=40)
    """Texts on which one probe is judged, half of them positive; fewer where the data have fewer."""
    ns: list[PositiveInt] = Field(default=[2, 5, 10, 20, 50, 100, 500], min_length=1)
    """How many features are zeroed; one score for each. Undefined above the autoencoder's width."""
    probe_seeds: int = Field(default=3, ge=1)
    """Probes of each kind, fitted from other seeds: scores are means over them, their spread is reported."""
    probe_epochs: int = Field(default=20, ge=1)
    """Passes over the training texts; the epoch that judges best is kept."""
    probe_batch: int = Field(default=16, ge=1)
    """Texts a step. How much of a spurious correlation a probe takes up depends on it."""
    probe_lr: float = Field(default=1e-3, gt=0)
    """AdamW's learning rate."""
    probe_l1: float = Field(default=1e-3, ge=0)
    """Weight of the L1 norm of the probe's direction."""
    protocol: Protocol = "chronosae"
    """`chronosae`: epochs judged on held-out training texts, padding and special tokens never enter; `saebench`: epochs
    judged on the test texts, zeros in place of special tokens and padding, and they leak, as in SAEBench 0.6.0."""


class ScrOptions(AblationOptions):
    """Options of `evals.scr`."""

    name: ClassVar[str] = "scr"
    data: list[str] = Field(default=["world/subject_and_kind", "world/subject_and_setting"], min_length=1)
    """Texts with two labels of two values each: registered names, local files with `label` and `second_label`, hub
    sets. The first training text names the values of both labels that go together in the biased texts."""


class TppOptions(AblationOptions):
    """Options of `evals.tpp`."""

    name: ClassVar[str] = "tpp"
    data: list[str] = Field(default=["world/subject"], min_length=1)
    """Texts with one label of two values or more: registered names, local files with `label`, hub sets."""


@dataclass(frozen=True)
class Tasks:
    """Binary tasks over one list of texts."""

    name: str
    """Of the data set."""
    names: tuple[str, ...]
    """Of the tasks."""
    texts: tuple[str, ...]
    positive: Bool[Tensor, "tasks rows"]
    weight: Float[Tensor, "tasks rows"]
    """Share of each text in a task's accuracy: half for the positive ones together; 0 where it isn't part of it."""
    strata: Int[Tensor, " rows"]
    """Texts of one kind: negatives are drawn evenly from these."""
    turn: Int[Tensor, " rows"]
    """Number of each text within its stratum, in random order."""
    groups: Int[Tensor, " rows"]
    """Texts of one group aren't independent of one another."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def contrast(self) -> Float[Tensor, "tasks rows"]:
        """Weights whose sum over rows is the mean of the positive ones minus the mean of the others."""
        return torch.where(self.positive, 2.0, -2.0) * self.weight

    def held_out(self) -> Bool[Tensor, " rows"]:
        """The texts that judge the epochs: one in `HELD_OUT` of each stratum, and all of their groups.

        Where a stratum has too few groups for that, texts of a group are parted.
        """
        first = torch.full((int(self.groups.max()) + 1,), len(self.groups)).scatter_reduce(
            0, self.groups, torch.arange(len(self.groups)), "amin"
        )
        held = _every_fifth(_number_within(self.strata[first]))[self.groups]
        strata = self.strata.unique().unsqueeze(1) == self.strata
        parted = (strata & held).any(1) & (strata & ~held).any(1)
        return held if parted.all() else _every_fifth(self.turn)

    def fit_size(self, rows: Bool[Tensor, " rows"]) -> int:
        """Most texts among `rows` of either side that every task can be fitted on."""
        among = rows & (self.weight > 0)
        return int(torch.stack([among & self.positive, among & ~self.positive]).sum(-1).min())

    def fit_rows(
        self, task: int, rows: Bool[Tensor, " rows"], n: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, " twice_n"], Bool[Tensor, " twice_n"]]:
        """Texts among `rows` to fit one task on: `n` positive ones and `n` others, evenly from all strata."""
        among = rows & (self.weight[task] > 0)
        positive = (among & self.positive[task]).nonzero().squeeze(1)
        others = (among & ~self.positive[task]).nonzero().squeeze(1)
        others = others[torch.randperm(len(others), generator=generator)]
        chosen = torch.cat([self._evenly(positive, n).sort().values, self._evenly(others, n)])
        return chosen, self.positive[task][chosen]

    def _evenly(self, rows: Int[Tensor, " some"], n: int) -> Int[Tensor, " n"]:
        """The first of each stratum, the second of each, and so on."""
        return rows[_number_within(self.strata[rows]).argsort(stable=True)][:n]


def read_classes(options: TppOptions, bench: Workbench, name: str) -> tuple[Tasks, Tasks]:
    """TPP's tasks over the training and the test part of a data set: classes that both have."""
    train, test = (LABELLED.read(name, part, "evals.tpp.data") for part in ("train", "test"))
    classes = tuple(label for label in train.classes if label in test.classes)
    train_g, test_g = (bench.generator("tpp", LABELLED.label(name), part) for part in ("train", "test"))
    return (
        one_vs_rest(train, classes, options.train_size, train_g),
        one_vs_rest(test, classes, options.test_size, test_g),
    )


def read_pairs(options: ScrOptions, bench: Workbench, name: str) -> tuple[Tasks, Tasks]:
    """SCR's tasks over the training and the test part of a data set; its first training text is positive."""
    train, test = (LABELLED.read(name, part, "evals.scr.data") for part in ("train", "test"))
    positives = (train.labels[0], train.second[0] if train.second else "")
    train_g, test_g = (bench.generator("scr", LABELLED.label(name), part) for part in ("train", "test"))
    return (
        crossed_and_biased(train, positives, options.train_size, train_g),
        crossed_and_biased(test, positives, options.test_size, test_g),
    )


def one_vs_rest(data: LabelledTexts, classes: tuple[str, ...], size: int, generator: torch.Generator) -> Tasks:
    """One task a class: `size` / 2 positive texts, and all texts of the other classes, which weigh the same together.

    Raises:
        UserError: a class has too few texts.
    """
    by_class = [[i for i, label in enumerate(data.labels) if label == name] for name in classes]
    n = min(size // 2, *(len(rows) for rows in by_class))
    if len(classes) < 2 or n < FEWEST:
        raise UserError(f"{data.name}: TPP needs two classes or more of {FEWEST} texts or more; the rarest has {n}")
    rows = [row for found in by_class for row in _draw(found, n, generator)]
    strata = torch.arange(len(classes)).repeat_interleave(n)
    positive = strata == torch.arange(len(classes)).unsqueeze(1)
    weight = positive.double() * 0.5 / n + (~positive).double() * 0.5 / (n * (len(classes) - 1))
    return _tasks(data, rows, classes, positive, weight, strata)


def unfit_for_scr(data: LabelledTexts) -> str | None:
    """Why SCR can't use such data, in a phrase; None: it can."""
    if data.second is None:
        return "SCR needs two labels a text; in a .jsonl file the second is the field second_label"
    for what, labels in (("label", data.labels), ("second label", data.second)):
        if len(set(labels)) != 2:
            return f"SCR needs two values of the {what}, there are {len(set(labels))}"
    return None


def crossed_and_biased(data: LabelledTexts, positives: tuple[str, str], size: int, generator: torch.Generator) -> Tasks:
    """Three tasks over `size` texts each: `FIRST` and `SECOND` over all four combinations of the two labels in equal
    numbers, `BIASED` over the two in which both labels are positive or both negative.

    Raises:
        UserError: there is no second label, either label has other than two values, or a combination is too rare.
    """
    problem = unfit_for_scr(data)
    if problem is not None:
        raise UserError(f"{data.name}: {problem}")
    assert data.second is not None
    signs = [(a == positives[0], b == positives[1]) for a, b in zip(data.labels, data.second, strict=True)]
    found = [[i for i, sign in enumerate(signs) if sign == (a, b)] for a in (True, False) for b in (True, False)]
    both, first, second, neither = found
    m = min(size // 4, len(both) // 2, len(neither) // 2, len(first), len(second))
    if m < FEWEST:
        raise UserError(
            f"{data.name}: SCR needs {FEWEST} texts or more of each combination of the labels and twice as many of the"
            f" two that agree; there are {', '.join(str(len(rows)) for rows in found)}"
        )
    counts = (2 * m, m, m, 2 * m)
    rows = [row for some, n in zip(found, counts, strict=True) for row in _draw(some, n, generator)]
    strata = torch.arange(4).repeat_interleave(torch.tensor(counts))
    crossed, agree = _number_within(strata) < m, (strata == 0) | (strata == 3)
    positive = torch.stack([strata < 2, strata % 2 == 0, strata == 0])
    weight = torch.stack([crossed, crossed, agree]).double() / (4 * m)
    names = (" / ".join(sorted(set(data.labels))), " / ".join(sorted(set(data.second))), "biased")
    return _tasks(data, rows, names, positive, weight, strata)


def _tasks(
    data: LabelledTexts, rows: list[int], names: tuple[str, ...], positive: Tensor, weight: Tensor, strata: Tensor
) -> Tasks:
    drawn = data.rows(rows)
    return Tasks(
        name=data.name,
        names=names,
        texts=drawn.texts,
        positive=positive,
        weight=weight,
        strata=strata,
        turn=_number_within(strata),
        # Each row by itself where no groups are named, even if another has the same text.
        groups=torch.arange(len(rows)) if drawn.groups is None else drawn.group_ids,
    )


def _draw(rows: list[int], n: int, generator: torch.Generator) -> list[int]:
    return [rows[i] for i in torch.randperm(len(rows), generator=generator)[:n].tolist()]


def _number_within(strata: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """How many earlier rows share each row's stratum."""
    number = torch.zeros_like(strata)
    for stratum in strata.unique():
        same = strata == stratum
        number[same] = torch.arange(int(same.sum()))
    return number


def _every_fifth(turn: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    return turn % HELD_OUT == HELD_OUT - 1


@dataclass(frozen=True)
class Context:
    """Some texts at the site, with the codes of each autoencoder."""

    index: Int[Tensor, " batch"]
    """Which of all texts these are."""
    batch: SequenceBatch
    """What was encoded; its mask says where vectors are changed when features are zeroed."""
    seen: Bool[Tensor, "batch pos"]
    """The tokens that are pooled over."""
    codes: Mapping[str, Codes]

    @property
    def raw(self) -> Float[Tensor, "batch d_in"]:
        """Mean activation of each text."""
        return pool_dense(self.batch.acts, self.seen, "mean")

    def pooled(self, codes: Codes) -> Float[Tensor, "batch d_sae"]:
        """Mean of these codes over the pooled tokens."""
        return pool_codes(codes, self.seen.to(codes.values.device), "mean").float()

    def removable(self, codes: Codes) -> Float[Tensor, "batch d_sae"]:
        """What zeroing features takes out of the pooled vector, in units of these codes.

        The same as `pooled`, save that SAEBench sums over what it changed at special tokens and padding too.
        """
        total = pool_codes(codes, self.batch.mask.to(codes.values.device), "mean").float()
        return total * self._changed_share.to(total)

    def pooled_change(self, changed: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch d_in"]:
        """What such a change of the activations does to the pooled vector."""
        mask = self.batch.mask.to(changed.device)
        return (pool_dense(changed, mask, "mean") * self._changed_share.to(changed.device)).float().cpu()

    @property
    def _changed_share(self) -> Float[Tensor, "batch 1"]:
        return (self.batch.mask.sum(1) / self.seen.sum(1).clamp(min=1)).unsqueeze(1)


@dataclass(frozen=True)
class Reading:
    """How a list of texts is read."""

    bench: Workbench
    rows: TokenRows
    protocol: Protocol
    context: int
    """SAEBench's protocol fills every text up with zeros to so many tokens."""
    what: str

    def contexts(self, saes: Mapping[str, Autoencoder]) -> Iterator[Context]:
        """All texts, each once, with the codes of all autoencoders: as an autoencoder should see them, or as SAEBench
        shows them."""
        bench, rows = self.bench, self.rows
        if self.protocol == "chronosae":
            for part, codes in bench.encoded(rows, saes, self.what):
                yield Context(part.index, part.batch, part.batch.mask, codes)
            return
        with torch.no_grad(), evaluating(saes):
            for part in bench.batches(rows.showing(rows.real & ~_special(bench, rows)), self.what):
                # Filled up to the context, many short texts would be far more tokens than there were.
                for some in torch.arange(len(part.index)).split(max(1, PASS_TOKENS // self.context)):
                    batch, seen = _zeroed(part.batch, some, self.context)
                    codes = {name: encode(sae, batch) for name, sae in saes.items()}
                    yield Context(part.index[some], batch, seen, codes)


def read_texts(options: AblationOptions, bench: Workbench, tasks: Tasks, part: str) -> Reading:
    """The texts of one part of a data set."""
    context = min(options.context, bench.subject.max_context)
    return Reading(bench, bench.read(tasks.texts, context), options.protocol, context, f"{tasks.name} ({part})")


def _special(bench: Workbench, rows: TokenRows) -> Bool[Tensor, "rows pos"]:
    tokenizer = bench.subject.tokenizer
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    return torch.isin(rows.tokens, torch.tensor(sorted(special), dtype=rows.tokens.dtype))


def _zeroed(
    batch: SequenceBatch, some: Int[Tensor, " n"], context: int
) -> tuple[SequenceBatch, Bool[Tensor, "n context"]]:
    """Zeros in place of masked vectors, up to `context` tokens, and no mask that would tell them from others."""
    seen = batch.mask[some]
    room = context - seen.shape[1]
    seen = functional.pad(seen, (0, room))
    acts = functional.pad(batch.acts[some], (0, 0, 0, room)).masked_fill(~seen.unsqueeze(-1), 0.0)
    tokens = functional.pad(batch.tokens[some], (0, room))
    zeroed = SequenceBatch(
        acts=acts,
        mask=torch.ones_like(seen),
        tokens=tokens,
        positions=torch.arange(context, device=tokens.device).expand_as(tokens),
        doc_ids=torch.zeros_like(tokens),
        source=batch.source[: len(some)],
    )
    return zeroed, seen


@dataclass(frozen=True)
class HubTable:
    """Which columns of a hub data set hold the text and the two labels, and what the values mean."""

    text: str
    first: str
    second: str
    seconds: dict[Any, str]
    """The first of them goes with the first of a pair."""
    pairs: dict[tuple[str, str], tuple[Any, Any]]
    """Names of the first label's values that are told apart, and the values."""


TABLES: dict[str, HubTable] = {
    BIOS: HubTable(
        text="hard_text",
        first="profession",
        second="gender",
        seconds={0: "male", 1: "female"},
        pairs={
            ("professor", "nurse"): (21, 13),
            ("architect", "journalist"): (1, 11),
            ("surgeon", "psychologist"): (25, 22),
            ("attorney", "teacher"): (2, 26),
        },
    ),
    AMAZON: HubTable(
        text="text",
        first="category",
        second="rating",
        seconds={1.0: "1 star", 5.0: "5 stars"},
        pairs={
            ("Books", "CDs_and_Vinyl"): (24, 26),
            ("Software", "Electronics"): (30, 6),
            ("Pet_Supplies", "Office_Products"): (18, 11),
            ("Industrial_and_Scientific", "Toys_and_Games"): (3, 1),
        },
    ),
}
"""SAEBench's texts with two labels, on the Hugging Face Hub."""


def pair_name(repo: str, pair: tuple[str, str]) -> str:
    """The name by which a pair is asked for: `LabHC/bias_in_bios:professor-nurse`."""
    return f"{repo}:{pair[0]}-{pair[1]}"


def register() -> None:
    """Make SAEBench's eight pairs known to the evaluations' data."""
    for repo, table in TABLES.items():
        for pair in table.pairs:
            read = partial(read_pair, repo, table, pair)
            LABELLED.register_hub(pair_name(repo, pair), read, partial(hub_problem, repo))


def read_pair(source: str, table: HubTable, pair: tuple[str, str], split: str) -> LabelledTexts:
    """Texts of the four combinations, in the data set's order; the first one carries the first of both labels.

    Args:
        source: name on the hub, or a local copy's folder.

    Raises:
        UserError: the data set can't be read, or a column or a combination is missing.
    """
    names = dict(zip(table.pairs[pair], pair, strict=True))
    quadrants: dict[tuple[str, str], list[str]] = {(a, b): [] for a in pair for b in table.seconds.values()}
    for row in _rows(source, table, split):
        found = quadrants.get((names.get(row[table.first], ""), table.seconds.get(row[table.second], "")))
        if found is not None and len(found) < ENOUGH:
            found.append(row[table.text])
    empty = [" ".join(labels) for labels, texts in quadrants.items() if not texts]
    if empty:
        raise UserError(f"{source}: the {split} part holds no text of {', '.join(empty)}; use another pair")
    rows = [(text, *labels) for labels, texts in quadrants.items() for text in texts]
    texts, firsts, seconds = zip(*rows, strict=True)
    return LabelledTexts(pair_name(source, pair), texts, firsts, second=seconds)


def _rows(source: str, table: HubTable, split: str) -> Iterator[Any]:
    import datasets

    try:
        data = datasets.load_dataset(source, split=split)
    except Exception as error:  # whatever went wrong, a local copy is the remedy
        raise UserError(
            f"{source}: the {split} part can't be read ({type(error).__name__}); give local texts with label and"
            " second_label instead"
        ) from error
    wanted = [table.text, table.first, table.second]
    missing = [column for column in wanted if column not in (data.column_names or [])]
    if missing:
        raise UserError(f"{source}: has no column {', '.join(missing)}; there are {', '.join(data.column_names or [])}")
    yield from data.select_columns(wanted)
