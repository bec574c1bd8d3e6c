"""What can be known of a subject from its configuration alone, in seconds and without weights.

And what tells it from another, so that a cache of activations is never read for the wrong model.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from chronosae.config import SubjectConfig
from chronosae.subject.architectures import site_kinds, text_config
from chronosae.subject.loading import load_hf_config
from chronosae.subject.sites import Site, SiteKind, parse_sites


@dataclass(frozen=True)
class SubjectInfo:
    """Sizes of a subject."""

    architecture: str
    """Hugging Face `model_type` of the text decoder."""
    n_layers: int
    d_model: int
    max_context: int
    """Longest context the model was made for, in tokens."""
    vocab_size: int
    kinds: tuple[SiteKind, ...]
    """Kinds of site the architecture has."""
    n_parameters_estimate: int
    """Parameters, tied ones once, counted on a model without storage."""


def inspect_subject(cfg: SubjectConfig) -> SubjectInfo:
    """Read the configuration (and, for a local folder, check that its weight files are whole); load no weights.

    Raises:
        UserError: as `Subject.load` does for everything that shows before the weights are read.
    """
    config = load_hf_config(cfg)
    return describe(config, _count_parameters(config, cfg.trust_remote_code))


def describe(config: Any, n_parameters: int) -> SubjectInfo:
    """`SubjectInfo` from a Hugging Face configuration."""
    text = text_config(config)
    return SubjectInfo(
        architecture=text.model_type,
        n_layers=text.num_hidden_layers,
        d_model=text.hidden_size,
        max_context=_max_context(text),
        vocab_size=text.vocab_size,
        kinds=site_kinds(config),
        n_parameters_estimate=n_parameters,
    )


def check_sites(info: SubjectInfo, sites: Sequence[str]) -> list[Site]:
    """The sites, parsed; `UserError` that lists the legal names when one isn't among them."""
    return parse_sites(sites, info.n_layers, info.kinds, info.architecture)


def _max_context(config: Any) -> int:
    lengths = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "seq_length"))
    # An architecture without positions (ALiBi) sets no limit.
    return next((length for length in lengths if length), sys.maxsize)


def _count_parameters(config: Any, trust_remote_code: bool) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in model.parameters())


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
