"""Entities, their attributes and prompts that ask for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronosae.config import UserError
from chronosae.evals.data.providers import Providers
from chronosae.evals.data.rows import jsonl_rows, text_field

ENTITY = "{entity}"


@dataclass(frozen=True)
class AttributeSet:
    """Entities of one kind. The answer to a prompt is a space and the value."""

    name: str
    prompts: dict[str, tuple[str, ...]]
    """Attribute -> prompts that hold `{entity}` once and end right before the answer."""
    values: dict[str, dict[str, str]]
    """Attribute -> entity -> value."""

    @property
    def entities(self) -> tuple[str, ...]:
        """All entities, as they first come."""
        return tuple(dict.fromkeys(entity for values in self.values.values() for entity in values))

    def options(self, attribute: str) -> tuple[str, ...]:
        """All values of an attribute, in alphabetical order."""
        return tuple(sorted(set(self.values[attribute].values())))


def read_attribute_file(path: Path, split: str) -> AttributeSet:
    """A .jsonl of two kinds of rows: `attribute` and `prompt`, or `attribute`, `entity` and `value`.

    `split` isn't used: entities are divided by the evaluation.

    Raises:
        UserError: a row is damaged (it is named), or fewer than two attributes have both prompts and values.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .jsonl of attributes")
    prompts: dict[str, list[str]] = {}
    values: dict[str, dict[str, str]] = {}
    for where, row in jsonl_rows(path):
        attribute = text_field(row, "attribute", where)
        if "prompt" in row:
            prompts.setdefault(attribute, []).append(_prompt(row, where))
        else:
            values.setdefault(attribute, {})[text_field(row, "entity", where)] = text_field(row, "value", where)
    both = [attribute for attribute in prompts if len(set(values.get(attribute, {}).values())) > 1]
    if len(both) < 2:
        raise UserError(f"{path}: at least two attributes need both prompts and two values; {len(both)} have")
    return AttributeSet(path.stem, {a: tuple(prompts[a]) for a in both}, {a: values[a] for a in both})


def _prompt(row: dict[str, Any], where: str) -> str:
    prompt = text_field(row, "prompt", where)
    if prompt.count(ENTITY) != 1:
        raise UserError(f"{where}: a prompt must hold {ENTITY} exactly once")
    return prompt


ATTRIBUTES: Providers[AttributeSet] = Providers(
    "attributes", read_attribute_file, ".jsonl with attribute and prompt, or attribute, entity and value"
)
