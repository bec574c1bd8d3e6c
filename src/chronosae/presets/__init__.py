"""Presets: which parts make which architecture, by name. Build an autoencoder from one, or load a saved one.

`load` is offered here because it needs every term known by name, as importing `chronosae.objectives` makes them.
"""

from typing import Any

from pydantic import ValidationError

from chronosae.autoencoders import Autoencoder, Normalisation, Spec, build_from_spec
from chronosae.autoencoders.assembly import load, load_trackers
from chronosae.config import UserError, validate
from chronosae.presets.base import PRESETS, PartsPreset, Preset, TopKPreset

find_preset = PRESETS.find


def read_options(preset: str, options: dict[str, Any], where: str = "build", prefix: str = "") -> Preset:
    """The preset called so, with these options; `UserError` names the one that is wrong."""
    return validate(find_preset(preset, where), options, where=where, prefix=prefix)


def make_spec(options: Preset, d_in: int, normalisation: Normalisation | None = None) -> Spec:
    """The parts of a preset with its options at width `d_in`.

    Raises:
        UserError: options that can't go together.
    """
    try:
        return options.spec(d_in, normalisation or Normalisation())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{options.name}: {first.get('ctx', {}).get('error', first['msg'])}") from None
    except ValueError as error:
        raise UserError(f"{options.name}: {error}") from None


def build(
    preset: str, *, d_in: int, normalisation: Normalisation | None = None, seed: int = 0, **options: Any
) -> Autoencoder:
    """An autoencoder of `preset` with fresh weights.

    Args:
        preset: its name, such as `topk`.
        d_in: width at the site.
        normalisation: what to do to inputs first; nothing by default.
        seed: seed of the initial weights.
        options: the preset's own, such as `d_sae=2048, k=32`.

    Raises:
        UserError: unknown preset or option, value out of range.
    """
    chosen = read_options(preset, options, where=f"build({preset!r})")
    return build_from_spec(make_spec(chosen, d_in, normalisation), seed)


__all__ = [
    "PRESETS",
    "PartsPreset",
    "Preset",
    "TopKPreset",
    "build",
    "find_preset",
    "load",
    "load_trackers",
    "make_spec",
    "read_options",
]
