"""From a `SubjectConfig` to a Hugging Face configuration, model and tokenizer, or to one line that says why not.

Transformers reports trouble through many exception types, some with pages of text. This module is the border: it turns
all of them into `UserError`s that name the configuration key. Access tokens are read by huggingface_hub from the
environment (`HF_TOKEN`); they are never touched here.
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from chronosae.config import SubjectConfig, UserError
from chronosae.subject.architectures import FAMILIES

# transformers would ask a service on the hub to convert a pickle-only model; we refuse such a model instead.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def load_hf_config(cfg: SubjectConfig) -> Any:
    """The model's configuration, of a causal language model for certain."""
    folder = local_folder(cfg.model)
    if folder is not None:
        check_model_folder(folder)
    try:
        config = AutoConfig.from_pretrained(
            folder or cfg.model, revision=cfg.revision or "main", trust_remote_code=cfg.trust_remote_code
        )
    except Exception as error:  # OSError, ValueError, KeyError ...: whatever the configuration's code raises
        _refuse(error, cfg, "model", cfg.model, local=folder is not None)
    _check_causal(config, cfg)
    return config


def load_model(cfg: SubjectConfig, config: Any, device: torch.device) -> Any:
    """The model on `device` (or spread by `device_map`), in `cfg.dtype`, frozen and in evaluation mode."""
    _check_device_map(cfg)
    folder = local_folder(cfg.model)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder or cfg.model,
            config=config,
            revision=cfg.revision or "main",
            trust_remote_code=cfg.trust_remote_code,
            dtype=getattr(torch, cfg.dtype),
            device_map=cfg.device_map,
            use_safetensors=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise UserError(
            f"subject.model: {cfg.model!r} doesn't fit into the device's memory; try --set subject.dtype=bfloat16"
            " or --set subject.device_map=auto"
        ) from None
    except Exception as error:  # as above, and safetensors' own
        _refuse(error, cfg, "model", cfg.model, local=folder is not None)
    model, report = loaded
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise UserError(
            f"subject.model: {cfg.model!r} lacks {len(names)} of the weights of a {type(model).__name__}"
            f" ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''}), so it isn't a complete causal language model"
        )
    if cfg.device_map is None:
        model.to(device)
    return model.eval().requires_grad_(False)


def load_tokenizer(cfg: SubjectConfig, n_embeddings: int) -> Any:
    """The tokenizer; `UserError` when its vocabulary doesn't fit a model of `n_embeddings` token embeddings."""
    name = cfg.tokenizer or cfg.model
    folder = local_folder(name, "tokenizer" if cfg.tokenizer else "model")
    if folder is not None:
        check_tokenizer_folder(folder)
    # A revision belongs to the model's repository, so to the tokenizer only when that is the model's own.
    revision = "main" if cfg.tokenizer else cfg.revision or "main"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder or name, revision=revision, trust_remote_code=cfg.trust_remote_code
        )
    except Exception as error:  # as above; tokenizers raise plain Exception
        _refuse(error, cfg, "tokenizer", name, local=folder is not None)
    # Added tokens may lie beyond the embedding in sound models (Gemma 3's image token), the base vocabulary may not.
    largest = max(
        [tokenizer.vocab_size - 1, *(i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None)]
    )
    if largest >= n_embeddings:
        raise UserError(
            f"subject.tokenizer: {name!r} has token ids up to {largest}, but the model embeds only {n_embeddings}"
            " tokens: the tokenizer belongs to another model; choose with --set subject.tokenizer=PATH_OR_NAME"
        )
    return tokenizer


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one; `UserError` for a device that doesn't exist, or is neither CPU nor CUDA.

    Others (mps, xpu ...) lack the float64 in which statistics are summed, or hold no values at all (meta).
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise UserError(f"subject.device: {device!r} is not a device; use auto, cpu, cuda or cuda:N") from None
    if resolved.type not in ("cpu", "cuda"):
        raise UserError(f"subject.device: {device!r} isn't supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"subject.device: {device!r} isn't there ({torch.cuda.device_count()} GPUs seen); use auto or cpu"
        )
    return resolved


def _check_device_map(cfg: SubjectConfig) -> None:
    if cfg.device_map is not None and importlib.util.find_spec("accelerate") is None:
        raise UserError("subject.device_map needs accelerate: pip install 'chronosae[device-map]'")


def _check_causal(config: Any, cfg: SubjectConfig) -> None:
    """Refuse what transformers would load with a head of random numbers, or with attention in both directions."""
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}) and cfg.trust_remote_code:
        return
    known: Any = AutoModelForCausalLM._model_mapping
    head = known[type(config)].__name__ if type(config) in known else None
    saved = getattr(config, "architectures", None) or []
    # A bare trunk (`GPT2Model`) may still be whole: its head is tied to the embedding.
    sound = head is not None and (not saved or any(name == head or _is_trunk(name, head) for name in saved))
    if not sound:
        what = saved[0] if saved else config.model_type
        raise UserError(
            f"subject.model: {cfg.model!r} is a {what}, not a causal language model; supported: {', '.join(FAMILIES)}"
        )


def _is_trunk(name: str, head: str) -> bool:
    return (
        name.endswith("Model") and head.removesuffix("LMHeadModel").removesuffix("ForCausalLM") == name[: -len("Model")]
    )


def _refuse(error: Exception, cfg: SubjectConfig, key: str, name: str, local: bool) -> NoReturn:
    """Raise the `UserError` for what went wrong while reading `subject.<key>` = `name`."""
    where, causes = f"subject.{key}: {name!r}", _chain(error)
    if "trust_remote_code" in str(error):
        raise UserError(
            f"{where} comes with its own code, which isn't run unless you trust its source and"
            " --set subject.trust_remote_code=true"
        ) from None
    if local:
        raise UserError(f"{where} can't be loaded: {_first_line(error)}") from None
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        raise UserError(
            f"{where} is gated: accept its licence on the Hugging Face Hub and put your access token in the environment"
            f" as HF_TOKEN, or give a local path with --set subject.{key}=PATH"
        ) from None
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        raise UserError(
            f"subject.revision: {name!r} has no revision {cfg.revision!r} on the Hugging Face Hub"
        ) from None
    if any(isinstance(cause, RepositoryNotFoundError) or _status(cause) in (401, 403) for cause in causes):
        raise UserError(
            f"{where} isn't on the Hugging Face Hub, or is private and HF_TOKEN in the environment doesn't open it;"
            f" check the name or give a local path with --set subject.{key}=PATH"
        ) from None
    if any(isinstance(cause, ConnectionError | TimeoutError) or _means_offline(cause) for cause in causes):
        raise UserError(
            f"{where} is neither a local folder nor reachable on the Hugging Face Hub (offline);"
            f" give a local path with --set subject.{key}=PATH"
        ) from None
    raise UserError(f"{where} can't be loaded from the Hugging Face Hub: {_first_line(error)}") from None


def _chain(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _means_offline(error: BaseException) -> bool:
    # huggingface_hub's transport changed from requests to httpx in 1.0; the words stayed.
    return any(words in str(error) for words in ("couldn't connect", "offline", "outgoing traffic", "Name or service"))


def _status(error: BaseException) -> int | None:
    return getattr(error.response, "status_code", None) if isinstance(error, HfHubHTTPError) else None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


# Checks of a local model folder, before transformers reads it: its own errors are long and name no remedy. Weights come
# from safetensors only: a pickle can run code.

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
