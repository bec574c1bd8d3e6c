"""What sparse probing reads: options, balanced rows of each data set, tasks, and a vector a text."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import pad

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.config import UserError
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.evals.evaluation import EvalOptions
from chronosae.evals.probes import RAW, Pooling, pool_codes, pool_dense, pooled
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench, encode, evaluating

NAME = "sparse_probing"
KEY = "evals.sparse_probing.data"
# A class with fewer texts is left out: a probe on them, or its accuracy, would say nothing.
FEWEST = {"train": 20, "test": 10}
SAEBENCH_K = (1, 2, 5, 10, 20, 50, 100)
"""The numbers of features for which SAEBench has a metric."""


@dataclass(frozen=True)
class Protocol:
    """What a protocol says where the options say nothing."""

    k: tuple[int, ...]
    pooling: Pooling
    most_train_rows: int | None = None
    """Training texts of a task beyond which the protocol uses none."""


PROTOCOLS = {
    "chronosae": Protocol(SAEBENCH_K, "mean"),
    "saebench": Protocol((1, 2, 5), "mean"),
    "sae_probes": Protocol((1, 2, 5), "last", most_train_rows=1024),
}


class SparseProbingOptions(EvalOptions):
    """Sparse probing: how well k features alone tell a text's class."""

    data: list[str] = Field(default=["world/subject", "world/kind", "world/topic"], min_length=1)
    """Labelled texts: `world/...` names, SAEBench's hub sets, local .jsonl files or folders."""
    protocol: Literal["chronosae", "saebench", "sae_probes"] = "chronosae"
    """`chronosae` (nothing is chosen on the test), `saebench` or `sae_probes` (theirs, their flaws included)."""
    k: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1)
    """Numbers of features; absent, the protocol's: 1, 2, 5, 10, 20, 50, 100, or 1, 2, 5 for the other two."""
    pooling: Pooling | None = None
    """One vector a text: `mean`, `max` or `last` token; absent, the protocol's (`last` for sae_probes, else `mean`)."""
    train_rows: Annotated[int, Field(ge=40)] = 4000
    """Most training texts of one class against the rest, half of them of the class."""
    test_rows: Annotated[int, Field(ge=20)] = 1000
    """Most test texts of one class against the rest, half of them of the class."""
    context: Annotated[int, Field(ge=2)] = 128
    """Tokens of a text that are read, BOS included."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training texts on which `chronosae` chooses when to stop the full-width probe."""
    zero_special: bool = True
    """Only for `saebench`: special positions and padding are zeroed before encoding, as SAEBench does."""

    @model_validator(mode="after")
    def _as_the_protocol_is(self) -> "SparseProbingOptions":
        fixed = PROTOCOLS[self.protocol].pooling
        if self.protocol != "chronosae" and self.pooling not in (None, fixed):
            raise ValueError(f"protocol {self.protocol} pools by {fixed}; for {self.pooling} take protocol chronosae")
        if len(set(self.ks)) != len(self.ks):
            raise ValueError("k holds the same number twice")
        return self

    @property
    def ks(self) -> tuple[int, ...]:
        """Numbers of features that are probed."""
        return PROTOCOLS[self.protocol].k if self.k is None else tuple(self.k)

    @property
    def pool(self) -> Pooling:
        """How a text becomes one vector."""
        return self.pooling or PROTOCOLS[self.protocol].pooling

    @property
    def rows(self) -> dict[str, int]:
        """Most texts of a task, by split."""
        most = PROTOCOLS[self.protocol].most_train_rows
        return {"train": self.train_rows if most is None else min(self.train_rows, most), "test": self.test_rows}


@dataclass(frozen=True)
class Part:
    """Rows of a data set with the answer of each: does it belong to the class?"""

    rows: Int[Tensor, " n"]
    labels: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, kept: Bool[Tensor, " rows"]) -> "Part":
        """The rows that a mask over the whole data set keeps."""
        inside = kept[self.rows]
        return Part(self.rows[inside], self.labels[inside])


@dataclass(frozen=True)
class Task:
    """One class against the rest, half and half."""

    name: str
    train: Part
    fit: Part
    """The training rows without those of `validation`."""
    validation: Part
    test: Part


