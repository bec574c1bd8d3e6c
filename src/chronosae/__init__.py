"""ChronoSAE: sequence-aware sparse autoencoders on language-model activations.

Importing this package is cheap: names resolve on first use, and torch is imported only then.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it.
_EXPORTS = {
    "Autoencoder": "chronosae.autoencoders",
    "Codes": "chronosae.autoencoders",
    "RunConfig": "chronosae.config",
    "SequenceBatch": "chronosae.activations",
    "Subject": "chronosae.subject",
    "UserError": "chronosae.config",
    "build": "chronosae.autoencoders",
    "load": "chronosae.autoencoders",
    "load_config": "chronosae.config",
    "run": "chronosae.pipeline",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'chronosae' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
