"""Time of a TopK training step on a GPU: over the encoder product alone, and beside other libraries.

    python benchmarks/gpu_step.py [--json] [--repeats 25] [--d_in 2304 --d_sae 16384 --k 40 --tokens 8192]

bfloat16 autocast for all. Steps take turns in one process, each timed by the device's own clock; every ratio is the
median over rounds of two times of the same round. Libraries that aren't importable here are left out. `parts` are the
kernels of our step, each alone: where the time beyond the product goes.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# The promise: our step over the product at most, and theirs over ours at least.
BARS = {"product": 3.0, "sparsify": 1.5, "saelens": 3.0}
LR, BATCHES, WARMUP = 1e-4, 4, 5
Step = Callable[[Tensor], Any]


def product(size: argparse.Namespace) -> Step:
    """The encoder's product in bfloat16, as the tensor cores like it best."""
    W = torch.randn(size.d_sae, size.d_in, device="cuda", dtype=torch.bfloat16)
    return lambda x: x.bfloat16() @ W.T


def chronosae(size: argparse.Namespace) -> Step:
    """Ours: the trainer's whole step."""
    from chronosae.activations import SequenceBatch
    from chronosae.config import TrainingConfig
    from chronosae.presets import build
    from chronosae.training import Trainee

    sae = build("topk", d_in=size.d_in, d_sae=size.d_sae, k=size.k, aux_weight=0).to("cuda")
    trainee = Trainee("topk", sae, "site", TrainingConfig(autocast=True), steps=10**6, lr=LR, seed=0)
    shape = (size.tokens // 128, 128)
    mask = torch.ones(shape, dtype=torch.bool, device="cuda")
    zeros = torch.zeros(shape, dtype=torch.int64, device="cuda")
    positions, sources = mask.cumsum(1) - 1, ("noise",) * shape[0]

    def step(x: Tensor) -> None:
        trainee.step(SequenceBatch(x.view(*shape, -1), mask, zeros, positions, zeros, sources))
        assert trainee.stopped is None

    return step


def dense(size: argparse.Namespace) -> Step:
    """Our step in plain torch."""
    from chronosae.kernels import dense_only

    step = chronosae(size)

    def slow(x: Tensor) -> None:
        with dense_only():
            step(x)

    return slow


def sparsify(size: argparse.Namespace) -> Step:
    """sparsify's step, its Triton decoder included."""
    from sparsify.config import SparseCoderConfig  # pyright: ignore[reportMissingImports]
    from sparsify.sparse_coder import SparseCoder  # pyright: ignore[reportMissingImports]

    sae = SparseCoder(size.d_in, SparseCoderConfig(num_latents=size.d_sae, k=size.k), device="cuda")
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR, fused=True)

    def step(x: Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        sae(x, dead_mask=None).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def saelens(size: argparse.Namespace) -> Step:
    """SAELens' training pass with the defaults of its TopK, and Adam."""
    from sae_lens.saes.sae import TrainStepInput  # pyright: ignore[reportMissingImports]
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig  # pyright: ignore[reportMissingImports]

    cfg = TopKTrainingSAEConfig(d_in=size.d_in, d_sae=size.d_sae, k=size.k, device="cuda", aux_loss_coefficient=0.0)
    sae = TopKTrainingSAE(cfg).to("cuda")
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)

    def step(x: Tensor) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            out = sae.training_forward_pass(TrainStepInput(x, {}, None, 0, False))
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def parts(size: argparse.Namespace) -> dict[str, Step]:
    """The kernels of our step, on the sizes of a step."""
    from chronosae.kernels import Moments, Rates, encode_topk, gpu, triton_kernels
    from chronosae.kernels.gpu.slots import by_feature, combine, weighted_rows, weighted_rows_and_dots

    assert triton_kernels(torch.empty(0, device="cuda"))
    W = torch.randn(size.d_sae, size.d_in, device="cuda")
    x = torch.randn(size.tokens, size.d_in, device="cuda")
    bias, low, narrow = torch.zeros(size.d_sae, device="cuda"), x.bfloat16(), W.bfloat16()
    pre, active = low @ narrow.T, torch.ones(size.tokens, dtype=torch.bool, device="cuda")
    values, indices = gpu.select.largest_positive(pre, size.k, active, bias)
    slots, moments = by_feature(indices, values, size.d_sae), Moments(torch.zeros_like(W), torch.zeros_like(W))
    energy, rates = gpu.adam.gradient_energy(W, W, True), Rates(0.0, 0.9, 0.999, 1e-8, 0.0, 1)
    with torch.no_grad():
        return {
            "weights to bfloat16": lambda _: W.bfloat16(),
            "choice": lambda _: gpu.select.largest_positive(pre, size.k, active, bias),
            "exact choice from float32, product included": lambda _: encode_topk(x, W, bias, size.k),
            "decode": lambda _: combine(indices, values, narrow),
            "error": lambda _: gpu.elementwise.squared_error(x, x, active),
            "slots by feature": lambda _: by_feature(indices, values, size.d_sae),
            "decoder gradients": lambda _: weighted_rows_and_dots(slots, values, low, W),
            "encoder gradients": lambda _: weighted_rows(slots, values, low),
            "gradient norms": lambda _: gpu.adam.gradient_energy(W, W, True),
            "AdamW": lambda _: gpu.adam.adamw_(W, W, moments, energy[1], rates, on_sphere=True),
            "counts": lambda _: gpu.slots.count_active(indices, values, size.d_sae),
        }


