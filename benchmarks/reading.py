"""How fast activations come to training: from the subject, from a cache, and beside the steps that use them.

    python benchmarks/reading.py harvest | cache_read | overlap [--json]

The exit code is 1 where a promise is broken.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import torch
from harvest_peers import SIZE as SUBJECT
from harvest_peers import write_corpus, write_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from turns import Round, Task, about, bare_parser, command_line, middle, parser, spread, take_turns, tell

from chronosae.activations import Ahead, CachedStream, SequenceBatch, ShardFolder, SiteBatches, cache_bytes, open_stream
from chronosae.activations.ahead import Bookmarked
from chronosae.activations.cache import TOKEN_ARRAYS, CacheDtype, layout
from chronosae.config import RunConfig, TrainingConfig
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.training import Trainee

TARGET = {"harvest": 0.9, "cache_read": 0.9}
"""The promises: shares of the subject's bare speed, and of the disk's own."""


def harvest(words: list[str]) -> int:
    """How much of the subject's bare speed the activation stream keeps.

    Both sides run the same truncated forward pass on contexts of the same shape. `bare` reads token tensors that are
    ready; `stream` is what training gets: documents read, tokenised, packed, shuffled, harvested, checked and masked.
    The two take turns, so that a change of the machine's speed hits both; medians are compared. `ratio` should be
    >= 0.9: where it is less, the exit code is 1 and `ok` in the JSON false.
    """
    options = bare_parser(harvest, repeats=None)
    options.add_argument("--model", help="a local folder or Hugging Face name; absent: a random Llama of world size")
    options.add_argument("--corpus", help="a .txt, .jsonl, .parquet file or folder; absent: made-up words")
    options.add_argument("--site", default="blocks.2.hook_resid_post")
    options.add_argument("--context", type=int, default=128)
    options.add_argument("--harvest-sequences", type=int, default=32)
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options.add_argument("--repeats", type=int, default=9, help="pairs of measurements, at least 7")
    # Documents are tokenised some 16,000 tokens at a time: a measurement must be long enough to pay for its own.
    options.add_argument("--chunks", type=int, default=8, help="forward passes a measurement")
    args = options.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        result = _harvested(args, Path(folder))
    print(f"bare {result['bare_tokens_per_s']:,.0f} tokens/s, stream {result['stream_tokens_per_s']:,.0f} tokens/s")
    print(f"ratio {result['ratio']:.3f} (target {TARGET['harvest']})")
    return tell(result, args)


def _harvested(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
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
    subject = Subject.load(cfg.subject) if options.model else _random_subject(Path(corpus), options.device)
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
            elapsed = _timed(run, subject.device)
            if repeat:  # the first round warms up
                seconds[name].append(elapsed)
    tokens = options.chunks * batch_tokens
    rates = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    ratio = rates["stream"] / rates["bare"]
    return {
        "ratio": ratio,
        "target": TARGET["harvest"],
        "ok": ratio >= TARGET["harvest"],
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


def _timed(run: Callable[[], None], device: torch.device) -> float:
    """Wall seconds, waiting for the device on both ends."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def _random_subject(corpus: Path, device: str) -> Subject:
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


SIZE = {"d_in": 768, "context": 128, "batch_sequences": 16}
CACHED = "blocks.6.hook_resid_post"
DTYPES: tuple[CacheDtype, ...] = ("bfloat16", "float32", "int8")


def cache_read(words: list[str]) -> int:
    """MB/s of training batches from the activation cache, over the disk's own for the same files.

    `disk` reads every file of the cache from end to end, 4 MB at a time, and drops what it read. `in order` makes
    float32 batches of 2,048 tokens of all sequences as they lie on the disk; `shuffled` in the order that training asks
    for. MB are those that lie on the disk. Before each cold measurement the system is asked to forget the files; warm
    ones follow directly. All take turns. What a disk can do is told by its fastest round, so each ratio is that of the
    fastest rounds; medians and the spread of paired rounds stand beside it. In order and cold it should be at least 0.9
    in bfloat16, the default of `activations.cache_dtype`: where it is less, the exit code is 1.
    """
    options = parser(cache_read, repeats=9)
    options.add_argument("--megabytes", type=int, default=400, help="of each cache, about")
    options.add_argument("--folder", type=Path, help="on the disk to be measured; absent: where temporary files go")
    args = options.parse_args(words)
    if not hasattr(os, "posix_fadvise"):
        raise SystemExit("this system can't be asked to forget a file; run it on Linux")
    cases: dict[str, Any] = {}
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            cases[dtype] = _cached(Path(folder), dtype, args.megabytes * 1_000_000, args)
    ratio, target = cases["bfloat16"]["ratio"]["cold in order"], TARGET["cache_read"]
    result = {
        "ratio": ratio,
        "target": target,
        "ok": ratio >= target,
        "cases": cases,
        **SIZE,
        "least_megabytes": args.megabytes,
        **about(args),
    }
    for dtype, found in cases.items():
        rates = found["megabytes_per_s"]
        print(f"{dtype}: disk {rates['cold disk']:,.0f} MB/s, in memory {rates['warm disk']:,.0f} MB/s")
        for name, of in found["ratio"].items():
            low, high = found["spread"][name]
            paired = f"paired rounds {found['median'][name]:.2f}, {low:.2f} to {high:.2f}"
            print(f"  {name:14s} {rates[name]:6,.0f} MB/s   {of:.2f} of it ({paired})")
    print(f"ratio {ratio:.3f} (target {target})")
    return tell(result, args)


