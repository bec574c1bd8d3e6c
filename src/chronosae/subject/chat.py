"""Conversations as tokens with a role for each token, from the tokenizer's own chat template.

Most templates carry no `{% generation %}` marks, so roles are found from outside: the conversation is rendered once
with placeholders for the contents, which yields the template's own text around them; the true rendering is then read as
that text with the contents in between, and character spans become token roles through the tokenizer's offsets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.config import UserError


class Role(IntEnum):
    """Who wrote a token."""

    TEMPLATE = 0
    """Nobody: turn markers, role names, separators, BOS."""
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3


_ROLES = {"system": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}


@dataclass(frozen=True)
class ChatTokens:
    """One conversation."""

    tokens: Int[Tensor, " pos"]
    roles: Int[Tensor, " pos"]
    """A `Role` for each token."""
    text: str
    """What the template made of the conversation."""

    def mask(self, *roles: Role) -> Bool[Tensor, " pos"]:
        """True at tokens of any of the given roles."""
        return torch.isin(self.roles, torch.tensor(roles, dtype=self.roles.dtype))


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    role: Role


def chat_tokens(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False
) -> ChatTokens:
    """Apply the tokenizer's chat template to `messages` (`{"role": "system" | "user" | "assistant", "content": ...}`).

    A token that holds part of a content counts as that content, also where template text is merged into it (the space
    in `[INST] Hello`). Templates may trim contents; other rewriting is refused, as it leaves roles undefined.

    Raises:
        UserError: no template, a role it refuses, a tokenizer without offsets, or contents that can't be found again.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("subject.tokenizer: the tokenizer has no chat template; this needs an instruct model's")
    if not tokenizer.is_fast:
        raise UserError("subject.tokenizer: roles need a fast tokenizer (tokenizer.json), which knows token offsets")
    roles = [_role(message) for message in messages]
    text = _render(tokenizer, messages, add_generation_prompt)
    around = _template_text(tokenizer, messages, add_generation_prompt)
    spans = _locate(text, around, [message["content"] for message in messages], roles)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return ChatTokens(
        tokens=torch.tensor(encoded["input_ids"], dtype=torch.long),
        roles=torch.tensor([_role_of(span, spans) for span in encoded["offset_mapping"]], dtype=torch.long),
        text=text,
    )


def _role(message: Mapping[str, str]) -> Role:
    role = _ROLES.get(message.get("role", ""))
    if role is None or not isinstance(message.get("content"), str):
        raise UserError(
            f"chat: a message needs a role ({', '.join(_ROLES)}) and a content of text, got {dict(message)}"
        )
    return role


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
    try:
        conversation = [dict(message) for message in messages]
        return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # jinja2's TemplateError, or whatever the template's own code runs into
        raise UserError(f"chat: the tokenizer's template refuses this conversation: {error}") from None


def _template_text(tokenizer: Any, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> list[str]:
    """The template's text before the first content, between contents, and after the last."""
    # Private-use characters: no template looks for them, none trims them, no real text is mistaken for them.
    marks = [f"\ue0f0{index}\ue0f1" for index in range(len(messages))]
    marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    rest = _render(tokenizer, marked, add_generation_prompt)
    around = []
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise UserError("chat: the tokenizer's template drops or repeats a message, so roles can't be told")
        around.append(before)
    return [*around, rest]


def _locate(text: str, around: list[str], contents: list[str], roles: list[Role]) -> list[_Span]:
    spans: list[_Span] = []
    cursor = len(around[0])
    sound = text.startswith(around[0])
    for content, role, after in zip(contents, roles, around[1:], strict=True):
        variants = (content, content.strip(), content.lstrip(), content.rstrip())
        end = next((cursor + len(v) for v in variants if text.startswith(v + after, cursor)), None)
        if end is None:
            sound = False
            break
        spans.append(_Span(cursor, end, role))
        cursor = end + len(after)
    if not sound or cursor != len(text):
        raise UserError("chat: the tokenizer's template rewrites a message's content, so roles can't be told")
    return spans


def _role_of(token: tuple[int, int], spans: list[_Span]) -> int:
    start, end = token[0], max(token[1], token[0] + 1)
    return next((span.role for span in reversed(spans) if start < span.end and end > span.start), Role.TEMPLATE)
