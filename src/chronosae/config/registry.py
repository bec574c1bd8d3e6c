"""One way to add a part: a class that holds its options, a decorator, a name to be found by.

    @MIXERS.add
    class Fading(MixerSpec):
        kind: Literal["fading"] = "fading"
        decay: float = 0.7

Activation functions, mixers, terms, trackers, presets, corpora, evaluations and interventions are all added like this,
inside the package and outside it. A part of somebody else's is known once the file or module that adds it has been
imported: `--plugin my_part.py` on the command line, a plain `import` in Python.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from chronosae.config.errors import UserError
from chronosae.config.schema import Section


class PartSpec(Section):
    """Base of parts that a configuration holds as a mapping with `kind`."""

    kind: Any
    """Its name; a `Literal` with a default in every subclass."""


OWN = "(one of your own: --plugin FILE)"

REGISTRIES: dict[str, "Registry[Any]"] = {}
"""Every registry by its sort, once its room has been imported."""

P = TypeVar("P", bound=BaseModel)
AnyPart = TypeVar("AnyPart", bound=BaseModel)


class Registry(Generic[P]):
    """The parts of one sort, by name.

    Args:
        sort: what they are, for messages: `mixer`, `evaluation`.
        homes: name -> module of those that come with the package and are imported only when first asked for.
    """

    def __init__(self, sort: str, homes: Mapping[str, str] | None = None) -> None:
        self.sort = sort
        self._homes = dict(homes or {})
        self._known: dict[str, type[P]] = {}
        REGISTRIES[sort] = self

    def add(self, part: type[AnyPart]) -> type[AnyPart]:
        """Class decorator: `part` can be asked for by its name, the default of `kind` or the class variable `name`.

        Raises:
            ValueError: it has no name, or the name is taken.
        """
        name = name_of(part)
        if not isinstance(name, str):
            raise ValueError(f"{part.__name__}: give `kind` a default (or a class variable `name`): the part's name")
        taken = name in self._known or self._homes.get(name, part.__module__) != part.__module__
        if taken:
            raise ValueError(f"{self.sort} {name!r} exists already")
        self._known[name] = part  # pyright: ignore[reportArgumentType]
        return part

    def expect(self, homes: Mapping[str, str]) -> None:
        """More names whose modules (name -> module) are imported only when first asked for."""
        self._homes |= homes

    def remove(self, name: str) -> None:
        """Forget the part called `name`, so that it may be written anew (in a notebook, say)."""
        del self._known[name]

    def names(self) -> list[str]:
        """All names: the package's own first."""
        return [*self._homes, *(name for name in self._known if name not in self._homes)]

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._homes

    def __getitem__(self, name: str) -> type[P]:
        if name not in self._known:
            importlib.import_module(self._homes[name])
        return self._known[name]

    def __len__(self) -> int:
        return len(self.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    @property
    def imported(self) -> dict[str, type[P]]:
        """The parts whose modules have been imported, by name."""
        return dict(self._known)

    @property
    def kinds(self) -> dict[str, type[P]]:
        """Every part by name, all of them imported."""
        return {name: self[name] for name in self.names()}

    def find(self, name: Any, where: str = "") -> type[P]:
        """The part called `name`.

        Raises:
            UserError: there is none; the line lists what there is.
        """
        self.require(name, where)
        return self[name]

    def require(self, name: Any, where: str = "") -> None:
        """`UserError` where there is no part called `name`; nothing is imported."""
        if not isinstance(name, str) or name not in self:
            raise UserError(f"{f'{where}: ' if where else ''}{self._unknown(name)}")

    def read(self, value: Any) -> Any:
        """A part from a mapping with `kind`; parts and None pass as they are. For pydantic."""
        if value is None or isinstance(value, PartSpec):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"expected a mapping with `kind` (one of {', '.join(self)}), got {value!r}")
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in self:
            raise ValueError(f"unknown {self.sort} kind {kind!r}; legal: {', '.join(self)} {OWN}")
        spec = self[kind]
        try:
            return spec.model_validate(value)
        except ValidationError as error:
            raise _name_legal_keys(spec, error) from None

    def validator(self) -> BeforeValidator:
        """For `Annotated` fields of pydantic models."""
        return BeforeValidator(self.read)

    def _unknown(self, name: Any) -> str:
        return f"unknown {self.sort} {name!r}; legal: {', '.join(self)} {OWN}"


def name_of(part: type[BaseModel]) -> Any:
    """What a part is called in a configuration."""
    field = part.model_fields.get("kind")
    return getattr(part, "name", None) if field is None else field.default


def summary_of(part: type[BaseModel]) -> str:
    """The first line of a part's docstring: what it is, for lists."""
    return next(iter((part.__doc__ or "").strip().splitlines()), "")


def load_plugin(plugin: str) -> None:
    """Import a Python file (`my_part.py`) or a module (`my_package.parts`) that adds parts. Its code runs.

    Only its caller may name one: a configuration can come from a stranger.

    Raises:
        UserError: it isn't there, or breaks while it is imported.
    """
    path = Path(plugin)
    try:
        if path.suffix != ".py":
            importlib.import_module(plugin)
            return
        if not path.is_file():
            raise UserError(f"--plugin {plugin}: no such file")
        _import_file(path.resolve())
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--plugin {plugin}: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> None:
    # Registering a part twice is an error, so a file named twice is imported once.
    name = f"chronosae_plugin_{path.stem}"
    if str(path) == getattr(sys.modules.get(name), "__file__", None):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _name_legal_keys(spec: type[BaseModel], error: ValidationError) -> ValidationError:
    """The same error, but an unknown key is told the keys of this kind: from outside, only the base's can be seen."""
    unknown = [line for line in error.errors(include_url=False) if line["type"] == "extra_forbidden"]
    if not unknown:
        return error
    first = unknown[0]
    told = PydanticCustomError(
        "unknown_key",
        "unknown key; legal for {kind}: {legal}",
        {"kind": name_of(spec), "legal": ", ".join(sorted(spec.model_fields))},
    )
    line = InitErrorDetails(type=told, loc=first["loc"], input=first["input"])
    return ValidationError.from_exception_data(spec.__name__, [line])
