"""Autoencoders on disk: a folder with `cfg.json` and `sae_weights.safetensors`, the field's usual names.

Weights come from strangers: only safetensors are read, never pickles. What a folder's autoencoder is made of, and how
it is made again, the `assembly` knows.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chronosae.autoencoders.dictionary import Dictionary
from chronosae.config import UserError
from chronosae.config.files import whole, write_text

FORMAT = 1
CFG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
TRACKERS_FILE = "trackers.safetensors"

Weights = dict[str, Tensor]


def save(sae: Dictionary, folder: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write the folder; each file appears whole or not at all. `metadata` (site, subject ...) goes into `cfg.json`."""
    cfg = {"format": FORMAT, "architecture": f"chronosae/{sae.cfg.preset}", "spec": sae.cfg.model_dump(mode="json")}
    write_folder(folder, cfg | {"metadata": metadata or {}}, sae.state_dict())


def save_trackers(trackers: Mapping[str, Any], folder: Path) -> None:
    """Write what the trackers of a training (by kind) hold beside the weights; nothing when there are none."""
    states = {kind: tracker.state_dict() for kind, tracker in trackers.items()}
    tensors = {f"{kind}/{name}": tensor.clone() for kind, state in states.items() for name, tensor in state.items()}
    if tensors:
        _write_tensors(folder / TRACKERS_FILE, tensors)


def write_folder(folder: Path, cfg: dict[str, Any], weights: Weights) -> None:
    """Write both files, each of which appears whole or not at all."""
    _write_tensors(folder / WEIGHTS_FILE, weights)
    write_text(folder / CFG_FILE, json.dumps(cfg, indent=2) + "\n")


def _write_tensors(path: Path, tensors: Weights) -> None:
    with whole(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


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


def check_weights(weights: Weights, expected: Mapping[str, tuple[int, ...]], path: Path, of: str = "") -> None:
    """`UserError` unless these are the names and shapes `of` what is in the folder, and every number is finite."""
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise UserError(
            f"{path}: {wrong} should have shape {expected.get(wrong, 'none (unknown name)')}{of},"
            f" found {found.get(wrong, 'nothing')}"
        )
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise UserError(f"{path}: {name} holds NaN or Inf")


def read_json(path: Path) -> dict[str, Any]:
    """The object in `cfg.json`; `UserError` in one line when there is none."""
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: no {CFG_FILE} here, so not an autoencoder's folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path}: not valid JSON") from None
    if not isinstance(cfg, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(cfg).__name__}")
    return cfg
