"""SAEBench's texts with two labels, from the Hugging Face Hub: profession and gender, product category and rating."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from chronosae.config import UserError
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.evals.data.hub_labelled import AMAZON, BIOS, hub_problem

# More texts of one combination are never needed: SAEBench takes 2,000.
ENOUGH = 2000


@dataclass(frozen=True)
class HubTable:
    """Which columns of a hub data set hold the text and the two labels, and what the values mean."""

    text: str
    first: str
    second: str
    firsts: dict[Any, str]
    seconds: dict[Any, str]
    """The first of them goes with the first of a pair."""
    pairs: tuple[tuple[str, str], ...]


TABLES: dict[str, HubTable] = {
    BIOS: HubTable(
        text="hard_text",
        first="profession",
        second="gender",
        firsts={
            21: "professor",
            13: "nurse",
            1: "architect",
            11: "journalist",
            25: "surgeon",
            22: "psychologist",
            2: "attorney",
            26: "teacher",
        },
        seconds={0: "male", 1: "female"},
        pairs=(
            ("professor", "nurse"),
            ("architect", "journalist"),
            ("surgeon", "psychologist"),
            ("attorney", "teacher"),
        ),
    ),
    AMAZON: HubTable(
        text="text",
        first="category",
        second="rating",
        firsts={
            24: "Books",
            26: "CDs_and_Vinyl",
            30: "Software",
            6: "Electronics",
            18: "Pet_Supplies",
            11: "Office_Products",
            3: "Industrial_and_Scientific",
            1: "Toys_and_Games",
        },
        seconds={1.0: "1 star", 5.0: "5 stars"},
        pairs=(
            ("Books", "CDs_and_Vinyl"),
            ("Software", "Electronics"),
            ("Pet_Supplies", "Office_Products"),
            ("Industrial_and_Scientific", "Toys_and_Games"),
        ),
    ),
}


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

    Arguments:
        source: name on the hub, or a local copy's folder.

    Raises:
        UserError: the data set can't be read, or a column or a combination is missing.
    """
    quadrants: dict[tuple[str, str], list[str]] = {(a, b): [] for a in pair for b in table.seconds.values()}
    for row in _rows(source, table, split):
        found = quadrants.get((table.firsts.get(row[table.first], ""), table.seconds.get(row[table.second], "")))
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
