"""n-back from any text: did this token stand n tokens ago, or at another distance just as near?

The two items of a pair are the same token of the same text, so neither the token nor the text's bag tells them apart.
Both tokens came up exactly once in the window behind them: one n tokens ago, the other (a lure) elsewhere. That a token
repeats, or that it repeated lately, says nothing.
"""

from collections.abc import Sequence

import torch

from chronosae.evals.order_probing.items import TokenItems
from chronosae.evals.workbench import Workbench

PAIRS_A_TEXT = 4


def window(n: int) -> int:
    """How far back is looked for the one other occurrence: as far beyond n as before it."""
    return n + max(n - 1, 2)


def n_back_items(
    bench: Workbench, texts: Sequence[str], n: int, wanted: int, context: int, generator: torch.Generator
) -> TokenItems:
    """At least `wanted` items, where texts in this order hold so many; label True: the token n before is the same.

    Each text is a group. Empty where nothing fits.
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
