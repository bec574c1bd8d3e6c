"""Chat templates: every token knows who wrote it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from chronosae.config import UserError
from chronosae.subject import Role, chat_tokens

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Trims contents, calls the assistant `model`, refuses system messages.
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Puts the system message inside the first user turn.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set sys = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first and sys %}<<SYS>>\n{{ sys }}\n<</SYS>>\n\n{% endif %}{{ m['content'].strip() }} [/INST]"
    "{% else %} {{ m['content'].strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
CONVERSATION = [
    {"role": "system", "content": "Be kind to the user."},
    {"role": "user", "content": "user: what did Lily see?"},
    {"role": "assistant", "content": "A big, red ball.\nThen she ran home."},
    {"role": "user", "content": "And Tom?"},
]


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Any:
    return AutoTokenizer.from_pretrained(shared / "models" / "stories260k")


def written_by(tokenizer: Any, chat: Any, role: Role) -> str:
    return tokenizer.decode(chat.tokens[chat.mask(role)])


@pytest.mark.parametrize("template", [CHATML, LLAMA2], ids=["chatml", "llama2"])
def test_each_role_holds_the_contents_of_its_messages(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    chat = chat_tokens(tokenizer, CONVERSATION)
    for role in (Role.SYSTEM, Role.USER, Role.ASSISTANT):
        contents = [m["content"] for m in CONVERSATION if m["role"] == role.name.lower()]
        # Without white space: a decoder drops the space that a message begins with.
        assert "".join(written_by(tokenizer, chat, role).split()) == "".join("".join(contents).split())
    assert "Lily" not in written_by(tokenizer, chat, Role.TEMPLATE)


def test_tokens_are_those_of_the_tokenizer_s_own_template_call(tokenizer: Any) -> None:
    for template in (CHATML, LLAMA2):
        tokenizer.chat_template = template
        chat = chat_tokens(tokenizer, CONVERSATION, add_generation_prompt=True)
        own = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert chat.tokens.tolist() == own
        assert chat.roles.shape == chat.tokens.shape


def test_a_generation_prompt_belongs_to_the_template(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    without = chat_tokens(tokenizer, CONVERSATION)
    prompted = chat_tokens(tokenizer, CONVERSATION, add_generation_prompt=True)
    assert torch.equal(prompted.roles[: len(without.roles)], without.roles)
    assert (prompted.roles[len(without.roles) :] == Role.TEMPLATE).all()
    assert len(prompted.roles) > len(without.roles)


def test_trimmed_contents_are_still_found_and_a_refused_role_is_reported(tokenizer: Any) -> None:
    tokenizer.chat_template = GEMMA
    spaced = [{"role": "user", "content": "  Hello there \n"}, {"role": "assistant", "content": "model"}]
    chat = chat_tokens(tokenizer, spaced)
    assert written_by(tokenizer, chat, Role.USER).strip() == "Hello there"
    # The word `model` is also template text right in front of it; only the second one is the assistant's.
    assert written_by(tokenizer, chat, Role.ASSISTANT).strip() == "model"
    with pytest.raises(UserError, match="refuses this conversation: System role not supported"):
        chat_tokens(tokenizer, CONVERSATION)


@settings(max_examples=15)
@given(contents=st.lists(st.text(alphabet="aZ \n<|im_end|>é世🙂{}", max_size=8), min_size=1, max_size=4))
def test_any_contents_are_told_from_the_template(tokenizer: Any, contents: list[str]) -> None:
    tokenizer.chat_template = CHATML
    names = ("user", "assistant")
    messages = [{"role": names[i % 2], "content": content} for i, content in enumerate(contents)]
    chat = chat_tokens(tokenizer, messages)
    counts = [int(chat.mask(role).sum()) for role in (Role.USER, Role.ASSISTANT, Role.SYSTEM)]
    lengths = [sum(len(c) for c in contents[i::2]) for i in range(2)]
    assert counts[2] == 0 and all((count > 0) == (length > 0) for count, length in zip(counts, lengths, strict=False))


def test_what_leaves_roles_undefined_is_an_error(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(UserError, match="rewrites a message's content"):
        chat_tokens(tokenizer, [{"role": "user", "content": "hello"}])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(UserError, match="drops or repeats a message"):
        chat_tokens(tokenizer, CONVERSATION)
    with pytest.raises(UserError, match="a message needs a role"):
        chat_tokens(tokenizer, [{"role": "tool", "content": "hello"}])
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        chat_tokens(tokenizer, CONVERSATION)
