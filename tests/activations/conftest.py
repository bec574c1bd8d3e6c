"""A tiny random Llama with a byte tokenizer, wrapped by the real `Subject`: nothing here needs a download."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chronosae.config import RunConfig
from chronosae.subject import Subject

SPECIAL = ["<s>", "</s>", "<pad>"]
SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"]


def byte_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte, ids from 3; BOS 0, EOS 1, PAD 2."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"eos_token": "</s>", "pad_token": "<pad>"} | ({"bos_token": "<s>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session")
def tiny() -> Subject:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    return Subject(LlamaForCausalLM(config), byte_tokenizer(), "tiny")


@pytest.fixture
def run_config(tmp_path):
    """A function that makes a run of contexts of 16 over two small sources; dotted keys override."""
    for name, n in (("forget", 30), ("keep", 70)):
        text = "\n\n".join(f"{name} {i} " + "lorem ipsum "[: 1 + i % 11] * (i % 4) for i in range(n))
        (tmp_path / f"{name}.txt").write_text(text)

    def make(**changes) -> RunConfig:
        data = {
            "subject": {"sites": SITES},
            "corpus": {
                "sources": [
                    {"path": str(tmp_path / "forget.txt"), "name": "forget"},
                    {"path": str(tmp_path / "keep.txt"), "name": "keep", "weight": 2.0},
                ],
                "holdout_every": 5,
            },
            "activations": {"context": 16, "shuffle_buffer": 20, "harvest_sequences": 4, "normalise_tokens": 200},
            "training": {"tokens": 16 * 6 * 8, "batch_tokens": 16 * 6},
            "saes": {"topk": {}},
        }
        for key, value in changes.items():
            section, _, field = key.partition("__")
            data[section] = data[section] | {field: value} if field else value
        return RunConfig.model_validate(data)

    return make


@pytest.fixture(scope="session")
def documents_in(tiny):
    """A function: token contexts in packing order -> the documents in them, whole or cut short at the end."""

    def read(batch) -> list[str]:
        documents: dict[int, list[int]] = {}
        for row, mask, doc_ids in zip(batch.tokens, batch.mask, batch.doc_ids, strict=True):
            for token, doc_id in zip(row[mask].tolist(), doc_ids[mask].tolist(), strict=True):
                documents.setdefault(doc_id, []).append(token)
        return [tiny.tokenizer.decode(ids) for ids in documents.values()]

    return read
