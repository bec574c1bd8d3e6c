"""A run summed up in `final_info.json`, kept up to date while evaluations come in."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chronosae.evals import FLAGS, CoreResult, EvalResult
from chronosae.pipeline import folder as files


class Summary:
    """A run's `final_info.json`, brought up to date with each result."""

    def __init__(self, info: dict[str, Any], folder: Path) -> None:
        self.info, self._folder = info, folder

    def keep(self, evaluation: str, results: Mapping[str, EvalResult]) -> None:
        """Take in an evaluation's results, by autoencoder."""
        for name, result in results.items():
            entry = self.info["saes"][name]
            entry["metrics"][evaluation] = result.flat
            entry["flags"] = [*_others(entry, evaluation), *(f"{evaluation}.{flag}" for flag in result.flags)]
        self._write()

    def drop(self, evaluation: str, saes: Iterable[str]) -> None:
        """Forget what there was of an evaluation: it was tried again, in vain."""
        for name in saes:
            entry = self.info["saes"][name]
            entry["metrics"].pop(evaluation, None)
            entry["flags"] = _others(entry, evaluation)
        self._write()

    def keep_core(self, results: Mapping[str, CoreResult]) -> None:
        """Core's results: its flags have no prefix."""
        for name, core in results.items():
            entry = self.info["saes"][name]
            entry["metrics"]["core"] = core.metrics.model_dump()
            kept = [flag for flag in entry["flags"] if flag.partition(":")[0] not in FLAGS]
            entry["flags"] = [*core.flags, *kept]
        self._write()

    def flag(self, flags: Sequence[str]) -> None:
        """Add flags of the whole run."""
        self.info["flags"] += flags
        self._write()

    def forget(self, beginnings: tuple[str, ...]) -> None:
        """Remove the run's flags that begin so."""
        self.info["flags"] = [flag for flag in self.info["flags"] if not flag.startswith(beginnings)]

    def _write(self) -> None:
        files.write_json(self._folder / files.FINAL, self.info)


def _others(entry: Mapping[str, Any], evaluation: str) -> list[str]:
    return [flag for flag in entry["flags"] if not flag.startswith(f"{evaluation}.")]
