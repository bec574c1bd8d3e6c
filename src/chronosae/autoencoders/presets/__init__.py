"""The preset table. A new architecture is one file beside this one, and one line below."""

from typing import Any

import torch
from pydantic import ValidationError

from chronosae.autoencoders.autoencoder import Autoencoder
from chronosae.autoencoders.presets import (
    batch_topk,
    causal,
    chrono,
    consistency,
    gated,
    jump_relu,
    lagged,
    matryoshka,
    multiscale,
    positional,
    relu_l1,
    stacked,
    tfa,
    topk,
    tsae,
    txc,
    winner_take_all,
)
from chronosae.autoencoders.presets.base import Options, Preset
from chronosae.autoencoders.spec import Normalisation, Spec
from chronosae.config import UserError, validate

_MODULES = (
    relu_l1,
    topk,
    batch_topk,
    jump_relu,
    gated,
    matryoshka,
    winner_take_all,
    multiscale,
    consistency,
    causal,
    lagged,
    positional,
    tsae,
    tfa,
    txc,
    stacked,
    chrono,
)
PRESETS: dict[str, Preset] = {module.PRESET.name: module.PRESET for module in _MODULES}


def find_preset(name: Any, where: str) -> Preset:
    """The preset called `name`; `UserError` that lists the legal ones."""
    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(f"{where}: unknown preset {name!r}; legal: {', '.join(PRESETS)}")
    return PRESETS[name]


def read_options(preset: str, options: dict[str, Any], where: str = "build", prefix: str = "") -> Options:
    """Validated options of a preset; `UserError` names the key."""
    return validate(find_preset(preset, where).options, options, where=where, prefix=prefix)


def make_spec(preset: str, d_in: int, options: Options, normalisation: Normalisation | None = None) -> Spec:
    """The `Spec` of a preset with these options at width `d_in`.

    Raises:
        UserError: options that can't go together.
    """
    try:
        return PRESETS[preset].make(options, d_in, normalisation or Normalisation())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{preset}: {first.get('ctx', {}).get('error', first['msg'])}") from None
    except ValueError as error:
        raise UserError(f"{preset}: {error}") from None


def build(
    preset: str, *, d_in: int, normalisation: Normalisation | None = None, seed: int = 0, **options: Any
) -> Autoencoder:
    """An autoencoder of `preset` with fresh weights.

    Arguments:
        preset: a name from the preset table, such as `topk`.
        d_in: width at the site.
        normalisation: what to do to inputs first; nothing by default.
        seed: seed of the initial weights.
        options: the preset's own, such as `d_sae=2048, k=32`.

    Raises:
        UserError: unknown preset or option, value out of range.
    """
    spec = make_spec(preset, d_in, read_options(preset, options, where=f"build({preset!r})"), normalisation)
    return build_from_spec(spec, seed)


def build_from_spec(spec: Spec, seed: int = 0) -> Autoencoder:
    """An autoencoder with fresh weights; the same seed gives every preset of one size the same dictionary."""
    return spec.body.autoencoder()(spec, torch.Generator().manual_seed(seed))


__all__ = ["PRESETS", "Options", "Preset", "build", "build_from_spec", "find_preset", "make_spec", "read_options"]
