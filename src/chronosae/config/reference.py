"""The configuration reference, made from the schema: a field's docstring is its documentation."""

from collections.abc import Iterator
from typing import NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from chronosae.config.schema import RunConfig


class Entry(NamedTuple):
    """One key."""

    key: str
    type: str
    default: str
    doc: str


def entries(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[Entry]:
    """Every leaf key under `model`, in order."""
    for name, field in model.model_fields.items():
        key, inner = f"{prefix}{name}", _section(field)
        if inner is None:
            yield Entry(key, _type(field), _default(field), " ".join((field.description or "").split()))
        else:
            yield from entries(inner, f"{key}.")
            if get_args(field.annotation):
                yield Entry(key, "section or null", "on", " ".join((field.description or "").split()))


def as_text() -> str:
    """For a terminal."""
    return "\n".join(f"{e.key}  ({e.type}; default {e.default})\n    {e.doc}" for e in entries())


def as_markdown() -> str:
    """For docs/configuration.md."""
    rows = "\n".join(f"| `{e.key}` | {_cell(e.type)} | `{_cell(e.default)}` | {_cell(e.doc)} |" for e in entries())
    return (
        "# Configuration\n\n"
        "Every key of a run's YAML file, and of `--set KEY=VALUE`. Made from the schema by `make docs`; edit the\n"
        "docstrings in `src/chronosae/config/schema.py`, not this page. The options under `saes.NAME` are those of\n"
        "the preset, plus `preset`, `site` and `lr`.\n\n"
        "| key | type | default | meaning |\n|---|---|---|---|\n" + rows
    )


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The nested section a field holds (optional ones too); None for a leaf."""
    candidates = [field.annotation, *get_args(field.annotation)]
    if str(field.annotation).startswith("list["):
        return None
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _type(field: FieldInfo) -> str:
    text = str(field.annotation) if get_args(field.annotation) else getattr(field.annotation, "__name__", "any")
    for noise in ("typing.", "chronosae.config.schema.", "Annotated["):
        text = text.replace(noise, "")
    return text.replace("Literal[", "one of [")


def _default(field: FieldInfo) -> str:
    return "required" if field.default is PydanticUndefined else str(field.default)


def _cell(text: str) -> str:
    return text.replace("|", "or").replace("\n", " ")