def make_tasks(
    classes: Sequence[str],
    train: Int[Tensor, " train_rows"],
    test: Int[Tensor, " test_rows"],
    held_out: Bool[Tensor, " train_rows"],
    generator: torch.Generator,
) -> list[Task]:
    """A task for each class. `train` and `test` hold each row's number in `classes`, `held_out` the validation rows."""
    found = []
    for c, name in enumerate(classes):
        chosen = one_against_the_rest(train, c, len(classes), generator)
        asked = one_against_the_rest(test, c, len(classes), generator)
        found.append(Task(name, chosen, chosen.where(~held_out), chosen.where(held_out), asked))
    return found


def one_against_the_rest(
    labels: Int[Tensor, " rows"], positive: int, n_classes: int, generator: torch.Generator
) -> Part:
    """All rows of one class, and as many of the others: evenly from each, at random. In random order.

    Where the others hold too few, the class is cut to as many.
    """
    inside = (labels == positive).nonzero().squeeze(1)
    share = math.ceil(len(inside) / (n_classes - 1))
    others = [_some((labels == c).nonzero().squeeze(1), share, generator) for c in range(n_classes) if c != positive]
    outside = _some(torch.cat(others), len(inside), generator)
    inside = _some(inside, len(outside), generator)
    rows = torch.cat([inside, outside])
    order = torch.randperm(len(rows), generator=generator)
    return Part(rows[order], (order < len(inside)))


def held_out_groups(groups: Int[Tensor, " rows"], share: float, generator: torch.Generator) -> Bool[Tensor, " rows"]:
    """Rows of a random `share` of the groups, at least one group: a group is in or out as a whole."""
    n_groups = int(groups.max()) + 1
    n = min(max(1, round(share * n_groups)), n_groups - 1)
    chosen = torch.randperm(n_groups, generator=generator)[:n]
    return torch.isin(groups, chosen)


def _some(rows: Int[Tensor, " rows"], n: int, generator: torch.Generator) -> Int[Tensor, " some"]:
    return rows[torch.randperm(len(rows), generator=generator)[:n]]


@dataclass(frozen=True)
class ProbingSet:
    """One data set, ready to be encoded and probed."""

    name: str
    train: TokenRows
    test: TokenRows
    tasks: list[Task]
    test_groups: Int[Tensor, " test_rows"]
    sha256: str
    """Hash of what is read and of the labels."""
    facts: dict[str, int | float]
    """Plain numbers about it, for the result file."""
    flags: tuple[str, ...]


def read_set(name: str, options: SparseProbingOptions, bench: Workbench) -> ProbingSet:
    """Read, balance and tokenise `name`.

    Every class has as many texts as the rarest, at most half of `train_rows` and `test_rows`. Training texts that are
    also in the test, and those of a group that is, are left out first, except by SAEBench's protocol.

    Raises:
        UserError: the data can't be read, or fewer than two classes are left.
    """
    parts = {split: LABELLED.read(name, split, KEY) for split in ("train", "test")}
    alone, shared = _without_shared(name, parts["train"], parts["test"])
    if options.protocol != "saebench":
        parts["train"] = alone
    classes, left_out = _classes(name, parts)
    chosen = {}
    for split, part in parts.items():
        kept = [i for i, label in enumerate(part.labels) if label in classes]
        most = options.rows[split] // 2 * len(classes)
        rarest = min(Counter(part.labels[i] for i in kept).values())
        n = min(most, rarest * len(classes))
        chosen[split] = part.rows(kept).balanced(n, bench.generator(NAME, LABELLED.label(name), split))
    return _tokenised(options, bench, name, classes, chosen, (*left_out, *shared))


def _without_shared(name: str, train: LabelledTexts, test: LabelledTexts) -> tuple[LabelledTexts, list[str]]:
    """The training texts that are not in the test, nor of a group that is, and flags about the others."""
    texts, groups = set(train.texts) & set(test.texts), set(train.groups or ()) & set(test.groups or ())
    flags = [f"train_texts_in_test: {name}: {len(texts)}"] if texts else []
    flags += [f"train_groups_in_test: {name}: {len(groups)}"] if groups else []
    of = train.groups or train.texts
    kept = [i for i, text in enumerate(train.texts) if text not in texts and (not groups or of[i] not in groups)]
    return train.rows(kept), flags


def _classes(name: str, parts: dict[str, LabelledTexts]) -> tuple[list[str], list[str]]:
    counts = {split: Counter(part.labels) for split, part in parts.items()}
    seen = sorted(set(counts["train"]) | set(counts["test"]))
    found = [label for label in seen if all(counts[split][label] >= FEWEST[split] for split in counts)]
    if len(found) < 2:
        raise UserError(
            f"{KEY}: {name}: needs two classes with at least {FEWEST['train']} training and {FEWEST['test']} test"
            f" texts each; it has {len(found)}: give more rows"
        )
    left = [label for label in seen if label not in found]
    return found, [f"classes_left_out: {name}: {', '.join(left)}"] if left else []