def _cached(folder: Path, dtype: CacheDtype, least_bytes: int, args: Any) -> dict[str, Any]:
    shards = _write_cache(folder, dtype, least_bytes)
    files = sorted(folder.glob("*/*.npy"))
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    stream = CachedStream(shards, [CACHED], dtype, batch_sequences=SIZE["batch_sequences"])
    batches = range(0, len(stream), SIZE["batch_sequences"])

    def in_order() -> None:
        for start in batches:
            stream.read(range(start, min(start + SIZE["batch_sequences"], len(stream))))

    def shuffled() -> None:
        for _ in batches:
            stream.next()

    work: dict[str, Task] = {}
    for name, task in (("disk", lambda: _read_through(files)), ("in order", in_order), ("shuffled", shuffled)):
        work |= {f"forget before {name}": lambda: _forget(files), f"cold {name}": task, f"warm {name}": task}
    rounds = take_turns(work, args.repeats, warmup=1, cpu=args.cpu)
    found = [f"{state} {order}" for order in ("in order", "shuffled") for state in ("cold", "warm")]
    ratios = {name: [_disk(r, name) / r[name] for r in rounds] for name in found}
    least = {name: min(r[name] for r in rounds) for name in rounds[0]}
    return {
        "ratio": {name: round(_disk(least, name) / least[name], 3) for name in found},
        "median": {name: middle(values) for name, values in ratios.items()},
        "spread": {name: spread(values) for name, values in ratios.items()},
        "megabytes_per_s": {name: round(megabytes / least[name], 1) for name in ("cold disk", "warm disk", *found)},
        "megabytes": round(megabytes, 1),
    }


def _disk(seconds: Round, name: str) -> float:
    return seconds[f"{name.split()[0]} disk"]


