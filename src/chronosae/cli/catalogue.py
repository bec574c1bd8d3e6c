"""What `chronosae list` prints: everything that can be asked for by name, of whatever sort."""

import difflib
import importlib
import json
from typing import Any

import click
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chronosae import world
from chronosae.config import UserError
from chronosae.config.reference import Entry, entries
from chronosae.config.registry import OWN, REGISTRIES, summary_of
from chronosae.presets import PRESETS
from chronosae.presets.catalogue import describe, option_entries

ROOMY = 110  # columns
PRESET = "preset"
ROOMS = ("autoencoders", "corpora", "evals", "interventions")
"""Rooms that hold registries."""


def sorts() -> dict[str, list[str]]:
    """Sort -> names: presets, then whatever has a registry, those of plugins included."""
    for room in ROOMS:
        importlib.import_module(f"chronosae.{room}")
    world.register()
    others = {_word(sort): registry.names() for sort, registry in REGISTRIES.items() if sort != PRESET}
    return {PRESET: list(PRESETS)} | {sort: names for sort, names in others.items() if names}


def _word(sort: str) -> str:
    return sort.replace(" ", "_")


def _class(sort: str, name: str) -> type[BaseModel]:
    return next(registry for title, registry in REGISTRIES.items() if _word(title) == sort)[name]


def _summary(sort: str, name: str) -> dict[str, Any]:
    return {"name": name, "summary": summary_of(_class(sort, name))}


def print_all(as_json: bool) -> None:
    """Everything, one row each."""
    found = sorts()
    presets = [describe(name) for name in found.pop(PRESET)]
    parts = {
        s: [{"name": name, "summary": summary_of(_class(s, name))} for name in names] for s, names in found.items()
    }
    if as_json:
        click.echo(json.dumps({PRESET: presets, **parts}, indent=2))
        return
    columns = ("preset", "causal", "reads", "what it is", "paper")
    console = Console()
    # In a narrow terminal the line about each preset is worth more than where it comes from.
    table = _table(*columns[: 5 if console.width >= ROOMY else 4])
    for row in presets:
        cells = (row["name"], causal(row["causal"]), reads(row["receptive_field"]), row["summary"], row["paper"])
        table.add_row(*map(Text, cells[: len(table.columns)]))
    console.print(table)
    click.echo("\nreads: tokens that a code depends on, with default options")
    for sort, rows in parts.items():
        table = _table(sort.replace("_", " "), "what it is")
        for row in rows:
            table.add_row(*map(Text, row.values()))
        console.print("", table)
    click.echo(f"\nOptions: chronosae list NAME {OWN}")


def print_one(name: str, as_json: bool) -> None:
    """One of them and its options; `sort.name` tells apart those that share a name.

    Raises:
        UserError: nothing is called so.
    """
    sort, name, others = _find(name)
    row = describe(name) if sort == PRESET else {"sort": sort, **_summary(sort, name)}
    options = option_entries(name) if sort == PRESET else _options(_class(sort, name))
    if as_json:
        click.echo(json.dumps(row | {"options": [option._asdict() for option in options]}, indent=2))
        return
    if sort == PRESET:
        click.echo(f"{name}: {row['summary']} ({row['paper']})")
        click.echo(f"causal: {causal(row['causal'])}; reads {reads(row['receptive_field'])} token(s) by default\n")
    else:
        click.echo(f"{name} ({sort.replace('_', ' ')}): {row['summary']}\n")
    if options:
        table = _table("option", "type", "default", "meaning")
        for option in options:
            table.add_row(*map(Text, option))
        Console().print(table)
    if any("part" in option.type for option in options):
        click.echo("\npart: a mapping with `kind`; chronosae list names the kinds")
    if others:
        click.echo("\nof the same name: " + ", ".join(f"chronosae list {other}.{name}" for other in others))


def _find(name: str) -> tuple[str, str, list[str]]:
    """Sort and name of what `name` means, and the other sorts that have one of that name."""
    found = sorts()
    sort, dot, rest = name.partition(".")
    if dot and rest in found.get(sort, ()):
        return sort, rest, []
    having = [sort for sort, names in found.items() if name in names]
    if having:
        return having[0], name, having[1:]
    close = difflib.get_close_matches(name, [one for names in found.values() for one in names], n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"list: nothing is called {name!r}{hint} Presets: {', '.join(PRESETS)}; all: chronosae list {OWN}")


def _options(part: type[BaseModel]) -> list[Entry]:
    """The options of a part, `kind` left out; where it says nothing of one, what its base says."""
    bases = [base for base in part.__mro__ if issubclass(base, BaseModel)]

    def inherited(key: str) -> str:
        docs = (base.model_fields[key].description for base in bases if key in base.model_fields)
        return " ".join(next((doc for doc in docs if doc), "").split())

    found = [entry for entry in entries(part) if entry.key != "kind"]
    return [entry if entry.doc else entry._replace(doc=inherited(entry.key)) for entry in found]


def causal(value: bool) -> str:
    """yes or no."""
    return "yes" if value else "no"


def reads(receptive_field: int | None) -> str:
    """How many tokens a code depends on."""
    return "all earlier" if receptive_field is None else str(receptive_field)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        # Names stay whole; sentences wrap.
        table.add_column(column, no_wrap=i == 0 or column == "causal", overflow="fold")
    return table
