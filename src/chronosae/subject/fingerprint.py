"""Tells one subject from another, so that a cache of activations is never read for the wrong model."""

import hashlib
import json
from typing import Any

import torch

_SAMPLES = 256
# Change with every save or every release of transformers, and no activation with them.
_VOLATILE = ("_name_or_path", "name_or_path", "transformers_version", "use_cache", "architectures")


def fingerprint(model: Any, tokenizer: Any) -> str:
    """SHA-256 (hex) of the configuration, the vocabulary, and name, shape, precision and 256 values of each weight.

    The values are spread evenly over the weight, first and last included: reading all of a large model would take
    minutes, and two trainings never agree on so many numbers. Weights that accelerate keeps on disk count by name and
    shape.
    """
    digest = hashlib.sha256()
    config = {key: value for key, value in model.config.to_dict().items() if key not in _VOLATILE}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    if tokenizer is not None:
        digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if weight.device.type != "meta" and weight.numel():
            digest.update(_sample(weight).numpy().tobytes())
    return digest.hexdigest()


def _sample(weight: torch.Tensor) -> torch.Tensor:
    flat = weight.detach().reshape(-1)
    count = min(_SAMPLES, flat.numel())
    # In integers, because a float32 index loses its last digits beyond 16 million.
    index = torch.arange(count, device=flat.device) * (flat.numel() - 1) // max(1, count - 1)
    return flat[index].to("cpu", torch.float64)
