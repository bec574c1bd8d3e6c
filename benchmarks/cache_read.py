"""MB/s of training batches from the activation cache, over the disk's own for the same files.

    python benchmarks/cache_read.py [--json] [--repeats 9] [--megabytes 400] [--folder PATH]

`disk` reads every file of the cache from end to end, 4 MB at a time, and drops what it read. `in order` makes float32
batches of 2,048 tokens of all sequences as they lie on the disk; `shuffled` in the order that training asks for. MB are
those that lie on the disk. Before each cold measurement the system is asked to forget the files; warm ones follow
directly. All take turns. What a disk can do is told by its fastest round, so each ratio is that of the fastest rounds;
medians and the spread of paired rounds stand beside it. In order and cold it should be at least 0.9 in bfloat16, the
default of `activations.cache_dtype`: where it is less, the exit code is 1.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from turns import Round, Task, about, middle, parser, spread, take_turns

from chronosae.activations import CachedStream, ShardFolder, cache_bytes
from chronosae.activations.cache import TOKEN_ARRAYS
from chronosae.activations.codec import CacheDtype, layout

TARGET = 0.9
SIZE = {"d_in": 768, "context": 128, "batch_sequences": 16}
SITE = "blocks.6.hook_resid_post"
DTYPES: tuple[CacheDtype, ...] = ("bfloat16", "float32", "int8")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parser(__doc__, repeats=9)
    options.add_argument("--megabytes", type=int, default=400, help="of each cache, about")
    options.add_argument("--folder", type=Path, help="on the disk to be measured; absent: where temporary files go")
    args = options.parse_args(arguments)
    if not hasattr(os, "posix_fadvise"):
        raise SystemExit("this system can't be asked to forget a file; run it on Linux")
    cases: dict[str, Any] = {}
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            cases[dtype] = _case(Path(folder), dtype, args.megabytes * 1_000_000, args)
    ratio = cases["bfloat16"]["ratio"]["cold in order"]
    result = {
        "ratio": ratio,
        "target": TARGET,
        "ok": ratio >= TARGET,
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
    print(f"ratio {ratio:.3f} (target {TARGET})")
    if args.json:
        print(json.dumps(result))
    return 0 if result["ok"] else 1


def _case(folder: Path, dtype: CacheDtype, least_bytes: int, args: Any) -> dict[str, Any]:
    shards = write_cache(folder, dtype, least_bytes)
    files = sorted(folder.glob("*/*.npy"))
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    stream = CachedStream(shards, [SITE], dtype, batch_sequences=SIZE["batch_sequences"])
    batches = range(0, len(stream), SIZE["batch_sequences"])

    def in_order() -> None:
        for start in batches:
            stream.read(range(start, min(start + SIZE["batch_sequences"], len(stream))))

    def shuffled() -> None:
        for _ in batches:
            stream.next()

    work: dict[str, Task] = {}
    for name, task in (("disk", lambda: read_through(files)), ("in order", in_order), ("shuffled", shuffled)):
        work |= {f"forget before {name}": lambda: forget(files), f"cold {name}": task, f"warm {name}": task}
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


def write_cache(folder: Path, dtype: CacheDtype, least: int) -> ShardFolder:
    """A complete cache of noise, at least so many bytes, in shards of a quarter of it."""
    draw, context, d_in = np.random.default_rng(0), SIZE["context"], SIZE["d_in"]
    rows = max(SIZE["batch_sequences"], -(-least // cache_bytes(4, context, [d_in], dtype)))
    shards = ShardFolder(folder, {"noise": dtype})

    def fill(into: Path) -> int:
        for name, kind in TOKEN_ARRAYS.items():
            np.save(into / f"{name}.npy", np.ones((rows, context), kind))
        np.save(into / "source.npy", np.full(rows, "noise"))
        for name, (kind, tail) in layout(SITE, d_in, dtype).items():
            whole = np.lib.format.open_memmap(into / f"{name}.npy", "w+", kind, (rows, context, *tail))
            # No NaN among them: the highest bit of the exponent stays away.
            whole.view(np.uint8)[:] = draw.integers(0, 64, whole.view(np.uint8).shape, np.uint8)
        return rows

    for number in range(4):
        shards.write(number, fill, {})
    shards.finish()
    return shards


def read_through(files: list[Path]) -> None:
    """All bytes of the files, 4 MB at a time."""
    into = bytearray(1 << 22)
    for file in files:
        with file.open("rb", buffering=0) as raw:
            while raw.readinto(into):
                pass


def forget(files: list[Path]) -> None:
    """Let the system drop what it holds of the files in memory."""
    for file in files:
        with file.open("rb") as raw:
            os.fsync(raw.fileno())
            os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
