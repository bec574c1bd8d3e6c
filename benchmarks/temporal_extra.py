"""What a sequence-aware preset's training step takes beyond our own TopK step, counted in encoder products.

python benchmarks/temporal_extra.py [--json] [--repeats 9] [--threads 2] [--cpu]

Steps of all presets and the product, bfloat16 `[tokens, d_in] x [d_in, d_sae]` into memory that is there, take turns in
one process. Each figure is the median over rounds of (preset - TopK) / product of that round. `temporal_tax.py` has the
same steps over the dense TopK step.
"""

import json
import sys
from typing import Any

import torch
from turns import about, encoder_product, middle, parser, spread, take_turns, training_step

SIZE = {"d_in": 768, "d_sae": 12_288, "k": 32, "tokens": 2_048, "context": 128}
PRODUCT, BASE = "encoder product", "topk"
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    BASE: ("topk", {}),
    "positional": ("positional", {}),
    "consistency": ("consistency", {}),
    "causal": ("causal", {}),
    "multiscale (input)": ("multiscale", {"placement": "input"}),
    "multiscale (input, rank 64)": ("multiscale", {"placement": "input", "rank": 64}),
    "chrono": ("chrono", {}),
}
# The promise: at most so many products on top of TopK.
BARS = {
    "positional": 0.2,
    "consistency": 0.6,
    "causal": 0.6,
    "multiscale (input)": 1.6,
    "multiscale (input, rank 64)": 0.8,
    "chrono": 0.8,
}


def main() -> None:
    """Command line."""
    args = parser(__doc__, repeats=9).parse_args()
    torch.set_num_threads(args.threads)
    work = {PRODUCT: encoder_product(SIZE["tokens"], SIZE["d_in"], SIZE["d_sae"])} | {
        name: training_step(preset, options, SIZE) for name, (preset, options) in PRESETS.items()
    }
    rounds = take_turns(work, args.repeats, warmup=2, cpu=args.cpu)
    extra = {name: [(r[name] - r[BASE]) / r[PRODUCT] for r in rounds] for name in BARS}
    ratio = {name: middle(found) for name, found in extra.items()}
    missed = [name for name, bar in BARS.items() if ratio[name] > bar]
    result = {
        "ratio": ratio,
        "spread": {name: spread(found) for name, found in extra.items()},
        "bar": BARS,
        "missed": missed,
        "topk_over_product": middle(r[BASE] / r[PRODUCT] for r in rounds),
        "seconds": {name: middle((r[name] for r in rounds), 4) for name in work},
        **SIZE,
        **about(args),
        "ok": not missed,
    }
    print(f"{PRODUCT:28s} {result['seconds'][PRODUCT] * 1e3:7.0f} ms   TopK {result['topk_over_product']:.2f} products")
    for name, bar in BARS.items():
        low, high = result["spread"][name]
        verdict = "   MISSED" if name in missed else ""
        print(f"{name:28s} {ratio[name]:+6.2f} products ({low:+.2f} to {high:+.2f}), at most {bar}{verdict}")
    if args.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main()
