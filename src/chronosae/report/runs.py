"""Run folders as data. Numbers come from the files alone; nothing here loads a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronosae.config import UserError, read_yaml
from chronosae.report.files import integer, mapping, number, read_lines, read_object, texts

SCHEMA = 1


@dataclass(frozen=True)
class SAEResult:
    """One trained autoencoder, as final_info.json tells it; what is absent there or isn't a number is None."""

    name: str
    """Key in final_info.json: `topk`, or `topk@2` for a repeat with another seed."""
    preset: str
    seed: int | None
    site: str
    d_in: int | None
    d_sae: int | None
    training_steps: int | None
    tokens: int | None
    final_loss: float | None
    learning_rate: float | None
    sparsity_penalty: float | None
    options: Mapping[str, Any]
    flags: tuple[str, ...]
    metrics: Mapping[str, float]
    """Metrics that are finite numbers: core's by their flat names, those of others as `evaluation.metric`."""

    @property
    def base(self) -> str:
        """The name without `@2`: what repeats over seeds share."""
        return self.name.partition("@")[0]

    @property
    def target(self) -> float | None:
        """The number of active features asked for: k, or target_l0."""
        k = number(self.options.get("k"))
        return k if k is not None else number(self.options.get("target_l0"))


@dataclass(frozen=True)
class CoreDetails:
    """What an evaluation file holds beyond the flat metrics."""

    pca_curve: Mapping[int, float]
    """Number of principal components -> share of the variance they explain."""
    densities: tuple[float, ...]
    """Share of tokens on which each feature fires."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % bootstrap interval of a metric over held-out documents."""


@dataclass(frozen=True)
class Run:
    """A complete run."""

    folder: Path
    label: str
    """Short name, unique among the runs read together."""
    name: str
    description: str
    saes: tuple[SAEResult, ...]
    flags: tuple[str, ...]
    info: Mapping[str, Any]
    """All of final_info.json."""

    def config(self) -> dict[str, Any]:
        """The resolved configuration (config.yaml)."""
        return read_yaml(self.folder / "config.yaml")

    def training(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of metrics.jsonl by autoencoder, in the order written; empty when there is no such file."""
        path, rows = self.folder / "metrics.jsonl", {}
        for row in read_lines(path) if path.is_file() else []:
            rows.setdefault(str(row.get("sae")), []).append(row)
        return rows

    def details(self, sae: str) -> CoreDetails | None:
        """The evaluation file of one autoencoder; None when there is none."""
        path = self.folder / "evals" / "core" / f"{sae}_eval_results.json"
        return _details(read_object(path)) if path.is_file() else None

    def intervals(self, sae: str) -> dict[str, tuple[float, float]]:
        """95 % intervals over resampled examples from every evaluation's file, by metric as `SAEResult.metrics` has it.

        Raises:
            UserError: a file is damaged.
        """
        found: dict[str, tuple[float, float]] = {}
        for path in sorted((self.folder / "evals").glob("*/*_eval_results.json")):
            if path.name == f"{sae}_eval_results.json":
                prefix = "" if path.parent.name == "core" else f"{path.parent.name}."
                found |= {f"{prefix}{metric}": ends for metric, ends in _intervals(read_object(path)).items()}
        return found


def read_run(folder: Path | str, label: str | None = None) -> Run:
    """The run in `folder`.

    Raises:
        UserError: there is no such folder, it holds no run, the run isn't complete, or a file is damaged.
    """
    folder = Path(folder)
    _require_complete(folder)
    path = folder / "final_info.json"
    info = read_object(path)
    if (integer(info.get("schema")) or 0) > SCHEMA:
        raise UserError(f"{path}: written by a newer ChronoSAE (schema {info['schema']}); upgrade to read it")
    if not isinstance(info.get("saes"), dict):
        raise UserError(f"{path}: damaged, holds no `saes`; restore it or run again with --overwrite")
    return Run(
        folder=folder,
        label=label or folder.resolve().name,
        name=str(info.get("name") or folder.resolve().name),
        description=str(info.get("description") or ""),
        saes=tuple(_sae(name, entry, path) for name, entry in info["saes"].items()),
        flags=texts(info.get("flags")),
        info=info,
    )


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


def is_run(folder: Path) -> bool:
    """`folder` holds a run, complete or not."""
    return (folder / "run.json").is_file() or (folder / "final_info.json").is_file()


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
    if (folder / "final_info.json").is_file():
        return
    if not is_run(folder):
        raise UserError(f"{folder}: not a run folder (it holds neither run.json nor final_info.json)")
    status = read_object(folder / "run.json").get("status")
    raise UserError(
        f"{folder}: the run isn't complete (status: {status}); finish it with"
        f" chronosae run {folder / 'config.yaml'} --out-dir {folder} --resume, or leave it out"
    )


def _sae(name: str, entry: Any, path: Path) -> SAEResult:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: damaged, saes.{name} is not an object; restore it or run again with --overwrite")
    core = {key: number(value) for key, value in mapping(mapping(entry.get("metrics")).get("core")).items()}
    # Older runs hold no novel_l0; nothing in them predicts, so all of their L0 is novel.
    core.setdefault("novel_l0", core.get("l0"))
    for evaluation, found in mapping(entry.get("metrics")).items():
        if evaluation != "core":
            core |= {f"{evaluation}.{key}": number(value) for key, value in mapping(found).items()}
    return SAEResult(
        name=name,
        preset=str(entry.get("preset") or name.partition("@")[0]),
        seed=integer(entry.get("seed")),
        site=str(entry.get("site") or "-"),
        d_in=integer(entry.get("d_in")),
        d_sae=integer(entry.get("dict_size")),
        training_steps=integer(entry.get("training_steps")),
        tokens=integer(entry.get("tokens")),
        final_loss=number(entry.get("final_loss")),
        learning_rate=number(entry.get("learning_rate")),
        sparsity_penalty=number(entry.get("sparsity_penalty")),
        options=mapping(entry.get("options")),
        flags=texts(entry.get("flags")),
        metrics={key: value for key, value in core.items() if value is not None},
    )


def _details(result: Mapping[str, Any]) -> CoreDetails:
    block = mapping(result.get("chronosae"))
    curve = mapping(mapping(block.get("pca")).get("curve"))
    points = {int(k): share for k, value in curve.items() if k.isdecimal() and (share := number(value)) is not None}
    rows = result.get("eval_result_details")
    densities = [number(row.get("feature_density")) for row in rows or [] if isinstance(row, dict)]
    return CoreDetails(
        pca_curve=dict(sorted(points.items())),
        # -1 is SAEBench's mark of an undefined number
        densities=tuple(density for density in densities if density is not None and density >= 0),
        intervals=_intervals(result),
    )


def _intervals(result: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    found = {}
    for metric, interval in mapping(mapping(mapping(result.get("chronosae")).get("intervals")).get("metrics")).items():
        low, high = number(mapping(interval).get("low")), number(mapping(interval).get("high"))
        if low is not None and high is not None:
            found[metric] = (low, high)
    return found
