"""How much of the subject's bare speed the activation stream keeps.

    python benchmarks/harvest.py --json
    python benchmarks/harvest.py --model PATH --corpus PATH --site blocks.2.hook_resid_post

Both sides run the same truncated forward pass on contexts of the same shape. `bare` reads token tensors that are
ready; `stream` is what training gets: documents read, tokenised, packed, shuffled, harvested, checked and masked. The
two take turns, so that a change of the machine's speed hits both; medians are compared. `ratio` should be >= 0.9: where
it is less, the exit code is 1 and `ok` in the JSON false.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chronosae.activations import open_stream
from chronosae.config import RunConfig
from chronosae.subject import Subject

TARGET = 0.9


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, print; the last line is JSON when asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(description="tokens/s of the activation stream against the bare forward pass")
    parser.add_argument("--model", help="a local folder or Hugging Face name; absent: a random Llama of world size")
    parser.add_argument("--corpus", help="a .txt, .jsonl, .parquet file or folder; absent: made-up words")
    parser.add_argument("--site", default="blocks.2.hook_resid_post")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--harvest-sequences", type=int, default=32)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--repeats", type=int, default=9, help="pairs of measurements, at least 7")
    # Documents are tokenised some 16,000 tokens at a time: a measurement must be long enough to pay for its own.
    parser.add_argument("--chunks", type=int, default=8, help="forward passes a measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    print(f"bare {result['bare_tokens_per_s']:,.0f} tokens/s, stream {result['stream_tokens_per_s']:,.0f} tokens/s")
    print(f"ratio {result['ratio']:.3f} (target {TARGET})")
    if options.json:
        print(json.dumps(result))
    return 0 if result["ok"] else 1


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Interleaved times of both sides, and their ratio."""
    corpus = options.corpus or str(write_corpus(folder / "corpus.txt"))
    batch_tokens = options.harvest_sequences * options.context
    cfg = RunConfig.model_validate(
        {
            "subject": {"model": options.model or "random", "sites": [options.site], "device": options.device},
            "corpus": {"path": corpus},
            "activations": {"context": options.context, "harvest_sequences": options.harvest_sequences},
            "training": {"batch_tokens": batch_tokens, "tokens": batch_tokens},
            "saes": {"topk": {}},
        }
    )
    subject = Subject.load(cfg.subject) if options.model else random_subject(Path(corpus), options.device)
    stream = open_stream(cfg, subject)
    ready = stream.next()[options.site].tokens

    def bare() -> None:
        for _ in range(options.chunks):
            subject.activations(ready, [options.site])

    def streamed() -> None:
        for _ in range(options.chunks):
            stream.next()

    seconds: dict[str, list[float]] = {"bare": [], "stream": []}
    for repeat in range(max(7, options.repeats) + 1):
        for name, run in (("bare", bare), ("stream", streamed)):
            elapsed = timed(run, subject.device)
            if repeat:  # the first round warms up
                seconds[name].append(elapsed)
    tokens = options.chunks * batch_tokens
    rates = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    ratio = rates["stream"] / rates["bare"]
    return {
        "ratio": ratio,
        "target": TARGET,
        "ok": ratio >= TARGET,
        "bare_tokens_per_s": rates["bare"],
        "stream_tokens_per_s": rates["stream"],
        "seconds": seconds,
        "tokens_a_measurement": tokens,
        "model": options.model or "random Llama: hidden 256, 4 layers, vocabulary 4096",
        "site": options.site,
        "device": str(subject.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Wall seconds, waiting for the device on both ends."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def write_corpus(path: Path, documents: int = 20_000) -> Path:
    """Documents of made-up words with frequencies as in language (Zipf), about 10 MB."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfwyp", k=draw.randint(2, 9))) for _ in range(8000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(documents):
            file.write(" ".join(draw.choices(words, weights, k=draw.randint(20, 150))) + ".\n\n")
    return path


def random_subject(corpus: Path, device: str) -> Subject:
    """A Llama of the world's size with random weights, and a byte-level BPE trained on the corpus."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    with corpus.open(encoding="utf-8") as file:
        tokenizer.train_from_iterator([file.read(1 << 20)], trainer)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    model: Any = LlamaForCausalLM(config)
    return Subject(model.to(device), fast, "random")


if __name__ == "__main__":
    sys.exit(main())
