"""Small real things: a random Llama with the embedded world's tokenizer, and a configuration that trains in seconds."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from chronosae.world import model_folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in Hugging Face form: hidden 32, 3 layers, 64 positions."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder() / name, folder)
    torch.manual_seed(0)
    vocab = LlamaConfig.from_pretrained(model_folder()).vocab_size
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Two hundred short documents."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"The {i}th traveller paid the ferryman {i % 7} coins." for i in range(200)))
    return path


@pytest.fixture
def write_config(tmp_path: Path, tiny_model: Path, text_file: Path) -> Callable[..., Path]:
    """Writes a run that takes a second or two; keyword arguments replace whole sections."""

    def write(**sections: Any) -> Path:
        base: dict[str, Any] = {
            "name": "tiny",
            "subject": {"model": str(tiny_model), "sites": ["blocks.1.hook_resid_post"]},
            "corpus": {"path": str(text_file), "holdout_every": 5},
            "activations": {"context": 32, "shuffle_buffer": 8, "harvest_sequences": 4, "normalise_tokens": 256},
            "training": {"tokens": 2560, "batch_tokens": 128, "log_every": 5, "dead_after_tokens": 1000},
            "saes": {"topk": {"d_sae": 64, "k": 4}, "relu_l1": {"d_sae": 64, "target_l0": 4}},
            "evals": {"core": {"tokens": 256, "behaviour_tokens": 128, "batch_sequences": 4}},
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({**base, **sections}, sort_keys=False))
        return path

    return write
