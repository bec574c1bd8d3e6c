"""YAML + `--set a.b=c` overrides -> a validated `RunConfig`, or one line that names the key."""

import difflib
import hashlib
import json
import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from chronosae.config.errors import UserError
from chronosae.config.schema import RunConfig

T = TypeVar("T", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error instead of a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, str | int | float | bool):
                seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as text; people who write learning rates mean a number.
_UniqueKeyLoader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$")
for _first in "-+0123456789":
    _UniqueKeyLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, [_first])


class _Dumper(yaml.SafeDumper):
    """Quotes every text that the loader above would read as something else."""


_Dumper.yaml_implicit_resolvers = _UniqueKeyLoader.yaml_implicit_resolvers


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `a.b=c` overrides, validate.

    Raises:
        UserError: the file can't be read or parsed, a key is unknown, or a value is of the wrong type or out of range.
    """
    data = read_yaml(Path(path))
    for override in overrides:
        _apply(data, override)
    return validate(RunConfig, data, where=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `UserError` when there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a config file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text, so not a config file") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    data = _parse(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected `key: value` lines, got {type(data).__name__}")
    return data


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"--set {override}: expected key=value, for instance --set training.lr=1e-3")
    node = data
    for depth, part in enumerate(parts[:-1]):
        child = node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise UserError(f"--set {override}: {'.'.join(parts[: depth + 1])} is a value and holds no keys")
        node = child
    node[parts[-1]] = _parse(text, f"--set {override}") if text else ""


def validate(model: type[T], data: dict[str, Any], where: str, prefix: str = "") -> T:
    """`model` made from `data`, or a `UserError` of one line: where, the key, what is wrong, the legal values."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = [part for part in first["loc"] if not str(part).startswith("function-")]
        key = ".".join([*([prefix] if prefix else []), *map(str, location)])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(f"{where}: {_explain(model, first, location, key)}{more}") from None


def _explain(model: type[BaseModel], error: Any, location: Sequence[Any], key: str) -> str:
    if error["type"] == "extra_forbidden":
        legal = sorted(_keys_at(model, location[:-1]))
        close = difflib.get_close_matches(str(location[-1]), legal, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return (
            f"unknown key {key}{hint} Legal here: {', '.join(legal)}"
            if hint
            else (f"unknown key {key}; legal here: {', '.join(legal)}")
        )
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return f"{key}: {message}" if key else message
    given = json.dumps(error["input"], default=str)
    given = given if len(given) <= 60 else given[:57] + "..."
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}: {message}, got {given}"


def _keys_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Field names legal at `location`, following nested models, lists and optionals."""
    here: Any = model
    for part in location:
        models = _models_in(here.model_fields[part].annotation) if isinstance(part, str) else [here]
        if not models:
            return []
        here = models[0]
    return list(here.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, dict, tuple, Union, types.UnionType):
        return [model for argument in get_args(annotation) for model in _models_in(argument)]
    return []


def canonical_json(config: BaseModel) -> str:
    """The configuration as JSON with sorted keys: equal text means equal configuration."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def config_sha256(config: BaseModel) -> str:
    """Hash of `canonical_json`, in hex."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def to_yaml(config: BaseModel) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal object."""
    data = config.model_dump(mode="json")
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
