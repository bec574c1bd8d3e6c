"""ChronoSAE: sequence-aware sparse autoencoders on language-model activations.

Importing this package is cheap: names resolve on first use, and torch is imported only then.
"""

import importlib
from typing import TYPE_CHECKING, Any

from chronosae.version import __version__

if TYPE_CHECKING:
    from chronosae.activations import SequenceBatch
    from chronosae.autoencoders import Autoencoder, Codes
    from chronosae.config import RunConfig, UserError, load_config
    from chronosae.pipeline import run
    from chronosae.presets import build, load
    from chronosae.subject import Subject

__all__ = [
    "Autoencoder",
    "Codes",
    "RunConfig",
    "SequenceBatch",
    "Subject",
    "UserError",
    "__version__",
    "build",
    "load",
    "load_config",
    "run",
]

# Public name -> module that defines it.
_EXPORTS = {
    "Autoencoder": "autoencoders",
    "Codes": "autoencoders",
    "RunConfig": "config",
    "SequenceBatch": "activations",
    "Subject": "subject",
    "UserError": "config",
    "build": "presets",
    "load": "presets",
    "load_config": "config",
    "run": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'chronosae' has no attribute {name!r}")
    return getattr(importlib.import_module(f"chronosae.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
