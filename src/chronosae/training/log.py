"""Live metrics: always metrics.jsonl, and optionally a service."""

import importlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from chronosae.config import LoggingConfig, UserError
from chronosae.config.files import write_text
from chronosae.training.trainer import LogEvent


@runtime_checkable
class Sink(Protocol):
    """Somewhere that takes numbers."""

    def write(self, step: int, values: Mapping[str, int | float]) -> None: ...

    def close(self) -> None: ...


def metric_rows(event: LogEvent) -> list[dict[str, Any]]:
    """One JSON-able row an autoencoder; an undefined number becomes null."""
    rows = []
    for name, metrics in event.metrics.items():
        row: dict[str, Any] = {"sae": name, "step": event.step, "tokens": event.tokens, **asdict(metrics)}
        row["tokens_per_s"] = round(event.tokens_per_s, 1)
        rows.append({key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()})
    return rows


class MetricsLog:
    """Appends to `path` and feeds the extra sinks.

    Args:
        path: the run's metrics.jsonl.
        keep_steps: when resuming, lines after this step are dropped: the run will write them again.
    """

    def __init__(self, path: Path, sinks: list[Sink], keep_steps: int = 0) -> None:
        self.sinks = sinks
        if path.exists():
            _drop_after(path, keep_steps)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: LogEvent) -> None:
        for row in metric_rows(event):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            numbers = {f"{row['sae']}/{k}": v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
            for sink in self.sinks:
                sink.write(event.step, numbers)
        self._file.flush()

    def close(self) -> None:
        """Finish the file and the sinks."""
        self._file.close()
        for sink in self.sinks:
            sink.close()


def _drop_after(path: Path, step: int) -> None:
    """Keep whole lines up to `step`; a line cut short by a crash goes too."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    write_text(path, "".join(line + "\n" for line in kept))


def require_extras(cfg: LoggingConfig) -> None:
    """`UserError` when a service was asked for whose package isn't installed or whose key isn't in the environment."""
    for extra in cfg.extras:
        module = "torch.utils.tensorboard" if extra == "tensorboard" else extra
        try:
            importlib.import_module(module)
        except ImportError:
            raise UserError(
                f"logging.extras: {extra} isn't installed; run: pip install 'chronosae[{extra}]', or leave it out"
            ) from None
        offline = os.environ.get("WANDB_MODE") in {"offline", "disabled"}
        if extra == "wandb" and not offline and "WANDB_API_KEY" not in os.environ:
            raise UserError("logging.extras: wandb needs its key in the environment variable WANDB_API_KEY")


def open_sinks(cfg: LoggingConfig, run_folder: Path, run_name: str, resumed_at: int = 0) -> list[Sink]:
    """The sinks that `cfg` names, continuing after step `resumed_at`.

    Raises:
        UserError: the service can't be reached or refuses.
    """
    opened: list[Sink] = []
    for extra in cfg.extras:
        if extra == "tensorboard":
            opened.append(_TensorBoard(run_folder / "tensorboard", resumed_at))
        else:
            opened.append(_Service(importlib.import_module(extra), cfg.project, run_name, run_folder))
    return opened


class _TensorBoard:
    def __init__(self, folder: Path, resumed_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Rows after the checkpoint will come again.
        self._writer = SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Service:
    """wandb, or trackio, which copies wandb's interface."""

    def __init__(self, module: Any, project: str, name: str, folder: Path) -> None:
        self._module = module
        folder_option = {"dir": str(folder)} if module.__name__ == "wandb" else {}
        try:
            module.init(project=project, name=name, **folder_option)
        except Exception as error:
            # Whatever a service's client raises, its first line is what the user can act on.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"logging.extras: {module.__name__} can't start ({reason}); drop it from the list"
            ) from None

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()
