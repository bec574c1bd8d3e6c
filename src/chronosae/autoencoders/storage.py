"""Autoencoders on disk: a folder with `cfg.json` and `sae_weights.safetensors`, the field's usual names.

Weights come from strangers: only safetensors are read, never pickles.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from chronosae.autoencoders.autoencoder import Autoencoder
from chronosae.autoencoders.spec import Spec
from chronosae.config import UserError, validate

FORMAT = 1
CFG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
TRACKERS_FILE = "trackers.safetensors"


def save(sae: Autoencoder, folder: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write the folder; each file appears whole or not at all. `metadata` (site, subject ...) goes into `cfg.json`."""
    cfg = {"format": FORMAT, "architecture": f"chronosae/{sae.cfg.preset}", "spec": sae.cfg.model_dump(mode="json")}
    write_folder(folder, cfg | {"metadata": metadata or {}}, sae.state_dict())


def write_folder(folder: Path, cfg: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Write both files, each of which appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (WEIGHTS_FILE + ".tmp")
    save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, temporary)
    temporary.replace(folder / WEIGHTS_FILE)
    temporary = folder / (CFG_FILE + ".tmp")
    temporary.write_text(json.dumps(cfg, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / CFG_FILE)


def load(folder: Path | str, device: torch.device | str = "cpu") -> Autoencoder:
    """Read a folder written by `Autoencoder.save`, or by SAELens (see `autoencoders.saelens`).

    Raises:
        UserError: a file is missing, damaged, a pickle in disguise, or doesn't fit the configuration beside it.
    """
    # That module builds on this one.
    from chronosae.autoencoders import saelens

    folder = Path(folder)
    raw = _read_json(folder / CFG_FILE)
    if saelens.is_saelens(raw):
        return saelens.read(folder, raw).to(device)
    cfg = _check_cfg(raw, folder / CFG_FILE)
    spec = validate(Spec, cfg["spec"], where=str(folder / CFG_FILE), prefix="spec")
    weights = read_safetensors(folder / WEIGHTS_FILE)
    # Without storage: no random numbers are drawn and nothing is held twice.
    with torch.device("meta"):
        sae = spec.body.autoencoder()(spec)
    template = sae.state_dict()
    expected = {name: tuple(weight.shape) for name, weight in template.items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise UserError(
            f"{folder / WEIGHTS_FILE}: {wrong} should have shape {expected.get(wrong, 'none (unknown name)')},"
            f" found {found.get(wrong, 'nothing')}"
        )
    dtypes = {weight.dtype for name, weight in weights.items() if template[name].is_floating_point()}
    if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise UserError(f"{folder / WEIGHTS_FILE}: weights must share one floating-point type, found {names}")
    for name, weight in weights.items():
        if not template[name].is_floating_point() and weight.dtype != template[name].dtype:
            kind = str(template[name].dtype).removeprefix("torch.")
            raise UserError(f"{folder / WEIGHTS_FILE}: {name} should hold {kind}, found {weight.dtype}")
        if not torch.isfinite(weight).all():
            raise UserError(f"{folder / WEIGHTS_FILE}: {name} holds NaN or Inf")
    sae.load_state_dict(weights, assign=True)
    return sae.to(device)


def save_trackers(trackers: Mapping[str, Any], folder: Path) -> None:
    """Write what the trackers of a training (by kind) hold beside the weights; nothing when there are none."""
    tensors = {
        f"{kind}/{name}": tensor.detach().cpu().contiguous().clone()
        for kind, tracker in trackers.items()
        for name, tensor in tracker.state_dict().items()
    }
    if tensors:
        temporary = folder / (TRACKERS_FILE + ".tmp")
        save_file(tensors, temporary)
        temporary.replace(folder / TRACKERS_FILE)


def load_trackers(folder: Path | str) -> dict[str, Any]:
    """The trackers of an autoencoder's training, by kind, as they stood at its end; empty when there were none.

    Raises:
        UserError: the folder or the file is damaged, or they don't fit each other.
    """
    folder = Path(folder)
    cfg = _check_cfg(_read_json(folder / CFG_FILE), folder / CFG_FILE)
    spec = validate(Spec, cfg["spec"], where=str(folder / CFG_FILE), prefix="spec")
    if not spec.trackers or not (folder / TRACKERS_FILE).is_file():
        return {}
    tensors = read_safetensors(folder / TRACKERS_FILE)
    trackers = {watcher.kind: watcher.make(spec.d_sae) for watcher in spec.trackers}
    for kind, tracker in trackers.items():
        state = {name.removeprefix(f"{kind}/"): t for name, t in tensors.items() if name.startswith(f"{kind}/")}
        try:
            tracker.load_state_dict(state)
        except ValueError as error:
            raise UserError(f"{folder / TRACKERS_FILE}: doesn't fit {CFG_FILE}: {error}") from None
    return trackers


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file; `UserError` in one line when it isn't one."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        with path.open("rb") as handle:
            start = handle.read(4)
        kind = (
            "a pickle or zip archive, which is never loaded"
            if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")
            else ("truncated or damaged")
        )
        raise UserError(f"{path}: not a readable safetensors file ({kind})") from error


def read_metadata(folder: Path | str) -> dict[str, Any]:
    """What an autoencoder's folder says of its training: site, subject, context and more, as far as they are known.

    Raises:
        UserError: no readable `cfg.json`.
    """
    from chronosae.autoencoders import saelens

    path = Path(folder) / CFG_FILE
    raw = _read_json(path)
    return saelens.metadata(raw) if saelens.is_saelens(raw) else dict(_check_cfg(raw, path).get("metadata", {}))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: no {CFG_FILE} here, so not an autoencoder's folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path}: not valid JSON") from None
    if not isinstance(cfg, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(cfg).__name__}")
    return cfg


def _check_cfg(cfg: dict[str, Any], path: Path) -> dict[str, Any]:
    if "spec" not in cfg:
        raise UserError(f"{path}: no `spec`; this folder wasn't written by chronosae")
    if cfg.get("format") != FORMAT:
        raise UserError(f"{path}: format {cfg.get('format')}, this version reads format {FORMAT}; upgrade chronosae")
    return cfg
