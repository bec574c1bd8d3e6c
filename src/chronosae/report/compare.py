"""Runs side by side: one row for each run and autoencoder, repeats over seeds in one row."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from chronosae.report import flags as flag_words
from chronosae.report.files import mapping
from chronosae.report.runs import Run, SAEResult
from chronosae.report.statistics import L0_TOLERANCE, LEVEL, Estimate, estimate, l0_groups

# First in JSON and CSV, and the ones a table shows; every other core metric follows in alphabetical order.
MAIN_METRICS = (
    "l0",
    "novel_l0",
    "explained_variance",
    "pca_explained_variance",
    "ce_loss_score",
    "kl_div_score",
    "mse",
    "cossim",
    "frac_alive",
    "final_loss",
)


@dataclass(frozen=True)
class Row:
    """One autoencoder of one run, over its seeds."""

    run: str
    title: str
    sae: str
    preset: str
    site: str
    d_sae: int | None
    k: float | None
    """Active features a token asked for (TopK's k), or None."""
    target_l0: float | None
    """What the penalty was steered to, or None."""
    seeds: tuple[int | None, ...]
    metrics: dict[str, Estimate | None]
    """Core metrics and final_loss; None where a metric is undefined for every seed."""
    flags: tuple[str, ...]
    """Each with `(2 of 3 seeds)` when not all seeds raise it."""
    l0_group: str | None
    """Rows with the same subject, site and letter have L0 within 5 %; None when L0 is undefined."""
    l0_matched: bool | None
    """Whether another row shares the letter; None when there is no other row to match, or no L0."""

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.seeds)


@dataclass(frozen=True)
class Comparison:
    """What `chronosae compare` shows."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    """What a reader must know before comparing rows."""


def comparison(runs: Sequence[Run]) -> Comparison:
    """Rows in the order of the runs and, within a run, of its configuration."""
    found = [(run, members) for run in runs for members in by_base(run).values()]
    groups = _groups(found)
    names = _metric_names(runs)
    rows = [_row(run, members, names, groups[i], groups) for i, (run, members) in enumerate(found)]
    return Comparison(tuple(rows), tuple(_notes(runs, rows)))


def by_base(run: Run) -> dict[str, list[SAEResult]]:
    """The autoencoders of a run, repeats over seeds together."""
    groups: dict[str, list[SAEResult]] = {}
    for sae in run.saes:
        groups.setdefault(sae.base, []).append(sae)
    return groups


def metric(sae: SAEResult, name: str) -> float | None:
    """A core metric or `final_loss`; None when undefined."""
    return sae.final_loss if name == "final_loss" else sae.metrics.get(name)


def needs_letters(rows: Iterable[Row]) -> bool:
    """Whether some rows of one site aren't matched in L0, so that the letters must be shown."""
    places = {(row.site, row.l0_group) for row in rows if row.l0_group}
    return len({site for site, _ in places}) < len(places)


def _metric_names(runs: Iterable[Run]) -> list[str]:
    others = {name for run in runs for sae in run.saes for name in sae.metrics} - set(MAIN_METRICS)
    return [*MAIN_METRICS, *sorted(others)]


Group = tuple[str, str, str | None]


def _groups(found: Sequence[tuple[Run, list[SAEResult]]]) -> list[Group]:
    """(subject, site, letter) of each row; letters are given within one subject and site."""
    places = [(_subject(run), members[0].site) for run, members in found]
    l0s = [estimate(sae.metrics.get("novel_l0") for sae in members) for _, members in found]
    letters: list[str | None] = [None] * len(found)
    for place in set(places):
        here = [i for i, other in enumerate(places) if other == place]
        values = [None if (l0 := l0s[i]) is None else l0.mean for i in here]
        for i, letter in zip(here, l0_groups(values), strict=True):
            letters[i] = letter
    return [(*place, letter) for place, letter in zip(places, letters, strict=True)]


def _subject(run: Run) -> str:
    subject = mapping(run.info.get("subject"))
    return str(subject.get("fingerprint") or subject.get("model") or "")


