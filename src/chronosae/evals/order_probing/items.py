"""What is probed: tokens with one of two labels, in whole texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.config import UserError
from chronosae.evals.data import LabelledTexts
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench


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
        rows, row, pos, torch.tensor([label == data.classes[1] for label in data.labels]), _numbered(data)
    )
    seen = torch.tensor([bool(span) for span in spans]) & rows.mask[row, pos]
    whole = ~torch.isin(items.group, items.group[~seen])
    return items.pick(whole.nonzero().squeeze(1)), int((~whole).sum())


def _numbered(data: LabelledTexts) -> Int[Tensor, " items"]:
    names: Sequence[str] = data.texts if data.groups is None else data.groups
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])


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
