"""A whole training run by another library's runner; `whole_run.py` starts it in that library's environment.

    PYTHON whole_run_worker.py LIBRARY '{"model": ..., "corpus": ..., "out": ..., "layer": ..., "tokens": ..., ...}'

Loads the model, reads the text, trains a TopK autoencoder, saves it; the last line it prints is the seconds that the
library's training loop took.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch


def saelens(size: dict[str, Any]) -> Callable[[], Any]:
    """SAELens' runner over TransformerLens, its default, on the text as a streamed data set. It evaluates nothing."""
    from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    from harvest_peers_worker import hooked_transformer
    from sae_lens import (  # pyright: ignore[reportMissingImports]
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        TopKTrainingSAEConfig,
    )

    cfg = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=size["d_in"], d_sae=size["d_sae"], k=size["k"]),
        hook_name=f"blocks.{size['layer']}.hook_resid_post",
        dataset_path="local",
        is_dataset_tokenized=False,
        context_size=size["context"],
        store_batch_size_prompts=size["harvest_sequences"],
        train_batch_size_tokens=size["batch_tokens"],
        n_batches_in_buffer=64,
        training_tokens=size["tokens"],
        lr=size["lr"],
        device="cpu",
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=size["out"],
        verbose=False,
    )
    dataset = load_dataset("json", data_files=size["corpus"], split="train", streaming=True)
    model = hooked_transformer(size["model"])
    runner = LanguageModelSAETrainingRunner(cfg, override_dataset=dataset, override_model=model)
    return runner.run


def sparsify(size: dict[str, Any]) -> Callable[[], Any]:
    """sparsify's trainer as its README starts it (its command line wants a GPU), with Adam as the others."""
    from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    from sparsify import SparseCoderConfig, TrainConfig, Trainer  # pyright: ignore[reportMissingImports]
    from sparsify.data import chunk_and_tokenize  # pyright: ignore[reportMissingImports]
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(size["model"], dtype=torch.float32)
    text = load_dataset("json", data_files=size["corpus"], split="train", cache_dir=f"{size['out']}-cache")
    tokenizer = AutoTokenizer.from_pretrained(size["model"])
    contexts = chunk_and_tokenize(text, tokenizer, max_seq_len=size["context"], num_proc=1)
    cfg = TrainConfig(
        SparseCoderConfig(num_latents=size["d_sae"], k=size["k"]),
        batch_size=size["batch_tokens"] // size["context"],
        layers=[size["layer"]],
        optimizer="adam",
        lr=size["lr"],
        log_to_wandb=False,
        save_dir=size["out"],
    )
    trainer = Trainer(cfg, contexts.select(range(size["tokens"] // size["context"])), model)
    return trainer.fit


LIBRARIES = {f.__name__: f for f in (saelens, sparsify)}


def main() -> None:
    """Run once."""
    name, size = sys.argv[1], json.loads(sys.argv[2])
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    train = LIBRARIES[name](size)
    start = time.perf_counter()
    train()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
