"""What `chronosae list` prints."""

import json

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chronosae.autoencoders import PRESETS
from chronosae.autoencoders.catalogue import describe, option_entries

ROOMY = 110  # columns


def print_presets(as_json: bool) -> None:
    """Every preset, one row each."""
    rows = [describe(name) for name in PRESETS]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    columns = ("preset", "causal", "reads", "what it is", "paper")
    console = Console()
    # In a narrow terminal the line about each preset is worth more than where it comes from.
    table = _table(*columns[: 5 if console.width >= ROOMY else 4])
    for row in rows:
        cells = (row["name"], causal(row["causal"]), reads(row["receptive_field"]), row["summary"], row["paper"])
        table.add_row(*map(Text, cells[: len(table.columns)]))
    console.print(table)
    click.echo("\nreads: tokens that a code depends on, with default options. Options: chronosae list NAME")


def print_preset(name: str, as_json: bool) -> None:
    """One preset and its options.

    Raises:
        UserError: no such preset.
    """
    row = describe(name)
    options = option_entries(name)
    if as_json:
        click.echo(json.dumps(row | {"options": [option._asdict() for option in options]}, indent=2))
        return
    click.echo(f"{name}: {row['summary']} ({row['paper']})")
    click.echo(f"causal: {causal(row['causal'])}; reads {reads(row['receptive_field'])} token(s) by default\n")
    console = Console()
    table = _table("option", "type", "default", "meaning")
    for option in options:
        table.add_row(*map(Text, option))
    console.print(table)
    if any("part" in option.type for option in options):
        click.echo("\npart: a mapping with `kind`; docs/architectures/parts.md lists the kinds and their options")


def causal(value: bool) -> str:
    """yes or no."""
    return "yes" if value else "no"


def reads(receptive_field: int | None) -> str:
    """How many tokens a code depends on."""
    return "all earlier" if receptive_field is None else str(receptive_field)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        # Names stay whole; sentences wrap.
        table.add_column(column, no_wrap=column in ("preset", "option", "causal"), overflow="fold")
    return table
