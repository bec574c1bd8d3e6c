"""Tokens/s of the activation stream: ours against the stores of the libraries people use.

    python benchmarks/harvest_peers.py [--json] [--repeats 9] [--threads 2] [--nnsight PYTHON]

Every library reads the same text through the same language model at the same site, as its own training gets it:
documents read, tokenised, packed, run and shuffled. Each has a process and environment of its own (`make peers`); they
take turns, and each ratio is the median over rounds of (our tokens/s / theirs of that round), so above 1 we are faster.
`saelens` is SAELens over TransformerLens, its default; `saelens_hf` the same over the Hugging Face model itself;
`saelens_bfloat16` the first with its `autocast_lm`. The bars are against `saelens`: at equal precision, and
with our subject in bfloat16. dictionary_learning's buffer needs nnsight before 0.4: it takes part where the peers have
that, or with the Python of an environment that does. On a machine that other work shares, `--threads 1 --cpu` compares
seconds of CPU, which waiting does not add to.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers import HERE, PEERS, Worker, environment, python_of, ratio_and_spread, require_peers, versions
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

SIZE: dict[str, Any] = {
    "layer": 2,
    "layers": 6,
    "d_in": 384,
    "vocabulary": 8192,
    "context": 128,
    "harvest_sequences": 32,
    "batch_tokens": 4096,
    "batches": 4,  # a turn; enough for each to tokenise or refill its buffer within it
}
# The promise: at least so many times SAELens' tokens/s.
BARS = {"chronosae": 1.3, "chronosae_bfloat16": 2.0}
PARTIES = "chronosae", "chronosae_bfloat16", "saelens", "saelens_hf", "saelens_bfloat16"


def rate(worker: Worker, cpu: bool) -> float:
    """Tokens a second of one turn, as the process itself measures them: by the clock, or of CPU."""
    tokens, *seconds = worker.ask()
    return tokens / seconds[cpu]


def measure(size: dict[str, Any], pythons: dict[str, Path | str], options: argparse.Namespace) -> dict[str, Any]:
    """Turns of all libraries, and the ratios of ours to each."""
    told, variables = json.dumps(size), environment(options.threads)
    workers = [
        Worker(n, [python, HERE / "harvest_peers_worker.py", n, told], variables) for n, python in pythons.items()
    ]
    try:
        for worker in workers:  # the first turn fills shuffle windows and buffers
            worker.ask()
        rounds = [{worker.name: rate(worker, options.cpu) for worker in workers} for _ in range(options.repeats)]
    finally:
        for worker in workers:
            worker.close()
    result: dict[str, Any] = {"tokens_per_s": {name: round(_median(rounds, name)) for name in pythons}}
    for ours in BARS:
        result[ours] = ratio_and_spread({p: [r[ours] / r[p] for r in rounds] for p in pythons if p not in BARS})
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=9, help="rounds, at least 7 for a figure to quote")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every library")
    parser.add_argument("--cpu", action="store_true", help="compare seconds of CPU instead of the clock's")
    parser.add_argument("--nnsight", metavar="PYTHON", help="a Python with dictionary-learning and nnsight before 0.4")
    options = parser.parse_args()
    require_peers()
    pythons: dict[str, Path | str] = {name: python_of(name in BARS) for name in PARTIES}
    buffer = options.nnsight or PEERS
    known = versions(PEERS, "sae-lens", "transformer-lens", "transformers", "torch")
    if nnsight := versions(buffer, "nnsight").get("nnsight"):
        pythons["dictionary_learning"] = buffer
        known |= {"nnsight": nnsight} | versions(buffer, "dictionary-learning")
    with tempfile.TemporaryDirectory() as folder:
        size = SIZE | {"corpus": str(write_corpus(Path(folder) / "corpus.txt")), "model": str(Path(folder) / "lm")}
        write_model(Path(size["model"]), Path(size["corpus"]), SIZE)
        result = measure(size, pythons, options)
    result["ratio"] = result["chronosae"]["ratio"]
    result |= {"bar_over_saelens": BARS, "size": SIZE, "repeats": options.repeats, "threads": options.threads}
    result["ok"] = all(result[ours]["ratio"]["saelens"] >= bar for ours, bar in BARS.items())
    result["peers"] = known
    result["left_out"] = {} if nnsight else {"dictionary_learning": "its buffer needs nnsight<0.4, which isn't there"}
    result["torch"] = torch.__version__
    result["measured"] = "seconds of CPU" if options.cpu else "seconds"
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    for ours in BARS:
        shown = "   ".join(f"{peer} {ratio:.2f} x" for peer, ratio in result[ours]["ratio"].items())
        print(f"{ours:18s} {result['tokens_per_s'][ours]:7,d} tokens/s   over {shown}")
    if options.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


def write_corpus(path: Path, documents: int = 20_000) -> Path:
    """Documents of made-up words with frequencies as in language (Zipf), about 10 MB; a blank line ends each."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfwyp", k=draw.randint(2, 9))) for _ in range(8000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(documents):
            file.write(" ".join(draw.choices(words, weights, k=draw.randint(20, 150))) + ".\n\n")
    return path


def write_model(folder: Path, corpus: Path, size: dict[str, Any]) -> None:
    """A GPT-2 with random weights and a byte-level BPE trained on the corpus, as a local Hugging Face folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size["vocabulary"],
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with corpus.open(encoding="utf-8") as file:
        tokenizer.train_from_iterator([file.read(1 << 20)], trainer)
    torch.manual_seed(0)
    # n_ctx: GPT-2's published configuration has it, and TransformerLens reads it.
    extra: dict[str, Any] = {"n_ctx": 512}
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=512,
        n_embd=size["d_in"],
        n_layer=size["layers"],
        n_head=size["d_in"] // 64,
        bos_token_id=0,
        eos_token_id=0,
        **extra,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, model_max_length=512)
    fast.save_pretrained(folder)


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(r[name] for r in rounds)


if __name__ == "__main__":
    main()