def seconds(step: Step, x: Tensor) -> float:
    """By the device's clock."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    step(x)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def available(size: argparse.Namespace) -> dict[str, Step]:
    """Everything that takes turns; libraries only if they import."""
    steps = {"product": product(size), "chronosae": chronosae(size), "dense": dense(size)}
    for library in (sparsify, saelens):
        try:
            steps[library.__name__] = library(size)
        except ImportError as error:
            print(f"{library.__name__} left out: {error}", file=sys.stderr)
    return steps


def measure(steps: dict[str, Step], size: argparse.Namespace) -> list[dict[str, float]]:
    """Rounds in which all take turns, after a warm-up that also compiles."""
    batches = [torch.randn(size.tokens, size.d_in, device="cuda") for _ in range(BATCHES)]
    rounds = [{name: seconds(step, batches[i % BATCHES]) for name, step in steps.items()} for i in range(size.repeats)]
    return rounds[WARMUP:]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=25, help=f"rounds, the first {WARMUP} for warm-up")
    for name, value in {"d_in": 2304, "d_sae": 16_384, "k": 40, "tokens": 8192}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    size = parser.parse_args()
    if size.repeats <= WARMUP:
        parser.error(f"--repeats must be more than {WARMUP}, which warm up")
    os.environ.setdefault("CHRONOSAE_KERNELS", "triton")
    if not torch.cuda.is_available():
        print("gpu_step.py measures a training step on a GPU; torch sees no CUDA device here", file=sys.stderr)
        sys.exit(2)
    torch.manual_seed(0)
    rounds, inside = measure(available(size), size), measure(parts(size), size)
    ours = [r["chronosae"] for r in rounds]
    ratios = {"product": sorted(own / r["product"] for own, r in zip(ours, rounds, strict=True))}
    for peer in rounds[0].keys() - {"product", "chronosae"}:
        ratios[peer] = sorted(r[peer] / own for own, r in zip(ours, rounds, strict=True))
    ratio = {name: round(statistics.median(found), 3) for name, found in ratios.items()}
    result = {
        "ratio": ratio,
        "spread": {name: [round(found[0], 3), round(found[-1], 3)] for name, found in ratios.items()},
        "milliseconds": _medians(rounds),
        "parts": _medians(inside),
        "size": {name: getattr(size, name) for name in ("d_in", "d_sae", "k", "tokens")},
        "bar": BARS,
        "ok": all(ratio[n] <= bar if n == "product" else ratio[n] >= bar for n, bar in BARS.items() if n in ratio),
        "repeats": len(rounds),
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name(),
    }
    print(f"step {ratio['product']:.2f} x the encoder product")
    print("   ".join(f"{peer} {found:.2f} x ours" for peer, found in ratio.items() if peer != "product"))
    print("\n".join(f"{time:8.3f} ms  {part}" for part, time in result["parts"].items()))
    if size.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(1e3 * statistics.median(r[name] for r in rounds), 4) for name in rounds[0]}


if __name__ == "__main__":
    main()