def _write_cache(folder: Path, dtype: CacheDtype, least: int) -> ShardFolder:
    """A complete cache of noise, at least so many bytes, in shards of a quarter of it."""
    draw, context, d_in = np.random.default_rng(0), SIZE["context"], SIZE["d_in"]
    rows = max(SIZE["batch_sequences"], -(-least // cache_bytes(4, context, [d_in], dtype)))
    shards = ShardFolder(folder, {"noise": dtype})

    def fill(into: Path) -> int:
        for name, kind in TOKEN_ARRAYS.items():
            np.save(into / f"{name}.npy", np.ones((rows, context), kind))
        np.save(into / "source.npy", np.full(rows, "noise"))
        for name, (kind, tail) in layout(CACHED, d_in, dtype).items():
            whole = np.lib.format.open_memmap(into / f"{name}.npy", "w+", kind, (rows, context, *tail))
            # No NaN among them: the highest bit of the exponent stays away.
            whole.view(np.uint8)[:] = draw.integers(0, 64, whole.view(np.uint8).shape, np.uint8)
        return rows

    for number in range(4):
        shards.write(number, fill, {})
    shards.finish()
    return shards


def _read_through(files: list[Path]) -> None:
    """All bytes of the files, 4 MB at a time."""
    into = bytearray(1 << 22)
    for file in files:
        with file.open("rb", buffering=0) as raw:
            while raw.readinto(into):
                pass


def _forget(files: list[Path]) -> None:
    """Let the system drop what it holds of the files in memory."""
    for file in files:
        with file.open("rb") as raw:
            os.fsync(raw.fileno())
            os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


WIDTHS = 2_048, 12_288
K = 32
BATCH_TOKENS = 2048
STORES = {"streamed": "stream", "cached": "cache"}
SITE = f"blocks.{SUBJECT['layer']}.hook_resid_post"


def overlap(words: list[str]) -> int:
    """Steps per second of training with the next batches made ahead on a thread, over those without.

    A GPT-2 of six layers with random weights, read in the middle, and TopK autoencoders of two widths: a step that
    takes less time than the harvest of its batch, and one that takes more. `streamed` harvests as training goes;
    `cached` reads what a cache holds in bfloat16. `alone` is training on a batch that is there already. All take turns
    in one process; each ratio is the median over rounds of (without / ahead). Nothing is promised of a CPU, whose cores
    both sides share: this is what `activations.ahead: auto` was decided by.
    """
    options = parser(overlap, repeats=7)
    options.add_argument("--steps", type=int, default=8, help="a turn")
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    args = options.parse_args(words)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        corpus = write_corpus(place / "corpus.txt")
        write_model(place / "lm", corpus, SUBJECT)
        subject = Subject.load(_config(place, "stream", args.device).subject)
        cases = {f"d_sae {width:,d}": _overlapped(place, subject, width, args) for width in WIDTHS}
    result = {
        "ratio": {case: found["ratio"] for case, found in cases.items()},
        "cases": cases,
        "k": K,
        "batch_tokens": BATCH_TOKENS,
        "steps_a_turn": args.steps,
        "subject": {name: SUBJECT[name] for name in ("layer", "layers", "d_in", "context", "harvest_sequences")},
        **about(args),
        "device": str(subject.device),
    }
    for case, found in cases.items():
        print(f"{case}: {found['milliseconds']['alone']:.0f} ms a step on a batch that is there")
        for store, ratio in found["ratio"].items():
            low, high = found["spread"][store]
            without, ahead = (found["milliseconds"][f"{store} {how}"] for how in ("without", "ahead"))
            took = f"{without:.0f} ms without, {ahead:.0f} ahead"
            print(f"  {store:9s} {took}: {ratio:.2f} x as fast ({low:.2f} to {high:.2f})")
    return tell(result, args)


def _config(folder: Path, store: str, device: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "subject": {"model": str(folder / "lm"), "sites": [SITE], "device": device},
            "corpus": {"path": str(folder / "corpus.txt")},
            "activations": {"store": store, "cache_dir": str(folder / "cache")},
            "training": {"batch_tokens": BATCH_TOKENS, "tokens": BATCH_TOKENS * 64},
            "saes": {"topk": {}},
        }
    )


def _overlapped(folder: Path, subject: Subject, width: int, args: Any) -> dict[str, Any]:
    sae = build("topk", d_in=SUBJECT["d_in"], d_sae=width, k=K).to(subject.device)
    trainee = Trainee("topk", sae, SITE, TrainingConfig(), steps=10**6, lr=1e-4, seed=0)
    work: dict[str, Task] = {}
    with ExitStack() as stack:
        for name, store in STORES.items():
            cfg = _config(folder, store, args.device)
            plain = open_stream(cfg, subject)
            ready = plain.next()[SITE]
            work["alone"] = lambda b=ready: _train(trainee, lambda: b, args.steps)
            work[f"{name} without"] = lambda s=plain: _train(trainee, lambda: s.next()[SITE], args.steps)
            # As `chronosae run` has it: as many as a forward pass fills.
            depth = cfg.activations.harvest_sequences // cfg.batch_sequences if store == "stream" else 1
            watched = _Watched(open_stream(cfg, subject))
            ahead = stack.enter_context(Ahead(watched, depth, subject.device))
            ahead.next()
            watched.wait(1 + depth)
            work[f"{name} ahead"] = lambda a=ahead, w=watched: _ahead(trainee, a, w, args.steps)
        rounds = take_turns(work, args.repeats, warmup=1, cpu=args.cpu)
    ratios = {name: [r[f"{name} without"] / r[f"{name} ahead"] for r in rounds] for name in STORES}
    return {
        "ratio": {name: middle(found) for name, found in ratios.items()},
        "spread": {name: spread(found) for name, found in ratios.items()},
        "milliseconds": {name: middle((1e3 * r[name] / args.steps for r in rounds), 2) for name in work},
    }


class _Watched:
    """A stream that knows when its batches are made."""

    def __init__(self, stream: Bookmarked) -> None:
        self._stream, self._made = stream, Semaphore(0)

    def next(self) -> SiteBatches:
        """The stream's."""
        batches = self._stream.next()
        self._made.release()
        return batches

    def wait(self, n: int) -> None:
        """Until n more are made."""
        for _ in range(n):
            self._made.acquire()

    @property
    def epochs(self) -> float:
        """The stream's."""
        return self._stream.epochs

    def bookmark(self) -> Callable[[], dict[str, Any]]:
        """The stream's."""
        return self._stream.bookmark()

    def state_dict(self) -> dict[str, Any]:
        """The stream's."""
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The stream's."""
        self._stream.load_state_dict(state)


def _ahead(trainee: Trainee, ahead: Ahead, watched: _Watched, steps: int) -> None:
    """As many batches are ready at the end as were at the beginning, and nothing goes on in others' turns."""
    _train(trainee, lambda: ahead.next()[SITE], steps)
    watched.wait(steps)


def _train(trainee: Trainee, batches: Callable[[], SequenceBatch], steps: int) -> None:
    for _ in range(steps):
        trainee.step(batches())
    if trainee.sae.W_dec.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(command_line((harvest, cache_read, overlap)))
