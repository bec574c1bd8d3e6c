"""Runs side by side: one row for each run and autoencoder, repeats over seeds in one row."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chronosae.config import UserError
from chronosae.config import flags as flag_words
from chronosae.config.run_folder import SAEResult
from chronosae.report.runs import Run
from chronosae.report.statistics import (
    ENOUGH_PAIRS,
    FEWEST_PAIRS,
    L0_TOLERANCE,
    LEVEL,
    Difference,
    Estimate,
    difference,
    estimate,
    headlines,
    holm,
    l0_groups,
)

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
    differences: Mapping[str, Difference]
    """To the baseline at the same subject and site, by headline metric; empty for the baseline itself."""
    over_examples: Mapping[str, tuple[float, float]]
    """With one seed, each metric's 95 % interval over resampled examples where an evaluation's file has it."""

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


def comparison(runs: Sequence[Run], baseline: str | None = None) -> Comparison:
    """Rows in the order of the runs and, within a run, of its configuration.

    Args:
        baseline: the autoencoder that others are tested against, in each run and site that has it; absent, the first.

    Raises:
        UserError: no run has an autoencoder called `baseline`.
    """
    found = [(run, members) for run in runs for members in run.by_base().values()]
    if baseline is not None and all(members[0].base != baseline for _, members in found):
        raise UserError(f"--baseline {baseline}: the runs have {', '.join({m[0].base: None for _, m in found})}")
    groups = _groups(found)
    names = _metric_names(runs)
    tested = _tested(found, baseline)
    rows = [_row(run, members, names, groups[i], groups, tested[i]) for i, (run, members) in enumerate(found)]
    return Comparison(tuple(rows), tuple(_notes(runs, rows)))


def _tested(found: Sequence[tuple[Run, list[SAEResult]]], baseline: str | None) -> list[dict[str, Difference]]:
    """The differences of each row to the baseline of its run and site; one correction for all of them."""
    places = [(run.label, members[0].site) for run, members in found]
    raw: list[tuple[int, Difference]] = []
    for i, (_, members) in enumerate(found):
        here = [found[j][1] for j, place in enumerate(places) if place == places[i]]
        others = [m for m in here if baseline is None or m[0].base == baseline]
        if others and others[0] is not members:
            made = (difference(metric, members, others[0]) for metric in headlines())
            raw += [(i, one) for one in made if one is not None]
    tested: list[dict[str, Difference]] = [{} for _ in found]
    for (i, _), one in zip(raw, holm([one for _, one in raw]), strict=True):
        tested[i][one.metric] = one
    return tested


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
    return run.info.subject.fingerprint or run.info.subject.model or ""


def _row(
    run: Run,
    members: list[SAEResult],
    names: list[str],
    group: Group,
    groups: list[Group],
    differences: Mapping[str, Difference],
) -> Row:
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
        differences=differences,
        over_examples=run.intervals(first.name) if len(members) == 1 else {},
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
        notes.append("n=1: one seed, so no interval over seeds; differences are exploratory.")
    notes += _over_examples(rows, several=len(runs) > 1)
    if sizes - {1}:
        notes.append(f"± is the half width of the {LEVEL:.0%} t-interval of the mean over n seeds.")
    if any(row.n > found.n for row in rows for found in row.metrics.values() if found is not None):
        notes.append("(n=...): the metric is defined for that many of the row's seeds only.")
    tests = [one for row in rows for one in row.differences.values()]
    if any(one.p is not None for one in tests):
        against = ", ".join(dict.fromkeys(one.baseline for one in tests))
        notes.append(
            f"≈ after a number: no significant difference to {against} (paired t-test over seeds, Holm-corrected over"
            f" the {sum(one.p is not None for one in tests)} tests of the table, 5 %)."
        )
    if any(one.found.n < ENOUGH_PAIRS for row in rows if row.n > 1 for one in row.differences.values()):
        notes.append(
            f"Differences over fewer than {ENOUGH_PAIRS} pairs of seeds are exploratory; over fewer than {FEWEST_PAIRS}"
            " they are not tested, and nothing marks them."
        )
    notes += _differences(runs)
    return notes


def _over_examples(rows: Sequence[Row], several: bool) -> list[str]:
    """A line for each row of one seed: how sure its own headline numbers are, which says nothing of other seeds."""
    lines = []
    for row in rows:
        found = {title: row.over_examples[name] for name, title in headlines().items() if name in row.over_examples}
        if found:
            name = f"{row.run} {row.sae}" if several else row.sae
            told = ", ".join(f"{title} {low:.3f} to {high:.3f}" for title, (low, high) in found.items())
            lines.append(f"{name}: {LEVEL:.0%} intervals over examples, not over seeds: {told}.")
    return lines


def _differences(runs: Sequence[Run]) -> list[str]:
    """What makes numbers of different runs incomparable."""
    notes = []
    if len({_subject(run) for run in runs}) > 1:
        notes.append("The runs study different subjects: no metric compares across those.")
    if len({json.dumps(run.info.corpus.as_json(), sort_keys=True) for run in runs}) > 1:
        notes.append("The runs read different text: FVE, CE and KL may differ for that reason alone.")
    return notes
