"""One library's stream of activations, as its own training gets it; run by `harvest_peers.py` in its environment.

    PYTHON harvest_peers_worker.py LIBRARY '{"model": ..., "corpus": ..., "layer": ..., "context": ..., ...}'

Reads on for every line on its standard input, and answers with the tokens read and the seconds it took: by the clock,
and of CPU.
"""

import contextlib
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

Batches = Callable[[], int]
"""Reads the next batch; returns its tokens."""


def chronosae(size: dict[str, Any], dtype: str = "float32") -> Batches:
    """Ours: the live stream of `chronosae run`."""
    from chronosae.activations import open_stream
    from chronosae.config import RunConfig
    from chronosae.subject import Subject

    site = f"blocks.{size['layer']}.hook_resid_post"
    cfg = RunConfig.model_validate(
        {
            "subject": {"model": size["model"], "sites": [site], "device": "cpu", "dtype": dtype},
            "corpus": {"path": size["corpus"]},
            "activations": {"context": size["context"], "harvest_sequences": size["harvest_sequences"]},
            "training": {"batch_tokens": size["batch_tokens"], "tokens": size["batch_tokens"]},
            "saes": {"topk": {}},
        }
    )
    stream = open_stream(cfg, Subject.load(cfg.subject))
    return lambda: stream.next()[site].acts.shape[:2].numel()


def chronosae_bfloat16(size: dict[str, Any]) -> Batches:
    """Ours with `subject.dtype: bfloat16`."""
    return chronosae(size, "bfloat16")


def saelens(size: dict[str, Any]) -> Batches:
    """SAELens' store over TransformerLens, its default. It too ends the forward pass at the layer that is read."""
    return saelens_store(size, hooked_transformer(size["model"]), f"blocks.{size['layer']}.hook_resid_post")


def saelens_bfloat16(size: dict[str, Any]) -> Batches:
    """The same with SAELens' switch for it, `autocast_lm`."""
    hook = f"blocks.{size['layer']}.hook_resid_post"
    return saelens_store(size, hooked_transformer(size["model"]), hook, autocast_lm=True)


def saelens_hf(size: dict[str, Any]) -> Batches:
    """SAELens' store over the Hugging Face model itself."""
    from sae_lens.load_model import load_model  # pyright: ignore[reportMissingImports]

    hook = f"transformer.h.{size['layer']}"
    return saelens_store(size, load_model("AutoModelForCausalLM", size["model"], "cpu", hook_names=[hook]), hook)


def saelens_store(size: dict[str, Any], model: Any, hook: str, autocast_lm: bool = False) -> Batches:
    """Its activation store with the mixing buffer of its tutorial."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from sae_lens import LanguageModelSAERunnerConfig, TopKTrainingSAEConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.activations_store import ActivationsStore  # pyright: ignore[reportMissingImports]

    cfg = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=size["d_in"], d_sae=1024, k=32),
        hook_name=hook,
        dataset_path="local",
        is_dataset_tokenized=False,
        context_size=size["context"],
        store_batch_size_prompts=size["harvest_sequences"],
        train_batch_size_tokens=size["batch_tokens"],
        n_batches_in_buffer=64,
        training_tokens=10**9,
        autocast_lm=autocast_lm,
        device="cpu",
        verbose=False,
    )
    dataset = Dataset.from_dict({"text": documents(size["corpus"])})
    store = ActivationsStore.from_config(model, cfg, override_dataset=dataset)
    return lambda: len(next(store))


def hooked_transformer(folder: str) -> Any:
    """What TransformerLens' `from_pretrained_no_processing` builds; that knows names of the hub only."""
    from transformer_lens import HookedTransformer, loading_from_pretrained  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = loading_from_pretrained.get_pretrained_model_config(folder, device="cpu", dtype=torch.float32)
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    hooked = HookedTransformer(config, AutoTokenizer.from_pretrained(folder))
    hooked.load_and_process_state_dict(
        loading_from_pretrained.get_pretrained_state_dict(folder, config, weights, dtype=torch.float32),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
        refactor_factored_attn_matrices=False,
    )
    return hooked


def dictionary_learning(size: dict[str, Any]) -> Batches:
    """dictionary_learning's buffer: one document a context, cut or padded, and only real tokens counted."""
    from dictionary_learning import ActivationBuffer  # pyright: ignore[reportMissingImports]
    from nnsight import LanguageModel  # pyright: ignore[reportMissingImports]

    model = LanguageModel(size["model"], device_map="cpu", dispatch=True)
    model.tokenizer.pad_token = model.tokenizer.eos_token
    buffer = ActivationBuffer(
        itertools.cycle(documents(size["corpus"])),
        model,
        model.transformer.h[size["layer"]],
        d_submodule=size["d_in"],
        n_ctxs=64,
        ctx_len=size["context"],
        refresh_batch_size=size["harvest_sequences"],
        out_batch_size=size["batch_tokens"],
    )
    return lambda: len(next(buffer))


def documents(corpus: str) -> list[str]:
    """The text as our reader cuts it."""
    return [text for text in Path(corpus).read_text(encoding="utf-8").split("\n\n") if text.strip()]


LIBRARIES = {
    f.__name__: f for f in (chronosae, chronosae_bfloat16, saelens, saelens_bfloat16, saelens_hf, dictionary_learning)
}


def measured(read: Batches, batches: int) -> Iterator[tuple[int, float, float]]:
    """Tokens and seconds of so many batches, again and again."""
    while True:
        start, start_cpu = time.perf_counter(), time.process_time()
        tokens = sum(read() for _ in range(batches))
        yield tokens, time.perf_counter() - start, time.process_time() - start_cpu


def main() -> None:
    """Serve until the input ends."""
    name, size = sys.argv[1], json.loads(sys.argv[2])
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    turns = measured(LIBRARIES[name](size), size["batches"])
    for _ in sys.stdin:
        print(*next(turns), file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
