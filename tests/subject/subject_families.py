"""Tiny, randomly initialised models of every supported family, for tests."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto import CONFIG_MAPPING

VOCAB = 96
LAYERS = 3
WIDTH = 32
CONTEXT = 64

_LLAMA_LIKE = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_GEMMA_LIKE = _LLAMA_LIKE | {"head_dim": 8, "pad_token_id": 0}
_NEOX = {key: value for key, value in _LLAMA_LIKE.items() if key != "num_key_value_heads"}

# Windows of 4 tokens, so that contexts of the tests are longer; Gemma 3 gets both kinds of layer.
FAMILY_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": CONTEXT}),
    "pythia": ("gpt_neox", _NEOX),
    "neox-sequential": ("gpt_neox", _NEOX | {"use_parallel_residual": False}),
    "llama": ("llama", _LLAMA_LIKE),
    "mistral": ("mistral", _LLAMA_LIKE | {"sliding_window": 4}),
    "qwen2": ("qwen2", _LLAMA_LIKE),
    "qwen3": ("qwen3", _LLAMA_LIKE | {"head_dim": 8}),
    "gemma": ("gemma", _GEMMA_LIKE),
    "gemma2": ("gemma2", _GEMMA_LIKE | {"sliding_window": 4, "query_pre_attn_scalar": 8}),
    "gemma3": (
        "gemma3_text",
        _GEMMA_LIKE
        | {
            "sliding_window": 4,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}


def family_config(family: str, **changes: Any) -> Any:
    """The Hugging Face configuration of a tiny model of this family."""
    model_type, options = FAMILY_CONFIGS[family]
    return CONFIG_MAPPING[model_type](**(options | {"bos_token_id": 1, "eos_token_id": 2} | changes))


def tiny_model(family: str, **changes: Any) -> Any:
    """A tiny model of this family with weights large enough for every part to matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family_config(family, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            # Random norms and biases too: at their initial ones and zeros a misplaced hook could go unnoticed.
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.1))
    return model.eval()
