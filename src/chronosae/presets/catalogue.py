"""Presets and parts as data that people and programs read: what each is, and what its options mean."""

from typing import Any

from chronosae.autoencoders import Normalisation, Spec
from chronosae.autoencoders.parts.temporal import FEATURE_KERNELS
from chronosae.autoencoders.spec import ACTIVATIONS, BODIES, CORRUPTIONS, MIXERS, NORMS, POSITION_MASKS, TERMS, TRACKERS
from chronosae.config.reference import Entry, entries
from chronosae.config.registry import PartSpec, Registry, summary_of
from chronosae.presets import PRESETS, PartsPreset, find_preset

REGISTRIES: tuple[Registry[Any], ...] = (
    NORMS,
    MIXERS,
    FEATURE_KERNELS,
    POSITION_MASKS,
    ACTIVATIONS,
    TERMS,
    CORRUPTIONS,
    TRACKERS,
    BODIES,
)
"""All slots, in the order in which data flows through them."""
_FIRST = ("d_sae", "k")  # of the shared options


def default_spec(name: str) -> Spec:
    """The preset as it is without any option. The width is an example: nothing here depends on it."""
    return PRESETS[name]().spec(64, Normalisation())


def describe(name: str) -> dict[str, Any]:
    """`name`, `summary`, `paper`, `causal`, `receptive_field` (None: all earlier tokens) and `defaults` of a preset.

    Raises:
        UserError: no such preset.
    """
    preset = find_preset(name, "list")
    spec = default_spec(name)
    return {
        "name": name,
        "summary": summary_of(preset).removesuffix("."),
        "paper": preset.paper,
        "causal": spec.causal,
        "receptive_field": spec.receptive_field,
        "defaults": preset().model_dump(mode="json"),
    }


def option_entries(name: str) -> list[Entry]:
    """The options of a preset: its own, then `d_sae` and `k`, then those that it shares with others.

    Raises:
        UserError: no such preset.
    """
    found = list(entries(find_preset(name, "list")))
    own = [entry for entry in found if entry.key not in PartsPreset.model_fields]
    first = [entry for entry in found if entry.key in _FIRST]
    return [*own, *first, *(entry for entry in found if entry not in own and entry not in first)]


def kinds(registry: Registry[Any]) -> dict[str, type[PartSpec]]:
    """The kinds of a slot that come with the package; parts that somebody else registered are left out."""
    return {kind: spec for kind, spec in registry.kinds.items() if spec.__module__.startswith("chronosae.")}


def kind_entries(spec: type[PartSpec]) -> list[Entry]:
    """The options of a part, `kind` left out; where it says nothing of one, what its base says."""
    bases = [base for base in spec.__mro__ if issubclass(base, PartSpec)]

    def inherited(key: str) -> str:
        docs = (base.model_fields[key].description for base in bases if key in base.model_fields)
        return " ".join(next((doc for doc in docs if doc), "").split())

    found = [entry for entry in entries(spec) if entry.key != "kind"]
    return [entry if entry.doc else entry._replace(doc=inherited(entry.key)) for entry in found]
