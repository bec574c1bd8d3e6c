"""A whole run from the command line to the saved autoencoder: `chronosae run` against the runners people use.

    python benchmarks/whole_run.py [--json] [--rounds 3] [--threads 2] [--tokens 131072]

Every run is a process of its own: it starts, loads the same local language model, reads, tokenises and harvests the
same text, trains a TopK autoencoder of the same width, k, batch and number of tokens with Adam in float32, saves it and
ends. `seconds` counts the whole process, start-up included; `training` only the training loop, with harvesting in it
(and, in ours, the measuring of the activations' scale on 8,192 tokens). Nobody evaluates or draws; ours, as always,
leaves a checkpoint with the optimiser's state too. Runs take turns; each ratio is the median over rounds of (library /
ours of that round), so above 1 we are faster. A first round, not counted, fills caches, that of our compiled kernels
among them. On a machine that other work shares, `--threads 1 --cpu` compares the processes' seconds of CPU, which
waiting does not add to.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harvest_peers import write_corpus, write_model
from peers import HERE, PEERS, environment, ratio_and_spread, require_peers

SIZE: dict[str, Any] = {
    "layer": 2,
    "layers": 6,
    "d_in": 384,
    "vocabulary": 8192,
    "context": 128,
    "harvest_sequences": 32,
    "batch_tokens": 4096,
    "d_sae": 8192,
    "k": 32,
    "lr": 3e-4,
}
# The promise: at least so many times as fast, start-up included.
BAR = {"saelens": 3.0}
LIBRARIES = "chronosae", "saelens", "sparsify"
Times = dict[str, dict[str, float]]


def run(name: str, size: dict[str, Any], threads: int) -> dict[str, float]:
    """Seconds of one run: of the whole process, of the training loop in it, and of CPU."""
    out = Path(size["out"])
    shutil.rmtree(out, ignore_errors=True)
    variables = environment(threads, HF_HOME=str(out.with_name("hub")))
    if name == "chronosae":
        config = write_config(size)
        command = [sys.executable, "-m", "chronosae.cli", "run", str(config), "--out-dir", str(out)]
    else:
        command = [str(PEERS), str(HERE / "whole_run_worker.py"), name, json.dumps(size)]
    start, start_cpu = time.perf_counter(), _children_cpu()
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    seconds, cpu = time.perf_counter() - start, _children_cpu() - start_cpu
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    if name == "chronosae":
        training = json.loads((out / "final_info.json").read_text(encoding="utf-8"))["wall_seconds"]
    else:
        training = float(done.stdout.splitlines()[-1])
    return {"seconds": seconds, "training": training, "cpu": cpu}


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_config(size: dict[str, Any]) -> Path:
    """Our run as a YAML file (which JSON is)."""
    path = Path(size["out"]).with_name("run.yaml")
    cfg = {
        "subject": {"model": size["model"], "sites": [f"blocks.{size['layer']}.hook_resid_post"], "device": "cpu"},
        "corpus": {"path": size["corpus"]},
        "activations": {
            "context": size["context"],
            "harvest_sequences": size["harvest_sequences"],
            "normalise_tokens": 8192,  # the default is meant for runs of millions of tokens
        },
        "training": {
            "tokens": size["tokens"],
            "batch_tokens": size["batch_tokens"],
            "lr": size["lr"],
            "dead_after_tokens": 10**7,  # in a run this short the others count no feature as dead
        },
        "saes": {"topk": {"d_sae": size["d_sae"], "k": size["k"]}},
        "evals": {"core": None},
    }
    path.write_text(json.dumps(cfg), encoding="utf-8")
    return path


def compare(rounds: list[Times], key: str) -> dict[str, Any]:
    """Ratios to ours and their spread, by `seconds`, `training` or `cpu`."""
    peers = [name for name in rounds[0] if name != "chronosae"]
    return {
        **ratio_and_spread({name: [times[name][key] / times["chronosae"][key] for times in rounds] for name in peers}),
        "median": {name: round(statistics.median(times[name][key] for times in rounds), 2) for name in rounds[0]},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every library")
    parser.add_argument("--cpu", action="store_true", help="compare seconds of CPU instead of the clock's")
    parser.add_argument("--tokens", type=int, default=131_072, help="each run trains on")
    parser.add_argument("--only", nargs="+", choices=LIBRARIES[1:], default=list(LIBRARIES[1:]), help="peers")
    options = parser.parse_args()
    require_peers()
    names = ["chronosae", *options.only]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = SIZE | {"tokens": options.tokens, "model": str(folder / "lm"), "out": str(folder / "out")}
        text = write_corpus(folder / "corpus.txt", documents=2 * options.tokens // 100)
        write_model(folder / "lm", text, size)
        size["corpus"] = str(as_jsonl(text))
        warm_up = size | {"tokens": 4 * size["batch_tokens"]}
        for library in names:
            run(library, warm_up, options.threads)
        rounds = [{library: run(library, size, options.threads) for library in names} for _ in range(options.rounds)]
    whole, training = compare(rounds, "cpu" if options.cpu else "seconds"), compare(rounds, "training")
    training["tokens_per_s"] = {name: round(options.tokens / spent) for name, spent in training["median"].items()}
    result = {
        "ratio": whole["ratio"],
        "spread": whole["spread"],
        "seconds": whole["median"],
        "training": training,
        "bar": BAR,
        "ok": all(whole["ratio"][peer] >= bar for peer, bar in BAR.items() if peer in names),
        "size": SIZE | {"tokens": options.tokens},
        "rounds": rounds,
        "measured": "seconds of CPU" if options.cpu else "seconds",
        "torch": torch.__version__,
        "threads": options.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    for library in names:
        print(
            f"{library:10s} {whole['median'][library]:6.1f} s, {training['tokens_per_s'][library]:7,d} tokens/s", end=""
        )
        print(f"   ours {whole['ratio'][library]:.2f} x as fast" if library in whole["ratio"] else "")
    if options.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


def as_jsonl(text: Path) -> Path:
    """The documents of a text file, one a line, as every library reads them."""
    path = text.with_suffix(".jsonl")
    documents = (part for part in text.read_text(encoding="utf-8").split("\n\n") if part.strip())
    path.write_text("".join(json.dumps({"text": part}) + "\n" for part in documents), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
