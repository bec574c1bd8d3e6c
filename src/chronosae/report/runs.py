"""Run folders as data. Numbers come from the files alone; nothing here loads a model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronosae.config import UserError, read_yaml
from chronosae.config.run_folder import (
    CONFIG,
    EVALS,
    FINAL,
    EvalFile,
    MetricsLine,
    RunInfo,
    SAEResult,
    is_run,
    read_info,
    read_metrics,
    read_record,
    read_result,
    result_file,
)


@dataclass(frozen=True)
class Run:
    """A complete run."""

    folder: Path
    label: str
    """Short name, unique among the runs read together."""
    info: RunInfo
    """Its final_info.json."""

    @property
    def name(self) -> str:
        """Its title."""
        return self.info.name or self.folder.resolve().name

    @property
    def saes(self) -> tuple[SAEResult, ...]:
        """Its autoencoders, in the order of its configuration."""
        return tuple(self.info.saes.values())

    def by_base(self) -> dict[str, list[SAEResult]]:
        """Its autoencoders, repeats over seeds together."""
        groups: dict[str, list[SAEResult]] = {}
        for sae in self.saes:
            groups.setdefault(sae.base, []).append(sae)
        return groups

    def config(self) -> dict[str, Any]:
        """The resolved configuration (config.yaml)."""
        return read_yaml(self.folder / CONFIG)

    def training(self) -> dict[str, list[MetricsLine]]:
        """Lines of metrics.jsonl by autoencoder, in the order written; empty when there is no such file."""
        return read_metrics(self.folder)

    def details(self, sae: str) -> EvalFile | None:
        """The core evaluation's file of one autoencoder; None when there is none."""
        path = result_file(self.folder, "core", sae)
        return read_result(path) if path.is_file() else None

    def intervals(self, sae: str) -> dict[str, tuple[float, float]]:
        """95 % intervals over resampled examples from every evaluation's file, by metric as `SAEResult.metrics` has it.

        Raises:
            UserError: a file is damaged.
        """
        found: dict[str, tuple[float, float]] = {}
        for home in sorted((self.folder / EVALS).glob("*")):
            path = result_file(self.folder, home.name, sae)
            if path.is_file():
                prefix = "" if home.name == "core" else f"{home.name}."
                found |= {f"{prefix}{metric}": ends for metric, ends in read_result(path).intervals.items()}
        return found


def read_run(folder: Path | str, label: str | None = None) -> Run:
    """The run in `folder`.

    Raises:
        UserError: there is no such folder, it holds no run, the run isn't complete, or a file is damaged.
    """
    folder = Path(folder)
    _require_complete(folder)
    return Run(folder, label or folder.resolve().name, read_info(folder))


def read_runs(paths: Iterable[Path | str]) -> list[Run]:
    """The runs in `paths`, in that order, each once. A folder of runs stands for the runs in it, sorted by name.

    Raises:
        UserError: as `read_run`, or no run was named.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        folders += [folder for folder in _expand(path) if folder.resolve() not in {f.resolve() for f in folders}]
    if not folders:
        raise UserError("no run folders given; name one or more, for instance runs/*")
    return [read_run(folder, label) for folder, label in zip(folders, _labels(folders), strict=True)]


def _expand(path: Path) -> list[Path]:
    if not path.is_dir() or is_run(path):
        return [path]
    return sorted((child for child in path.iterdir() if child.is_dir() and is_run(child)), key=_natural) or [path]


def _natural(folder: Path) -> list[tuple[int, str]]:
    """Sorts run_2 before run_10."""
    digits = "".join(c if c.isdecimal() else f" {c} " for c in folder.name).split()
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in digits]


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest tails of the paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return ["/".join(part) for part in parts]


def _require_complete(folder: Path) -> None:
    if not folder.exists():
        raise UserError(f"{folder}: no such run folder")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file, not a run folder")
    if (folder / FINAL).is_file():
        return
    if not is_run(folder):
        raise UserError(f"{folder}: not a run folder (it holds neither run.json nor final_info.json)")
    status = read_record(folder).status
    raise UserError(
        f"{folder}: the run isn't complete (status: {status}); finish it with"
        f" chronosae run {folder / CONFIG} --out-dir {folder} --resume, or leave it out"
    )
