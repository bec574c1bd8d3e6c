"""What a part is: a small pydantic model that says which one, and the module it makes.

Every slot of the autoencoder (norm, mixer, kernel, position mask, activation, corruption, term) has a `Registry` of
kinds. A part of your own is one spec class, added with `@REGISTRY.add`; docs/architectures/your-own-part.md shows one.
"""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from torch import nn

from chronosae.config import Section

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class PartSpec(Section):
    """Base of all part specs. Subclasses give `kind` a default: the part's name in a configuration."""

    kind: Any
    """Its name; a `Literal` in every subclass."""


class ModuleSpec(PartSpec):
    """A part that computes something."""

    def make(self, d_in: int, d_sae: int) -> nn.Module:
        """The module with fresh weights. Must work on the `meta` device; random weights come from torch's generator."""
        raise NotImplementedError


P = TypeVar("P", bound=PartSpec)
AnyPart = TypeVar("AnyPart", bound=PartSpec)


class Registry(Generic[P]):
    """The kinds of one slot."""

    def __init__(self, slot: str) -> None:
        self.slot = slot
        self.kinds: dict[str, type[P]] = {}

    def add(self, spec: type[AnyPart]) -> type[AnyPart]:
        """Class decorator: `spec` becomes a legal kind of this slot.

        Raises:
            ValueError: no default for `kind`, or the name is taken.
        """
        kind = spec.model_fields["kind"].default
        if not isinstance(kind, str):
            raise ValueError(f"{spec.__name__}: give `kind` a default, the part's name")
        if kind in self.kinds:
            raise ValueError(f"{self.slot} {kind!r} exists already ({self.kinds[kind].__name__})")
        self.kinds[kind] = spec  # pyright: ignore[reportArgumentType]
        return spec

    def read(self, value: Any) -> Any:
        """A spec from a mapping with `kind`; specs and None pass as they are. For pydantic."""
        if value is None or isinstance(value, PartSpec):
            return value
        legal = ", ".join(self.kinds)
        if not isinstance(value, dict):
            raise ValueError(f"expected a mapping with `kind` (one of {legal}), got {value!r}")
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in self.kinds:
            raise ValueError(f"unknown {self.slot} kind {kind!r}; legal: {legal}")
        spec = self.kinds[kind]
        try:
            return spec.model_validate(value)
        except ValidationError as error:
            raise _name_legal_keys(spec, error) from None

    def validator(self) -> BeforeValidator:
        """For `Annotated` fields of pydantic models."""
        return BeforeValidator(self.read)


def _name_legal_keys(spec: type[PartSpec], error: ValidationError) -> ValidationError:
    """The same error, but an unknown key is told the keys of this kind: from outside, only the base's can be seen."""
    unknown = [line for line in error.errors(include_url=False) if line["type"] == "extra_forbidden"]
    if not unknown:
        return error
    first = unknown[0]
    legal = ", ".join(sorted(spec.model_fields))
    kind = spec.model_fields["kind"].default
    told = PydanticCustomError("unknown_key", "unknown key; legal for {kind}: {legal}", {"kind": kind, "legal": legal})
    line = InitErrorDetails(type=told, loc=first["loc"], input=first["input"])
    return ValidationError.from_exception_data(spec.__name__, [line])


__all__ = ["Fraction", "ModuleSpec", "PartSpec", "Positive", "Registry"]