def _row(run: Run, members: list[SAEResult], names: list[str], group: Group, groups: list[Group]) -> Row:
    first = members[0]
    peers = sum(other[:2] == group[:2] and other[2] is not None for other in groups) - 1
    matched = None if group[2] is None or peers == 0 else groups.count(group) > 1
    k, target = first.options.get("k"), first.target
    return Row(
        run=run.label,
        title=run.name,
        sae=first.base,
        preset=first.preset,
        site=first.site,
        d_sae=first.d_sae,
        k=target if k is not None else None,
        target_l0=target if k is None else None,
        seeds=tuple(sae.seed for sae in members),
        metrics={name: estimate(metric(sae, name) for sae in members) for name in names},
        flags=_flags(members),
        l0_group=group[2],
        l0_matched=matched,
    )


def _flags(members: Sequence[SAEResult]) -> tuple[str, ...]:
    raised: dict[str, list[str]] = {}
    for sae in members:
        for flag in sae.flags:
            raised.setdefault(flag_words.key(flag), []).append(flag)
    return tuple(
        (name if len(set(flags)) > 1 else flags[0])
        + ("" if len(flags) == len(members) else f" ({len(flags)} of {len(members)} seeds)")
        for name, flags in raised.items()
    )


def _notes(runs: Sequence[Run], rows: Sequence[Row]) -> list[str]:
    notes = []
    if needs_letters(rows):
        notes.append(
            f"L0: rows of one site with different letters differ by more than {L0_TOLERANCE:.0%} in L0 and are not"
            " matched: don't compare their FVE, CE and KL."
        )
    sizes = {row.n for row in rows}
    if 1 in sizes:
        notes.append("n=1: one seed, so no interval; differences are exploratory.")
    if sizes - {1}:
        notes.append(f"± is the half width of the {LEVEL:.0%} t-interval of the mean over n seeds.")
    if any(row.n > found.n for row in rows for found in row.metrics.values() if found is not None):
        notes.append("(n=...): the metric is defined for that many of the row's seeds only.")
    notes += _differences(runs)
    return notes


def _differences(runs: Sequence[Run]) -> list[str]:
    """What makes numbers of different runs incomparable."""
    notes = []
    if len({_subject(run) for run in runs}) > 1:
        notes.append("The runs study different subjects: no metric compares across those.")
    if len({json.dumps(run.info.get("corpus"), sort_keys=True) for run in runs}) > 1:
        notes.append("The runs read different text: FVE, CE and KL may differ for that reason alone.")
    return notes


def to_json(compared: Comparison) -> str:
    """The comparison as JSON: every core metric as mean, interval and values, undefined ones null; never NaN."""
    rows = [_json_row(row) for row in compared.rows]
    data = {"schema": 1, "level": LEVEL, "l0_tolerance": L0_TOLERANCE, "rows": rows, "notes": list(compared.notes)}
    return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)


def _json_row(row: Row) -> dict[str, Any]:
    metrics = {
        name: None
        if found is None
        else {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n, "values": list(found.values)}
        for name, found in row.metrics.items()
    }
    return {**_head(row), "seeds": list(row.seeds), "metrics": metrics, "flags": list(row.flags)}


def _head(row: Row) -> dict[str, Any]:
    return {
        "run": row.run,
        "title": row.title,
        "sae": row.sae,
        "preset": row.preset,
        "site": row.site,
        "d_sae": row.d_sae,
        "k": row.k,
        "target_l0": row.target_l0,
        "n": row.n,
        "l0_group": row.l0_group,
        "l0_matched": row.l0_matched,
    }


def to_csv(compared: Comparison) -> str:
    """The comparison as CSV: `<metric>`, `<metric>_low`, `<metric>_high`, `<metric>_n`; undefined is empty."""
    text = io.StringIO()
    lines = [_csv_row(row) for row in compared.rows]
    writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else ["run"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_row(row: Row) -> dict[str, Any]:
    line = {**_head(row), "seeds": " ".join(str(seed) for seed in row.seeds if seed is not None)}
    for name, found in row.metrics.items():
        line[name] = None if found is None else found.mean
        line[f"{name}_low"] = None if found is None else found.low
        line[f"{name}_high"] = None if found is None else found.high
        line[f"{name}_n"] = 0 if found is None else found.n
    return {**line, "flags": "; ".join(row.flags)}
