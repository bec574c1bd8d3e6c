"""The shipped model folder and its integrity check."""

from __future__ import annotations

import hashlib
from pathlib import Path

HASH_FILE = "SHA256SUMS"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_hashes(folder: Path) -> None:
    """Write ``SHA256SUMS`` (readable by ``sha256sum -c``) over every other file of the folder."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != HASH_FILE)
    (folder / HASH_FILE).write_text("".join(f"{_sha256(folder / name)}  {name}\n" for name in names))


def check_hashes(folder: Path) -> None:
    """Raise a one-line error that names the first file that is missing or differs from ``SHA256SUMS``."""
    from chronosae.config.errors import UserError

    sums = folder / HASH_FILE
    if not sums.is_file():
        raise UserError(f"world model: {sums} is missing; train one with `chronosae world train`")
    for line in sums.read_text().splitlines():
        expected, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            raise UserError(f"world model: {path} is missing; reinstall the package")
        if _sha256(path) != expected:
            raise UserError(
                f"world model: {path} is damaged (its sha256 is not the recorded one); reinstall the package"
            )


def model_folder() -> Path:
    """The folder of the shipped model (weights, tokenizer, ``training.json``), its hashes checked."""
    folder = Path(__file__).parent / "data"
    check_hashes(folder)
    return folder
