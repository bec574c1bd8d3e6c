"""Autoencoders made from their specs and read from disk: the one place that knows which class a body needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from chronosae.autoencoders import saelens
from chronosae.autoencoders.autoencoder import Autoencoder
from chronosae.autoencoders.crosscoder import Crosscoder
from chronosae.autoencoders.predictive import PredictiveAutoencoder
from chronosae.autoencoders.spec import BodySpec, Linear, Predictive, Spec, WindowedBody
from chronosae.autoencoders.storage import (
    CFG_FILE,
    FORMAT,
    TRACKERS_FILE,
    WEIGHTS_FILE,
    Weights,
    check_weights,
    read_json,
    read_safetensors,
)
from chronosae.config import UserError, validate

_CLASSES: dict[type[BodySpec], type[Autoencoder]] = {
    Linear: Autoencoder,
    WindowedBody: Crosscoder,
    Predictive: PredictiveAutoencoder,
}
A = TypeVar("A", bound=Autoencoder)


def computes_body(body: type[BodySpec]) -> Callable[[type[A]], type[A]]:
    """Class decorator: autoencoders with this body are of this class. For a body of your own."""

    def register(autoencoder: type[A]) -> type[A]:
        _CLASSES[body] = autoencoder
        return autoencoder

    return register


def build_from_spec(spec: Spec, seed: int = 0) -> Autoencoder:
    """An autoencoder with fresh weights; the same seed gives every preset of one size the same dictionary."""
    return _CLASSES[type(spec.body)](spec, torch.Generator().manual_seed(seed))


def empty_from_spec(spec: Spec) -> Autoencoder:
    """An autoencoder without storage, to load weights into: no random numbers are drawn and nothing is held twice."""
    with torch.device("meta"):
        return _CLASSES[type(spec.body)](spec)


def load(folder: Path | str, device: torch.device | str = "cpu") -> Autoencoder:
    """Read a folder written by `Autoencoder.save`, or by SAELens (see `autoencoders.saelens`).

    Raises:
        UserError: a file is missing, damaged, a pickle in disguise, or doesn't fit the configuration beside it.
    """
    folder = Path(folder)
    raw = read_json(folder / CFG_FILE)
    if saelens.is_saelens(raw):
        spec, weights = saelens.read(folder, raw)
        sae = empty_from_spec(spec)
    else:
        spec, weights = _read_spec(raw, folder), read_safetensors(folder / WEIGHTS_FILE)
        sae = empty_from_spec(spec)
        _check(weights, sae.state_dict(), folder / WEIGHTS_FILE)
    sae.load_state_dict(weights, assign=True)
    return sae.to(device)


def _check(weights: Weights, template: Weights, path: Path) -> None:
    check_weights(weights, {name: tuple(weight.shape) for name, weight in template.items()}, path)
    dtypes = {weight.dtype for name, weight in weights.items() if template[name].is_floating_point()}
    if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise UserError(f"{path}: weights must share one floating-point type, found {names}")
    for name, weight in weights.items():
        if not template[name].is_floating_point() and weight.dtype != template[name].dtype:
            kind = str(template[name].dtype).removeprefix("torch.")
            raise UserError(f"{path}: {name} should hold {kind}, found {weight.dtype}")


def load_trackers(folder: Path | str) -> dict[str, Any]:
    """The trackers of an autoencoder's training, by kind, as they stood at its end; empty when there were none.

    Raises:
        UserError: the folder or the file is damaged, or they don't fit each other.
    """
    folder = Path(folder)
    spec = _read_spec(read_json(folder / CFG_FILE), folder)
    if not spec.trackers or not (folder / TRACKERS_FILE).is_file():
        return {}
    tensors = read_safetensors(folder / TRACKERS_FILE)
    trackers = {tracker.kind: tracker.make(spec.d_sae) for tracker in spec.trackers}
    for kind, tracker in trackers.items():
        state = {name.removeprefix(f"{kind}/"): t for name, t in tensors.items() if name.startswith(f"{kind}/")}
        try:
            tracker.load_state_dict(state)
        except ValueError as error:
            raise UserError(f"{folder / TRACKERS_FILE}: doesn't fit {CFG_FILE}: {error}") from None
    return trackers


def read_metadata(folder: Path | str) -> dict[str, Any]:
    """What an autoencoder's folder says of its training: site, subject, context and more, as far as they are known.

    Raises:
        UserError: no readable `cfg.json`.
    """
    path = Path(folder) / CFG_FILE
    raw = read_json(path)
    if saelens.is_saelens(raw):
        return saelens.metadata(raw)
    _check_format(raw, path)
    return dict(raw.get("metadata", {}))


def _read_spec(raw: dict[str, Any], folder: Path) -> Spec:
    path = folder / CFG_FILE
    _check_format(raw, path)
    return validate(Spec, raw["spec"], where=str(path), prefix="spec")


def _check_format(raw: dict[str, Any], path: Path) -> None:
    if "spec" not in raw:
        raise UserError(f"{path}: no `spec`; this folder wasn't written by chronosae")
    if raw.get("format") != FORMAT:
        raise UserError(f"{path}: format {raw.get('format')}, this version reads format {FORMAT}; upgrade chronosae")
