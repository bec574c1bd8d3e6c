"""How the time of a training step grows: with the dictionary, k, the batch and the context.

python benchmarks/scaling.py [--json] [--only d_sae k tokens context] [--repeats 5] [--threads 2] [--cpu] [--plot]

At each size TopK's step (the context: chrono's) and the bfloat16 encoder product take turns, up to 32,768 features the
same step in plain torch too. Each figure is the median over rounds of (step / product) of that round: 1 is the floor.
`--plot` draws docs/figures/scaling.png.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from turns import Task, about, encoder_product, middle, parser, spread, take_turns, training_step

BASE = {"d_in": 768, "d_sae": 12_288, "k": 32, "tokens": 2_048, "context": 128}
AXES: dict[str, tuple[int, ...]] = {
    "d_sae": (4_096, 8_192, 16_384, 32_768, 65_536, 131_072),
    "k": (8, 16, 32, 64, 128, 256),
    "tokens": (512, 1_024, 2_048, 4_096, 8_192),
    "context": (32, 64, 128, 256, 512, 1_024),
}
PRESETS = {"context": "chrono"}
# The dense step is slow, and beyond this many features it takes gigabytes.
DENSE_UP_TO = 32_768
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "scaling.png"


def main() -> None:
    """Command line."""
    options = parser(__doc__, repeats=5)
    options.add_argument("--only", nargs="+", choices=list(AXES), default=list(AXES))
    options.add_argument("--plot", action="store_true", help=f"draw docs/figures/{FIGURE.name}")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    start, curves = time.perf_counter(), {}
    for axis in args.only:
        preset = PRESETS.get(axis, "topk")
        print(f"{preset}: {axis}, products a step (dense)", flush=True)
        curves[axis] = [_point(preset, axis, value, args.repeats, args.cpu) for value in AXES[axis]]
    result = {
        "ratio": {axis: {str(p[axis]): p["ratio"]["step"] for p in points} for axis, points in curves.items()},
        "curves": curves,
        "presets": {axis: PRESETS.get(axis, "topk") for axis in curves},
        "base": BASE,
        "took_seconds": round(time.perf_counter() - start),
        **about(args),
    }
    if args.plot:
        from plots import scaling_figure

        scaling_figure(result, FIGURE)
    if args.json:
        print(json.dumps(result))


def _point(preset: str, axis: str, value: int, repeats: int, cpu: bool) -> dict[str, Any]:
    """All tasks at one size."""
    size = BASE | {axis: value}
    work: dict[str, Task] = {
        "product": encoder_product(size["tokens"], size["d_in"], size["d_sae"]),
        "step": training_step(preset, {}, size),
    }
    if size["d_sae"] <= DENSE_UP_TO:
        work["dense"] = training_step(preset, {}, size, dense=True)
    rounds = take_turns(work, repeats, warmup=1, cpu=cpu)
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


if __name__ == "__main__":
    main()
