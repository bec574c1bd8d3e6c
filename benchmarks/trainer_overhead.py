"""What the trainer costs beyond the autoencoder's own step.

    python benchmarks/trainer_overhead.py [--json]

The bare step is the least that trains the same autoencoder to the same loss: forward, loss, backward, gradient
projection, clipping, fused AdamW, decoder norm. The trainer adds dead-feature accounting, NaN checks, schedules,
running means and logging. Both work on the same batches in one process, interleaved; the figure is the median of paired
ratios.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.nn.utils import clip_grad_norm_

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder, build
from chronosae.config import TrainingConfig
from chronosae.objectives import reconstruction_error
from chronosae.training import Trainee, Trainer

# The promise: at most a tenth on top of the bare step. The exit code is 1 when it is broken.
LIMIT = 1.10
SITE = "blocks.0.hook_resid_post"


class SameBatch:
    """A stream that costs nothing."""

    def __init__(self, batch: SequenceBatch) -> None:
        self.batch = batch

    def next(self) -> dict[str, SequenceBatch]:
        return {SITE: self.batch}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def random_batch(tokens: int, d_in: int, context: int = 128) -> SequenceBatch:
    """Gaussian activations; the cost of a step doesn't depend on their values."""
    shape = (tokens // context, context)
    mask = torch.ones(shape, dtype=torch.bool)
    mask[:, 0] = False
    zeros = torch.zeros(shape, dtype=torch.int64)
    acts = torch.randn(*shape, d_in, generator=torch.Generator().manual_seed(0))
    return SequenceBatch(acts, mask, zeros, mask.cumsum(1) - 1, zeros, ("random",) * shape[0])


def bare_steps(sae: Autoencoder, batch: SequenceBatch, n: int) -> Callable[[], None]:
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


def trainer_steps(sae: Autoencoder, batch: SequenceBatch, n: int) -> Callable[[], None]:
    """n steps of the trainer, logging included."""
    cfg = TrainingConfig(lr=1e-4, dead_after_tokens=10**9)
    trainee = Trainee("topk", sae, SITE, cfg, steps=10**6, lr=1e-4, seed=0)
    trainer = Trainer([trainee], SameBatch(batch), steps=0, log_every=20)

    def work() -> None:
        trainer.steps += n
        trainer.train()

    return work


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=256)
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens a step")
    parser.add_argument("--steps", type=int, default=5, help="steps a measurement")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()
    batch = random_batch(args.tokens, args.d_in)
    make = lambda: build("topk", d_in=args.d_in, d_sae=args.d_sae, k=args.k)  # noqa: E731
    bare, trainer = bare_steps(make(), batch, args.steps), trainer_steps(make(), batch, args.steps)
    bare()  # warm-up
    trainer()
    pairs = [(timed(bare), timed(trainer)) for _ in range(args.repeats)]
    ratios = [t / b for b, t in pairs]
    result = {
        "ratio": round(statistics.median(ratios), 4),
        "ok": statistics.median(ratios) <= LIMIT,
        "spread": [round(min(ratios), 4), round(max(ratios), 4)],
        "bare_s_per_step": round(statistics.median(b for b, _ in pairs) / args.steps, 5),
        "trainer_s_per_step": round(statistics.median(t for _, t in pairs) / args.steps, 5),
        "size": {key: getattr(args, key) for key in ("d_in", "d_sae", "k", "tokens")},
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result) if args.json else f"trainer / bare step: {result['ratio']} {result['spread']}")
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main()
