"""A data set as the evaluation uses it: balanced rows, classes in both parts, tasks."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from chronosae.config import UserError
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.evals.sparse_probing.options import SparseProbingOptions
from chronosae.evals.sparse_probing.tasks import Task, held_out_groups, make_tasks
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

NAME = "sparse_probing"
KEY = "evals.sparse_probing.data"
# A class with fewer texts is left out: a probe on them, or its accuracy, would say nothing.
FEWEST = {"train": 20, "test": 10}


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
    return _tokenised(name, classes, chosen["train"], chosen["test"], options, bench, (*left_out, *shared))


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
    name: str,
    classes: Sequence[str],
    train: LabelledTexts,
    test: LabelledTexts,
    options: SparseProbingOptions,
    bench: Workbench,
    flags: tuple[str, ...],
) -> ProbingSet:
    rows = {"train": bench.read(train.texts, options.context), "test": bench.read(test.texts, options.context)}
    labels = {split: _numbers(part.labels, classes) for split, part in (("train", train), ("test", test))}
    generators = [bench.generator(NAME, LABELLED.label(name), what) for what in ("validation", "tasks")]
    held_out = held_out_groups(_group_ids(train), options.validation_share, generators[0])
    tasks = make_tasks(classes, labels["train"], labels["test"], held_out, generators[1])
    digest = hashlib.sha256(repr([rows[s].sha256() for s in rows]).encode())
    digest.update(repr([train.labels, test.labels]).encode())
    facts = {
        "classes": len(classes),
        "train_texts": len(train),
        "test_texts": len(test),
        "truncated_share": float(rows["test"].truncated.float().mean()),
        "texts_without_tokens": sum(int((~part.mask.any(1)).sum()) for part in rows.values()),
    }
    return ProbingSet(name, rows["train"], rows["test"], tasks, _group_ids(test), digest.hexdigest(), facts, flags)


def _numbers(labels: Sequence[str], classes: Sequence[str]) -> Int[Tensor, " rows"]:
    number = {label: i for i, label in enumerate(classes)}
    return torch.tensor([number[label] for label in labels])


def _group_ids(data: LabelledTexts) -> Int[Tensor, " rows"]:
    """Numbers from 0 for what is resampled together; equal texts are one group where the data name none."""
    groups = data.texts if data.groups is None else data.groups
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return torch.tensor([number[group] for group in groups])
