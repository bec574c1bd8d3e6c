"""The configuration reference, made from the schema: a field's docstring is its documentation."""

import json
import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

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
    """Every key under `model`, in order. Parts (mappings with `kind`) are leaves: the kind decides what they hold."""
    for name, field in model.model_fields.items():
        key, inner = f"{prefix}{name}", _section(field)
        leaf = Entry(key, _type(field.annotation), _default(field), " ".join((field.description or "").split()))
        if inner is None:
            yield leaf
        elif get_origin(field.annotation) is list:
            yield leaf
            yield from entries(inner, f"{key}[].")
        else:
            if get_args(field.annotation):
                yield leaf._replace(type="section or null", default="on")
            yield from entries(inner, f"{key}.")
    if "__pydantic_extra__" in model.__annotations__:
        doc = " ".join((model.__doc__ or "").split("\n\n", 1)[-1].split())
        yield Entry(f"{prefix}NAME", _type(dict[str, Any] | None), "null", doc)


def as_text() -> str:
    """For a terminal."""
    return "\n".join(f"{e.key}  ({e.type}; default {e.default})\n    {e.doc}" for e in entries())


def as_markdown() -> str:
    """For docs/configuration.md."""
    return (
        "# Configuration\n\n"
        "Every key of a run's YAML file, and of `--set KEY=VALUE`. Made from the schema by `make docs`; edit the\n"
        "docstrings in `src/chronosae/config/schema.py`, not this page. The options under `saes.NAME` are those of\n"
        "the [preset](architectures/README.md), plus `preset`, `site` and `lr`.\n\n" + markdown_table(entries(), "key")
    )


def markdown_table(rows: Iterable[Entry], key: str = "option") -> str:
    """One row an entry; `key` heads the first column."""
    lines = (f"| `{e.key}` | {_cell(e.type)} | `{_cell(e.default)}` | {_cell(e.doc)} |" for e in rows)
    return "\n".join([f"| {key} | type | default | meaning |", "|---|---|---|---|", *lines])


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The nested section a field holds (an optional one or a list of them too); None for a leaf."""
    candidates = [c for c in (field.annotation, *get_args(field.annotation)) if isinstance(c, type)]
    return next((c for c in candidates if issubclass(c, BaseModel) and "kind" not in c.model_fields), None)


def _type(annotation: Any) -> str:
    """A type as people would write it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is not None:
        return f"{origin.__name__} of " + ", ".join(_type(argument) for argument in arguments)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "part" if "kind" in annotation.model_fields else "section"
    return {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}.get(
        annotation, "anything"
    )


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    return "required" if default is PydanticUndefined else json.dumps(default, default=_plain)


def _plain(value: Any) -> Any:
    """A part by its options, anything else as it prints."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
