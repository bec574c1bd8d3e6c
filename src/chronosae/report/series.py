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
        series.append(Series(run, tuple(members), _label(parts), style.color(i), style.marker(i)))
    return series


def _label(parts: Sequence[str], room: int = 26) -> str:
    """Parts that fit whole stay whole; each of the others is cut in its own middle, so that none is lost."""
    room -= 3 * (len(parts) - 1)
    share = {}
    for left, i in enumerate(sorted(range(len(parts)), key=lambda i: len(parts[i]))):
        share[i] = min(len(parts[i]), room // (len(parts) - left))
        room -= share[i]
    return " · ".join(style.clip(part, share[i]) for i, part in enumerate(parts))