def _tokenised(
    options: SparseProbingOptions,
    bench: Workbench,
    name: str,
    classes: Sequence[str],
    parts: dict[str, LabelledTexts],
    flags: tuple[str, ...],
) -> ProbingSet:
    train, test = parts["train"], parts["test"]
    rows = {split: bench.read(part.texts, options.context) for split, part in parts.items()}
    number = {label: i for i, label in enumerate(classes)}
    labels = {split: torch.tensor([number[label] for label in part.labels]) for split, part in parts.items()}
    generators = [bench.generator(NAME, LABELLED.label(name), what) for what in ("validation", "tasks")]
    held_out = held_out_groups(train.group_ids, options.validation_share, generators[0])
    tasks = make_tasks(classes, labels["train"], labels["test"], held_out, generators[1])
    digest = hashlib.sha256(repr([part.sha256() for part in rows.values()]).encode())
    digest.update(repr([train.labels, test.labels]).encode())
    facts = {
        "classes": len(classes),
        "train_texts": len(train),
        "test_texts": len(test),
        "truncated_share": float(rows["test"].truncated.float().mean()),
        "texts_without_tokens": sum(int((~part.mask.any(1)).sum()) for part in rows.values()),
    }
    return ProbingSet(name, rows["train"], rows["test"], tasks, test.group_ids, digest.hexdigest(), facts, flags)


def text_vectors(
    bench: Workbench, rows: TokenRows, saes: Mapping[str, Autoencoder], options: SparseProbingOptions, what: str
) -> dict[str, Float[Tensor, "rows width"]]:
    """A vector a text for each autoencoder, and for the raw activations under `RAW`; float32 on the CPU."""
    if options.protocol != "saebench":
        return pooled(bench, rows, saes, options.pool, what)
    shown = rows.showing(ordinary(rows, bench))
    if not options.zero_special:
        return pooled(bench, shown, saes, options.pool, what)
    return zeroed_means(bench, shown, saes, min(options.context, bench.subject.max_context), what)


def ordinary(rows: TokenRows, bench: Workbench) -> Bool[Tensor, "rows pos"]:
    """What SAEBench counts: every token but BOS, EOS and padding; the first position too where there is no BOS."""
    tokenizer = bench.subject.tokenizer
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    return rows.real & ~torch.isin(rows.tokens, torch.tensor(sorted(special), dtype=rows.tokens.dtype))


def zeroed_means(
    bench: Workbench, rows: TokenRows, saes: Mapping[str, Autoencoder], context: int, what: str
) -> dict[str, Float[Tensor, "rows width"]]:
    """SAEBench's vectors: masked positions are zeroed *before* encoding, every text is padded to the context, and the
    autoencoder is told of no mask; the codes are then averaged over the positions that weren't zeroed.

    What comes after a text can't change its codes where the autoencoder is causal: there the padding is left out.
    """
    widths = {RAW: bench.subject.info.d_model} | {name: sae.d_sae for name, sae in saes.items()}
    found = {name: torch.zeros(len(rows), width) for name, width in widths.items()}
    with torch.no_grad(), evaluating(saes):
        for part in bench.batches(rows, what):
            found[RAW][part.index] = pool_dense(part.batch.acts, part.batch.mask, "mean").cpu()
            for name, sae in saes.items():
                batch, kept = zeroed(part.batch, part.batch.mask.shape[1] if sae.causal else context)
                codes = encode(sae, batch)
                found[name][part.index] = pool_codes(codes, kept.to(codes.values.device), "mean").float().cpu()
    return found


def zeroed(batch: SequenceBatch, context: int) -> tuple[SequenceBatch, Bool[Tensor, "batch pos"]]:
    """The batch with zero vectors for masked positions, padded to `context` and wholly unmasked; and its old mask."""
    more = context - batch.mask.shape[1]
    kept = pad(batch.mask, (0, more))
    tokens = pad(batch.tokens, (0, more))
    changed = SequenceBatch(
        acts=pad(batch.acts * batch.mask.unsqueeze(-1), (0, 0, 0, more)),
        mask=torch.ones_like(kept),
        tokens=tokens,
        positions=torch.arange(context, device=tokens.device).expand_as(tokens),
        doc_ids=torch.zeros_like(tokens),
        source=batch.source,
    )
    return changed, kept
