"""What a training step takes, and a token of a stream: of the trainer, of sequence-aware presets, as sizes grow.

    python benchmarks/steps.py trainer_overhead | temporal_tax | temporal_extra | scaling | streaming_latency [--json]

In each, all that is compared takes turns in one process, and figures are medians over rounds. The exit code is 1 where
a promise is broken.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from turns import (
    Task,
    about,
    bare_parser,
    command_line,
    encoder_product,
    machine,
    middle,
    parser,
    spread,
    take_turns,
    tell,
    training_step,
)

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.config import TrainingConfig
from chronosae.objectives import reconstruction_error
from chronosae.presets import build
from chronosae.training import Trainee, Trainer

BASE = {"d_in": 768, "d_sae": 12_288, "k": 32, "tokens": 2_048, "context": 128}
Presets = dict[str, tuple[str, dict[str, Any]]]


# The trainer's own cost. The promise: at most a tenth on top of the bare step.
OVERHEAD_LIMIT = 1.10
SITE = "blocks.0.hook_resid_post"


def trainer_overhead(words: list[str]) -> int:
    """What the trainer costs beyond the autoencoder's own step.

    The bare step is the least that trains the same autoencoder to the same loss: forward, loss, backward, gradient
    projection, clipping, fused AdamW, decoder norm. The trainer adds dead-feature accounting, NaN checks, schedules,
    running means and logging. Both work on the same batches; the figure is the median of paired ratios.
    """
    options = bare_parser(trainer_overhead, repeats=9)
    options.add_argument("--d-in", type=int, default=256)
    options.add_argument("--d-sae", type=int, default=4096)
    options.add_argument("--k", type=int, default=32)
    options.add_argument("--tokens", type=int, default=2048, help="tokens a step")
    options.add_argument("--steps", type=int, default=5, help="steps a measurement")
    args = options.parse_args(words)
    batch = _random_batch(args.tokens, args.d_in)
    bare, trainer = (
        make(build("topk", d_in=args.d_in, d_sae=args.d_sae, k=args.k), batch, args.steps)
        for make in (_bare_steps, _trainer_steps)
    )
    rounds = take_turns({"bare": bare, "trainer": trainer}, args.repeats, warmup=1, cpu=False)
    ratios = [r["trainer"] / r["bare"] for r in rounds]
    result = {
        "ratio": middle(ratios, 4),
        "ok": statistics.median(ratios) <= OVERHEAD_LIMIT,
        "spread": spread(ratios, 4),
        "bare_s_per_step": middle((r["bare"] / args.steps for r in rounds), 5),
        "trainer_s_per_step": middle((r["trainer"] / args.steps for r in rounds), 5),
        "size": {key: getattr(args, key) for key in ("d_in", "d_sae", "k", "tokens")},
        "threads": torch.get_num_threads(),
    }
    print(f"trainer / bare step: {result['ratio']} {result['spread']}")
    return tell(result, args)


class _SameBatch:
    """A stream that costs nothing."""

    def __init__(self, batch: SequenceBatch) -> None:
        self.batch = batch

    def next(self) -> dict[str, SequenceBatch]:
        return {SITE: self.batch}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def _random_batch(tokens: int, d_in: int, context: int = 128) -> SequenceBatch:
    """Gaussian activations; the cost of a step doesn't depend on their values."""
    shape = (tokens // context, context)
    mask = torch.ones(shape, dtype=torch.bool)
    mask[:, 0] = False
    zeros = torch.zeros(shape, dtype=torch.int64)
    acts = torch.randn(*shape, d_in, generator=torch.Generator().manual_seed(0))
    return SequenceBatch(acts, mask, zeros, mask.cumsum(1) - 1, zeros, ("random",) * shape[0])


def _bare_steps(sae: Autoencoder, batch: SequenceBatch, n: int) -> Callable[[], None]:
    """n minimal steps of a TopK autoencoder without AuxK (no feature is dead here)."""
    optimizer = torch.optim.AdamW(sae.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def work() -> None:
        for _ in range(n):
            loss = reconstruction_error(sae.training_pass(batch.acts, batch.mask))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            sae.project_decoder_gradient()
            clip_grad_norm_(sae.parameters(), 1.0)
            optimizer.step()
            sae.constrain_decoder()

    return work


def _trainer_steps(sae: Autoencoder, batch: SequenceBatch, n: int) -> Callable[[], None]:
    """n steps of the trainer, logging included."""
    cfg = TrainingConfig(lr=1e-4, dead_after_tokens=10**9)
    trainee = Trainee("topk", sae, SITE, cfg, steps=10**6, lr=1e-4, seed=0)
    trainer = Trainer([trainee], _SameBatch(batch), steps=0, log_every=20)

    def work() -> None:
        trainer.steps += n
        trainer.train()

    return work


# Sequence-aware presets over the dense TopK step. The promise, for each preset.
TAX_LIMIT = 1.6
DENSE = "topk"
TAXED: Presets = {
    DENSE: ("topk", {}),
    "topk (sparse step)": ("topk", {}),
    "multiscale": ("multiscale", {}),
    "multiscale (input)": ("multiscale", {"placement": "input"}),
    "consistency": ("consistency", {}),
    "causal": ("causal", {}),
    "positional": ("positional", {}),
    "chrono": ("chrono", {}),
}


def temporal_tax(words: list[str]) -> int:
    """What the sequence-aware presets cost: a training step, as a multiple of the dense TopK step of the same size.

    Each ratio is the median over rounds of (preset / dense TopK of that round). The dense step is TopK in plain torch,
    without compiled kernels; all others have them, `topk (sparse step)` too.
    """
    options = bare_parser(temporal_tax, repeats=9)
    options.add_argument("--d-in", type=int, default=768)
    options.add_argument("--d-sae", type=int, default=8192)
    options.add_argument("--k", type=int, default=32)
    args = options.parse_args(words)
    size = BASE | {"d_in": args.d_in, "d_sae": args.d_sae, "k": args.k}
    work = {name: training_step(*preset, size, dense=name == DENSE) for name, preset in TAXED.items()}
    rounds = take_turns(work, args.repeats, warmup=1, cpu=False)
    ratios = {name: sorted(r[name] / r[DENSE] for r in rounds) for name in TAXED}
    ratio = {name: statistics.median(found) for name, found in ratios.items()}
    seconds = {name: statistics.median(r[name] for r in rounds) for name in TAXED}
    result = {
        "ratio": ratio,
        "spread": {name: [found[0], found[-1]] for name, found in ratios.items()},
        "seconds": seconds,
        **{name: size[name] for name in ("d_in", "d_sae", "k", "tokens")},
        "repeats": args.repeats,
        "torch": torch.__version__,
        "machine": machine(),
        "ok": all(value <= TAX_LIMIT for value in ratio.values()),
    }
    for name, (low, high) in result["spread"].items():
        print(f"{name:20s} {ratio[name]:5.2f} x dense topk ({low:.2f} to {high:.2f})   {seconds[name] * 1e3:7.0f} ms")
    return tell(result, args)


# Sequence-aware presets beyond our own TopK step. The promise: at most so many products on top of it.
BARS = {
    "positional": 0.2,
    "consistency": 0.6,
    "causal": 0.6,
    "multiscale (input)": 1.6,
    "multiscale (input, rank 64)": 0.8,
    "chrono": 0.8,
}
PRODUCT, OWN = "encoder product", "topk"
COMPARED: Presets = {
    OWN: ("topk", {}),
    "positional": ("positional", {}),
    "consistency": ("consistency", {}),
    "causal": ("causal", {}),
    "multiscale (input)": ("multiscale", {"placement": "input"}),
    "multiscale (input, rank 64)": ("multiscale", {"placement": "input", "rank": 64}),
    "chrono": ("chrono", {}),
}


def temporal_extra(words: list[str]) -> int:
    """What a sequence-aware preset's training step takes beyond our own TopK step, counted in encoder products.

    The product is bfloat16 `[tokens, d_in] x [d_in, d_sae]` into memory that is there. Each figure is the median over
    rounds of (preset - TopK) / product of that round. `temporal_tax` has the same steps over the dense TopK step.
    """
    args = parser(temporal_extra, repeats=9).parse_args(words)
    torch.set_num_threads(args.threads)
    work = {PRODUCT: encoder_product(BASE["tokens"], BASE["d_in"], BASE["d_sae"])} | {
        name: training_step(*preset, BASE) for name, preset in COMPARED.items()
    }
    rounds = take_turns(work, args.repeats, warmup=2, cpu=args.cpu)
    extra = {name: [(r[name] - r[OWN]) / r[PRODUCT] for r in rounds] for name in BARS}
    ratio = {name: middle(found) for name, found in extra.items()}
    missed = [name for name, bar in BARS.items() if ratio[name] > bar]
    result = {
        "ratio": ratio,
        "spread": {name: spread(found) for name, found in extra.items()},
        "bar": BARS,
        "missed": missed,
        "topk_over_product": middle(r[OWN] / r[PRODUCT] for r in rounds),
        "seconds": {name: middle((r[name] for r in rounds), 4) for name in work},
        **BASE,
        **about(args),
        "ok": not missed,
    }
    print(f"{PRODUCT:28s} {result['seconds'][PRODUCT] * 1e3:7.0f} ms   TopK {result['topk_over_product']:.2f} products")
    for name, bar in BARS.items():
        low, high = result["spread"][name]
        verdict = "   MISSED" if name in missed else ""
        print(f"{name:28s} {ratio[name]:+6.2f} products ({low:+.2f} to {high:+.2f}), at most {bar}{verdict}")
    return tell(result, args)


AXES: dict[str, tuple[int, ...]] = {
    "d_sae": (4_096, 8_192, 16_384, 32_768, 65_536, 131_072),
    "k": (8, 16, 32, 64, 128, 256),
    "tokens": (512, 1_024, 2_048, 4_096, 8_192),
    "context": (32, 64, 128, 256, 512, 1_024),
}
GROWN = {"context": "chrono"}
# The dense step is slow, and beyond this many features it takes gigabytes.
DENSE_UP_TO = 32_768


def scaling(words: list[str]) -> int:
    """How the time of a training step grows: with the dictionary, k, the batch and the context.

    At each size TopK's step (the context: chrono's) and the bfloat16 encoder product take turns, up to 32,768 features
    the same step in plain torch too. Each figure is the median over rounds of (step / product) of that round: 1 is the
    floor. `--plot` draws docs/figures/scaling.png.
    """
    options = parser(scaling, repeats=5)
    options.add_argument("--only", nargs="+", choices=list(AXES), default=list(AXES))
    options.add_argument("--plot", action="store_true", help="draw the figure of docs/roofline.md")
    args = options.parse_args(words)
    torch.set_num_threads(args.threads)
    start, curves = time.perf_counter(), {}
    for axis in args.only:
        preset = GROWN.get(axis, "topk")
        print(f"{preset}: {axis}, products a step (dense)", flush=True)
        curves[axis] = [_point(preset, axis, value, args) for value in AXES[axis]]
    result = {
        "ratio": {axis: {str(p[axis]): p["ratio"]["step"] for p in points} for axis, points in curves.items()},
        "curves": curves,
        "presets": {axis: GROWN.get(axis, "topk") for axis in curves},
        "base": BASE,
        "took_seconds": round(time.perf_counter() - start),
        **about(args),
    }
    if args.plot:
        from pages import FIGURES, scaling_figure

        scaling_figure(result, FIGURES / "scaling.png")
    return tell(result, args)


def _point(preset: str, axis: str, value: int, args: argparse.Namespace) -> dict[str, Any]:
    """All tasks at one size."""
    size = BASE | {axis: value}
    work: dict[str, Task] = {
        "product": encoder_product(size["tokens"], size["d_in"], size["d_sae"]),
        "step": training_step(preset, {}, size),
    }
    if size["d_sae"] <= DENSE_UP_TO:
        work["dense"] = training_step(preset, {}, size, dense=True)
    rounds = take_turns(work, args.repeats, warmup=1, cpu=args.cpu)
    ratios = {name: [r[name] / r["product"] for r in rounds] for name in work if name != "product"}
    point = {
        axis: value,
        "ratio": {name: middle(found) for name, found in ratios.items()},
        "spread": {name: spread(found) for name, found in ratios.items()},
        "seconds": {name: middle((r[name] for r in rounds), 4) for name in work},
    }
    dense = f" ({point['ratio']['dense']:.1f})" if "dense" in work else ""
    print(f"  {value:7,d}  {point['ratio']['step']:6.2f}{dense}   {point['seconds']['step']:.3f} s", flush=True)
    return point


WEIGHTS = {"d_in": 768, "d_sae": 12_288, "k": 32}
BATCHES = 1, 8
STREAMED: Presets = {
    "topk": ("topk", {}),
    "positional": ("positional", {}),
    "multiscale (input)": ("multiscale", {"placement": "input"}),
    "chrono": ("chrono", {}),
}
PROMPT = 64
# In one turn; prompt and tokens fit in the positions that a positional autoencoder knows.
TOKENS = 8


def streaming_latency(words: list[str]) -> int:
    """Time that a stream needs for one more token of every sequence, over the dense encoder product of these tokens.

    `sae.stream()` takes a token at a time, as while a language model generates. The product is float32 `x @ W_enc` with
    the same weights: reading them all is what a token can't do without. Each ratio is the median over rounds of
    (stream / product), both over the same number of tokens.
    """
    args = parser(streaming_latency, repeats=15).parse_args(words)
    torch.set_num_threads(args.threads)
    saes = {name: build(preset, **WEIGHTS, **options) for name, (preset, options) in STREAMED.items()}
    cases = {f"batch of {batch}": _streams(saes, batch, args) for batch in BATCHES}
    result = {
        "ratio": {case: found["ratio"] for case, found in cases.items()},
        "cases": cases,
        **WEIGHTS,
        "prompt": PROMPT,
        "tokens_a_turn": TOKENS,
        **about(args),
    }
    for case, found in cases.items():
        print(f"{case}: product {found['milliseconds']['product']:.2f} ms")
        for name in STREAMED:
            low, high = found["spread"][name]
            took = f"{found['ratio'][name]:5.2f} products ({low:.2f} to {high:.2f})"
            print(f"  {name:20s} {took}   {found['milliseconds'][name]:6.2f} ms a token")
    return tell(result, args)


def _streams(saes: dict[str, Autoencoder], batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """All presets, with `batch` sequences side by side."""
    acts = torch.randn(batch, PROMPT + TOKENS, WEIGHTS["d_in"], generator=torch.Generator().manual_seed(0))
    work: dict[str, Task] = {}
    for name, sae in saes.items():
        work[f"product {name}"] = _products(sae, acts)
        work[name] = _tokens(sae, acts)
    rounds = take_turns(work, args.repeats, warmup=2, cpu=args.cpu)
    ratios = {name: [r[name] / r[f"product {name}"] for r in rounds] for name in saes}
    product = [r[f"product {name}"] for r in rounds for name in saes]
    milliseconds = {name: middle((1e3 * r[name] / TOKENS for r in rounds), 4) for name in saes}
    return {
        "ratio": {name: middle(found) for name, found in ratios.items()},
        "spread": {name: spread(found) for name, found in ratios.items()},
        "milliseconds": {"product": middle((1e3 * p / TOKENS for p in product), 4)} | milliseconds,
    }


def _tokens(sae: Autoencoder, acts: Tensor) -> Task:
    """The next tokens after a prompt, the same in every turn."""
    stream = sae.stream(len(acts), rewind=TOKENS)
    stream.step(acts[:, :PROMPT])

    def turn() -> None:
        for t in range(PROMPT, PROMPT + TOKENS):
            stream.step(acts[:, t : t + 1])
        stream.crop(PROMPT)

    return turn


def _products(sae: Autoencoder, acts: Tensor) -> Task:
    W, out = sae.W_enc.detach(), torch.empty(len(acts), WEIGHTS["d_sae"])

    def turn() -> None:
        for t in range(PROMPT, PROMPT + TOKENS):
            torch.mm(acts[:, t], W, out=out)

    return turn


if __name__ == "__main__":
    sys.exit(command_line((trainer_overhead, temporal_tax, temporal_extra, scaling, streaming_latency)))
