"""Time that a stream needs for one more token of every sequence, over the dense encoder product of these tokens.

python benchmarks/streaming_latency.py [--json] [--repeats 15] [--threads 2] [--cpu]

`sae.stream()` takes a token at a time, as while a language model generates. The product is float32 `x @ W_enc` with the
same weights: reading them all is what a token can't do without. Presets and products take turns in one process; each
ratio is the median over rounds of (stream / product), both over the same number of tokens.
"""

import json
from typing import Any

import torch
from torch import Tensor
from turns import Task, about, middle, parser, spread, take_turns

from chronosae.autoencoders import Autoencoder, build

SIZE = {"d_in": 768, "d_sae": 12_288, "k": 32}
BATCHES = 1, 8
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("topk", {}),
    "positional": ("positional", {}),
    "multiscale (input)": ("multiscale", {"placement": "input"}),
    "chrono": ("chrono", {}),
}
PROMPT = 64
# In one turn; prompt and tokens fit in the positions that a positional autoencoder knows.
TOKENS = 8


def main() -> None:
    """Command line."""
    args = parser(__doc__, repeats=15).parse_args()
    torch.set_num_threads(args.threads)
    saes = {name: build(preset, **SIZE, **options) for name, (preset, options) in PRESETS.items()}
    cases = {f"batch of {batch}": _case(saes, batch, args.repeats, args.cpu) for batch in BATCHES}
    result = {
        "ratio": {case: found["ratio"] for case, found in cases.items()},
        "cases": cases,
        **SIZE,
        "prompt": PROMPT,
        "tokens_a_turn": TOKENS,
        **about(args),
    }
    for case, found in cases.items():
        print(f"{case}: product {found['milliseconds']['product']:.2f} ms")
        for name in PRESETS:
            low, high = found["spread"][name]
            took = f"{found['ratio'][name]:5.2f} products ({low:.2f} to {high:.2f})"
            print(f"  {name:20s} {took}   {found['milliseconds'][name]:6.2f} ms a token")
    if args.json:
        print(json.dumps(result))


def _case(saes: dict[str, Autoencoder], batch: int, repeats: int, cpu: bool) -> dict[str, Any]:
    """All presets, with `batch` sequences side by side."""
    acts = torch.randn(batch, PROMPT + TOKENS, SIZE["d_in"], generator=torch.Generator().manual_seed(0))
    work: dict[str, Task] = {}
    for name, sae in saes.items():
        work[f"product {name}"] = _products(sae, acts)
        work[name] = _tokens(sae, acts)
    rounds = take_turns(work, repeats, warmup=2, cpu=cpu)
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
    W, out = sae.W_enc.detach(), torch.empty(len(acts), SIZE["d_sae"])

    def turn() -> None:
        for t in range(PROMPT, PROMPT + TOKENS):
            torch.mm(acts[:, t], W, out=out)

    return turn


if __name__ == "__main__":
    main()
