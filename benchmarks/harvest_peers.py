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
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

HERE = Path(__file__).parent
PEERS = HERE.parent / ".peers" / "bin" / "python"
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


class Worker:
    """A library's process."""

    def __init__(self, name: str, python: Path | str, size: dict[str, Any], threads: int) -> None:
        environment = dict(
            os.environ,
            HF_HUB_OFFLINE="1",
            WANDB_MODE="disabled",
            TOKENIZERS_PARALLELISM="false",
            OMP_NUM_THREADS=str(threads),
        )
        command = [str(python), str(HERE / "harvest_peers_worker.py"), name, json.dumps(size)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.name = name

    def rate(self, cpu: bool) -> float:
        """Tokens a second of one turn, as the process itself measures them: by the clock, or of CPU."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            print(file=stdin, flush=True)
            tokens, *seconds = stdout.readline().split()
            return int(tokens) / float(seconds[cpu])
        except (IndexError, ValueError, BrokenPipeError):
            raise SystemExit(f"{self.name} failed:\n{_last_lines(self.process.stderr)}") from None

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate()


def measure(size: dict[str, Any], pythons: dict[str, Path | str], options: argparse.Namespace) -> dict[str, Any]:
    """Turns of all libraries, and the ratios of ours to each."""
    workers = [Worker(name, python, size, options.threads) for name, python in pythons.items()]
    try:
        for worker in workers:  # the first turn fills shuffle windows and buffers
            worker.rate(options.cpu)
        rounds = [{worker.name: worker.rate(options.cpu) for worker in workers} for _ in range(options.repeats)]
    finally:
        for worker in workers:
            worker.close()
    result: dict[str, Any] = {"tokens_per_s": {name: round(_median(rounds, name)) for name in pythons}}
    for ours in BARS:
        ratios = {peer: sorted(r[ours] / r[peer] for r in rounds) for peer in pythons if peer not in BARS}
        result[ours] = {
            "ratio": {peer: round(statistics.median(found), 3) for peer, found in ratios.items()},
            "spread": {peer: [round(found[0], 3), round(found[-1], 3)] for peer, found in ratios.items()},
        }
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
    if not PEERS.is_file():
        raise SystemExit("the other libraries are not installed; run: make peers")
    pythons: dict[str, Path | str] = {name: sys.executable if name in BARS else PEERS for name in PARTIES}
    buffer = options.nnsight or PEERS
    versions = _versions(PEERS, "sae-lens", "transformer-lens", "transformers", "torch")
    if nnsight := _versions(buffer, "nnsight").get("nnsight"):
        pythons["dictionary_learning"] = buffer
        versions |= {"nnsight": nnsight} | _versions(buffer, "dictionary-learning")
    with tempfile.TemporaryDirectory() as folder:
        size = SIZE | {"corpus": str(write_corpus(Path(folder) / "corpus.txt")), "model": str(Path(folder) / "lm")}
        write_model(Path(size["model"]), Path(size["corpus"]), SIZE)
        result = measure(size, pythons, options)
    result["ratio"] = result["chronosae"]["ratio"]
    result |= {"bar_over_saelens": BARS, "size": SIZE, "repeats": options.repeats, "threads": options.threads}
    result["ok"] = all(result[ours]["ratio"]["saelens"] >= bar for ours, bar in BARS.items())
    result["peers"] = versions
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


def _versions(python: Path | str, *names: str) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json;"
        f"there = {{d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}};"
        f"print(json.dumps({{n: there[n] for n in {names!r} if n in there}}))"
    )
    return json.loads(subprocess.check_output([str(python), "-c", code], text=True))


def _last_lines(stream: IO[str] | None) -> str:
    return "" if stream is None else "\n".join(stream.read().splitlines()[-8:])


if __name__ == "__main__":
    main()
