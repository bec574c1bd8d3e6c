"""Checks of a local model folder, before transformers reads it: its own errors are long and name no remedy.

Weights come from safetensors only: a pickle can run code.
"""

import json
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from chronosae.config import UserError

Key = Literal["model", "tokenizer"]
_HOLDS: dict[Key, str] = {"model": "config.json and the weights", "tokenizer": "tokenizer.json"}
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Any one of these makes a tokenizer; without them transformers may quietly build an empty one.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def local_folder(name: str, key: Key = "model") -> Path | None:
    """The folder that `name`, the value of `subject.<key>`, points to; None when it reads as a Hugging Face name.

    Raises:
        UserError: `name` is a file, or looks like a path and nothing is there.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"subject.{key}: {name!r} is a file; give the folder that holds {_HOLDS[key]}")
    if not name or name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"subject.{key}: no such folder: {name!r}; give another with --set subject.{key}=PATH")
    return None


def check_model_folder(folder: Path) -> None:
    """`UserError` unless the folder holds a readable config.json and whole safetensors weights."""
    if not (folder / "config.json").is_file():
        raise UserError(f"subject.model: {folder} has no config.json, so it isn't a Hugging Face model folder")
    _read_json(folder / "config.json")
    for file in _weight_files(folder):
        _check_safetensors(file)


def check_tokenizer_folder(folder: Path) -> None:
    """`UserError` unless the folder holds a tokenizer's files."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES) and not any(folder.glob("*.tiktoken")):
        raise UserError(
            f"subject.tokenizer: {folder} holds no tokenizer (such as tokenizer.json);"
            " give one with --set subject.tokenizer=PATH_OR_NAME"
        )


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if (folder / _INDEX).is_file():
        weight_map = _read_json(folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"subject.model: {folder / _INDEX} has no weight_map, so no weights can be found")
        return [folder / str(name) for name in sorted(set(weight_map.values()))]
    pickle = next((file for pattern in _PICKLES for file in sorted(folder.glob(pattern))), None)
    if pickle is not None:
        raise UserError(
            f"subject.model: {folder} holds its weights as a pickle ({pickle.name}), which can run code and is never"
            " read; convert it where you trust it:"
            " AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    raise UserError(f"subject.model: {folder} holds no weights ({_WEIGHTS} or {_INDEX})")


def _check_safetensors(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"subject.model: weight file {file} is missing")
    try:
        with safe_open(file, framework="pt") as weights:
            if not weights.keys():
                raise UserError(f"subject.model: weight file {file} holds no tensors")
    except (SafetensorError, OSError) as error:
        raise UserError(f"subject.model: {file} is not a whole safetensors file ({error}); copy it again") from None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"subject.model: {file} can't be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"subject.model: {file} holds no JSON object")
    return content
