"""Steps per second of training with the next batches made ahead on a thread, over those without.

    python benchmarks/overlap.py [--json] [--repeats 7] [--threads 2] [--steps 8] [--device cpu]

A GPT-2 of six layers with random weights, read in the middle, and TopK autoencoders of two widths: a step that takes
less time than the harvest of its batch, and one that takes more. `streamed` harvests as training goes; `cached` reads
what a cache holds in bfloat16. `alone` is training on a batch that is there already. All take turns in one process;
each ratio is the median over rounds of (without / ahead). Nothing is promised of a CPU, whose cores both sides share:
this is what `activations.ahead: auto` was decided by.
"""

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Semaphore
from typing import Any

import torch
from harvest import write_corpus
from harvest_peers import SIZE as SUBJECT
from harvest_peers import write_model
from turns import Task, about, middle, parser, spread, take_turns

from chronosae.activations import Ahead, SequenceBatch, SiteBatches, open_stream
from chronosae.activations.ahead import Bookmarked
from chronosae.autoencoders import build
from chronosae.config import RunConfig, TrainingConfig
from chronosae.subject import Subject
from chronosae.training import Trainee

WIDTHS = 2_048, 12_288
K = 32
BATCH_TOKENS = 2048
STORES = {"streamed": "stream", "cached": "cache"}
SITE = f"blocks.{SUBJECT['layer']}.hook_resid_post"


def main() -> None:
    """Command line."""
    options = parser(__doc__, repeats=7)
    options.add_argument("--steps", type=int, default=8, help="a turn")
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        corpus = write_corpus(place / "corpus.txt")
        write_model(place / "lm", corpus, SUBJECT)
        subject = Subject.load(_config(place, "stream", args.device).subject)
        cases = {f"d_sae {width:,d}": _case(place, subject, width, args) for width in WIDTHS}
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
    if args.json:
        print(json.dumps(result))


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


def _case(folder: Path, subject: Subject, width: int, args: Any) -> dict[str, Any]:
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
            watched = Watched(open_stream(cfg, subject))
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


class Watched:
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


def _ahead(trainee: Trainee, ahead: Ahead, watched: Watched, steps: int) -> None:
    """As many batches are ready at the end as were at the beginning, and nothing goes on in others' turns."""
    _train(trainee, lambda: ahead.next()[SITE], steps)
    watched.wait(steps)


def _train(trainee: Trainee, batches: Callable[[], SequenceBatch], steps: int) -> None:
    for _ in range(steps):
        trainee.step(batches())
    if trainee.sae.W_dec.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
