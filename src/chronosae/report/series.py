"""What figures draw in one colour: an autoencoder of a run, over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from chronosae.report import style
from chronosae.report.compare import by_base
from chronosae.report.runs import Run, SAEResult


@dataclass(frozen=True)
class Series:
    """The repeats over seeds of one autoencoder, and how they look in every figure."""

    run: Run
    saes: tuple[SAEResult, ...]
    label: str
    color: str
    marker: str


def series_of(runs: Sequence[Run]) -> list[Series]:
    """One series for each row of the comparison, in its order."""
    found = [(run, base, members) for run in runs for base, members in by_base(run).items()]
    sites = {members[0].site for _, _, members in found}
    series = []
    for i, (run, base, members) in enumerate(found):
        parts = [run.label] * (len(runs) > 1) + [base] + [members[0].site] * (len(sites) > 1)
        label = style.clip(" · ".join(parts))
        series.append(Series(run, tuple(members), label, style.color(i), style.marker(i)))
    return series
