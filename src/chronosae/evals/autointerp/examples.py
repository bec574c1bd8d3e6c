"""Examples of one latent as text: what an explanation is made from, and what it is judged on."""

from dataclasses import dataclass

import torch

from chronosae.evals.autointerp.contexts import Contexts
from chronosae.evals.autointerp.gather import Gathered, Pool
from chronosae.evals.autointerp.options import AutointerpOptions


@dataclass(frozen=True)
class Example:
    """A few tokens of one document."""

    text: str
    marks: tuple[tuple[int, int], ...]
    """Characters of the active tokens; none for a random example."""
    active: bool
    """The latent is active at a token of it."""
    largest: float
    """Largest activation."""
    random: bool
    """Chosen without regard to the latent."""


@dataclass(frozen=True)
class Examples:
    """Of one latent."""

    to_explain: tuple[Example, ...]
    """Most strongly active first."""
    to_judge: tuple[Example, ...]
    """In random order."""


def make_examples(
    options: AutointerpOptions,
    contexts: Contexts,
    found: Gathered,
    pool: Pool,
    i: int,
    generator: torch.Generator,
) -> Examples | None:
    """Examples of the i-th chosen latent; None where it is active in too few contexts.

    Too few: fewer contexts than twice the active examples to judge, or too few random examples elsewhere. With
    fewer contexts than examples asked for, those to judge stay as many and an explanation is made from the rest.
    """
    threshold = options.act_threshold_frac * float(found.top.values[i].max())
    top = _examples(contexts, found, "top", i, threshold, skip=set())
    rest = _examples(contexts, found, "importance", i, threshold, skip={row for row, _ in top})
    rest = rest[: options.n_importance]
    if len(top) + len(rest) < 2 * options.n_active_scored:
        return None
    if len(top) + len(rest) < options.n_top + options.n_importance:
        explain, judge = _split([*top, *rest], options.n_active_scored, generator)
    else:
        explain, judge = _split(top, options.n_top_ex_for_scoring, generator)
        more = _split(rest, options.n_iw_sampled_ex_for_scoring, generator)
        explain, judge = explain + more[0], judge + more[1]
    used = {row for row, _ in [*top, *rest]}
    others = _random(options, contexts, found, pool, i, threshold, used, generator)
    if others is None:
        return None
    shown = [example for _, example in judge] + others
    order = torch.randperm(len(shown), generator=generator).tolist()
    ranked = sorted((example for _, example in explain), key=lambda example: -example.largest)
    return Examples(tuple(ranked), tuple(shown[j] for j in order))


Placed = tuple[int, Example]
"""An example and the context it comes from."""


def _examples(
    contexts: Contexts, found: Gathered, which: str, i: int, threshold: float, skip: set[int]
) -> list[Placed]:
    """Examples of one kind that are chosen for an active token, largest key first."""
    best = found.top if which == "top" else found.importance
    window = best.codes.shape[-1]
    placed = []
    for slot, row in enumerate(best.rows[i].tolist()):
        if row < 0 or row in skip or float(best.values[i, slot]) <= threshold:
            continue
        start = int(best.starts[i, slot])
        codes = best.codes[i, slot].tolist()
        text, spans = contexts.text(row, start, start + window)
        marks = tuple(span for span, code in zip(spans, codes, strict=True) if code > threshold)
        placed.append((row, Example(text, marks, True, max(codes), random=False)))
    return placed


def _split(placed: list[Placed], n: int, generator: torch.Generator) -> tuple[list[Placed], list[Placed]]:
    """All but n, and n, at random."""
    order = torch.randperm(len(placed), generator=generator).tolist()
    return [placed[j] for j in order[n:]], [placed[j] for j in order[:n]]


def _random(
    options: AutointerpOptions,
    contexts: Contexts,
    found: Gathered,
    pool: Pool,
    i: int,
    threshold: float,
    used: set[int],
    generator: torch.Generator,
) -> list[Example] | None:
    """Random examples from contexts that serve for nothing else of this latent; None where there are too few."""
    chosen: list[Example] = []
    taken = set(used)
    for j in torch.randperm(len(pool.rows), generator=generator).tolist():
        row, start = int(pool.rows[j]), int(pool.starts[j])
        if row in taken:
            continue
        taken.add(row)
        text, _ = contexts.text(row, start, start + options.window)
        largest = float(found.in_pool[j, i])
        chosen.append(Example(text, (), largest > threshold, largest, random=True))
        if len(chosen) == options.n_random_ex_for_scoring:
            return chosen
    return None
