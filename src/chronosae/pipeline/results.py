"""`final_info.json`: the run in one file, from what the stages left, kept up to date while evaluations come in."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from chronosae.autoencoders import Spec
from chronosae.config.files import write_json
from chronosae.config.flags import CORE, key, raised
from chronosae.config.run_folder import FINAL, MetricsLine, RunInfo, SAEResult
from chronosae.evals import EvalResult
from chronosae.pipeline.plan import PlannedSAE
from chronosae.report.statistics import L0_TOLERANCE
from chronosae.training import Trainee
from chronosae.version import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy", "pydantic")


class Summary:
    """A run's `final_info.json`, brought up to date with each result."""

    def __init__(self, info: RunInfo, folder: Path) -> None:
        self.info, self._folder = info, folder

    def keep(self, evaluation: str, results: Mapping[str, EvalResult]) -> None:
        """Take in an evaluation's results, by autoencoder."""
        for name, result in results.items():
            entry = self.info.saes[name]
            entry.by_evaluation = {**entry.by_evaluation, evaluation: dict(result.flat)}
            entry.flags = _with_flags(entry.flags, evaluation, result.flags)
        self.write()

    def drop(self, evaluation: str, saes: Iterable[str]) -> None:
        """Forget what there was of an evaluation: it was tried again, in vain."""
        for name in saes:
            entry = self.info.saes[name]
            entry.by_evaluation.pop(evaluation, None)
            entry.flags = _with_flags(entry.flags, evaluation, ())
        self.write()

    def flag(self, flags: Sequence[str]) -> None:
        """Add flags of the whole run."""
        self.info.flags = [*self.info.flags, *flags]
        self.write()

    def forget(self, beginnings: tuple[str, ...]) -> None:
        """Remove the run's flags that begin so."""
        self.info.flags = [flag for flag in self.info.flags if not flag.startswith(beginnings)]

    def write(self) -> None:
        """Bring the file up to date."""
        write_json(self._folder / FINAL, self.info.as_json())


def _with_flags(flags: Sequence[str], evaluation: str, new: Sequence[str]) -> list[str]:
    """`flags` with those of `evaluation` replaced: core's have no prefix and stand first."""
    if evaluation == "core":
        return [*new, *(flag for flag in flags if key(flag) not in CORE)]
    others = [flag for flag in flags if not flag.startswith(f"{evaluation}.")]
    return [*others, *(f"{evaluation}.{flag}" for flag in new)]


def sae_entry(planned: PlannedSAE, trainee: Trainee, last: MetricsLine, core: EvalResult | None) -> SAEResult:
    """One autoencoder's part of final_info.json; `last` is its last line of metrics.jsonl."""
    spec = trainee.sae.cfg
    metrics = dict(core.flat) if core else {}
    flags = [*core.flags] if core else []
    flags += [trainee.stopped] if trainee.stopped else []
    l0 = metrics.get("l0")
    return SAEResult(
        name=planned.name,
        preset=planned.preset,
        seed=planned.seed,
        site=planned.site,
        layer=int(planned.site.split(".")[1]),
        training_steps=trainee.step_number,
        tokens=trainee.step_number * trainee.cfg.batch_tokens,
        final_loss=last.loss,
        d_in=spec.d_in,
        d_sae=spec.d_sae,
        learning_rate=planned.lr,
        sparsity_penalty=last.sparsity_penalty,
        normalisation=spec.normalisation.model_dump(),
        options=planned.options.model_dump(mode="json"),
        flags=flags if l0 is None else [*flags, *l0_flags(spec, l0)],
        by_evaluation={"core": metrics} if core else {},
    )


def l0_flags(spec: Spec, l0: float) -> list[str]:
    """Flags of an autoencoder whose L0 on held-out text is not what was asked for."""
    targets = [term.steered_to for term in spec.terms if term.steered_to is not None]
    flags = [
        raised(
            "target_l0_missed",
            f"L0 {l0:.2f} on held-out text, target {target:g} (more than {L0_TOLERANCE:.0%} off)",
        )
        for target in targets
        if abs(l0 / target - 1) > L0_TOLERANCE
    ]
    if spec.slots is not None and l0 < (1 - L0_TOLERANCE) * spec.slots:
        flags.append(raised("fewer_than_k_fire", f"L0 {l0:.2f} of k = {spec.slots}"))
    return flags


def run_flags(epochs: float) -> list[str]:
    """What a reader of the whole run should know, beside the flags of each autoencoder."""
    return [raised("text_repeated", f"the training text was read {epochs:.1f} times")] if epochs > 1 else []


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"chronosae": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """The machine, as far as it decides speed and rounding; no names of hosts or users."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:  # noqa: PTH123 - not a path of ours
            for line in handle:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown CPU"
