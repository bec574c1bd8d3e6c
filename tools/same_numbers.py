"""Do two checkouts compute the same, to the last bit? For a change that is meant to change nothing.

    python tools/same_numbers.py path/to/other/checkout

In each checkout, by itself: every preset with three seeds for 20 steps, on the embedded language model through
`chronosae.run`, and on planted data through `Trainer`; then hashes of every step's loss, of the saved weights, and of
codes, whole and streamed. Prints what differs; exit code 1 when something does. Both read the same virtual environment.
On one thread: with more, the order in which torch adds up scattered gradients (`causal`, `lagged`) is not fixed.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parents[1]
SEEDS, STEPS, D_SAE, CONTEXT = (0, 1, 2), 20, 256, 64
TFA = {"n_heads": 2, "bottleneck_factor": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "relu_l1": {"target_l0": 8},
    "topk": {"k": 8},
    "batch_topk": {"k": 8},
    "jump_relu": {},
    "gated": {},
    "matryoshka": {"k": 8},
    "winner_take_all": {"k": 8},
    "multiscale": {"k": 8},
    "consistency": {"k": 8},
    "causal": {"k": 8, "correlation_weight": 0.1},
    "lagged": {},
    "positional": {"k": 8, "context": CONTEXT},
    "tsae": {"k": 8},
    "tfa": {"k": 8, **TFA},
    "txc": {"k": 8, "window": 4},
    "stacked": {"k": 8, "window": 4},
    "chrono": {"k": 8},
    # Parts together, and the ones that no preset takes by itself.
    "mixed": {
        "preset": "multiscale",
        "activation": {"kind": "batch_topk", "k": 8},
        "mixer": {"kind": "conv", "rates": [1, 2], "rank": 8},
        "norm": {"kind": "batch"},
        "position_mask": {"kind": "soft", "context": CONTEXT, "masked_gradients": True},
        "corruption": {"kind": "gaussian", "level": 0.1},
        "feature_dropout": 0.2,
        "extra_terms": [
            {"kind": kind} for kind in ("cross_position", "next_token", "code_separation", "orthogonality")
        ],
        "trackers": [{"kind": "importance"}, {"kind": "firing"}],
    },
    "input": {"preset": "multiscale", "k": 8, "placement": "input"},
}


def on_the_world(folder: Path) -> dict[str, Any]:
    """Hashes by autoencoder, after a run on the embedded model."""
    import yaml

    import chronosae

    config = {
        "activations": {"context": CONTEXT},
        "training": {
            "tokens": STEPS * 1024,
            "batch_tokens": 1024,
            "lr": 1e-3,
            "seeds": list(SEEDS),
            "log_every": 1,
            "dead_after_tokens": 4096,
        },
        "saes": {name: {"preset": name, "d_sae": D_SAE, **options} for name, options in OPTIONS.items()},
        "evals": {"core": None},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    chronosae.run(chronosae.load_config(path), folder / "run")
    losses: dict[str, list[float]] = {}
    for line in (folder / "run" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        losses.setdefault(row["sae"], []).append(row["loss"])
    found = {}
    for name, values in losses.items():
        assert len(values) == STEPS, (name, len(values))
        home = folder / "run" / "saes" / name
        sae = chronosae.load(home)
        # An autoencoder's files, but for the configuration, which may gain keys.
        weights = {p.name: _sha(p.read_bytes()) for p in sorted(home.iterdir()) if p.suffix == ".safetensors"}
        found[name] = {"losses": _sha(repr(values).encode()), "weights": weights, **codes(sae)}
    return found


def on_planted_data() -> dict[str, Any]:
    """Hashes by preset and seed."""
    import chronosae
    from chronosae.config import TrainingConfig
    from chronosae.planted import PLANTED, PlantedStream
    from chronosae.training import Trainee, Trainer

    data = PLANTED["persistent"]
    found = {}
    for name, given in OPTIONS.items():
        options = {"d_sae": data.n_features, **given}
        for seed in SEEDS:
            sae = chronosae.build(options.get("preset", name), d_in=data.d_in, seed=seed, **_without(options, "preset"))
            stream = PlantedStream(data, batch_sequences=8, seed=seed, pool_sequences=64)
            cfg = TrainingConfig(dead_after_tokens=2048)
            trainee = Trainee(name, sae, stream.site, cfg, steps=STEPS, lr=3e-3, seed=seed)
            losses: list[float] = []
            Trainer(
                [trainee], stream, steps=STEPS, log_every=1,
                on_log=lambda event, name=name, losses=losses: losses.append(event.metrics[name].loss),
            ).train()  # fmt: skip
            assert len(losses) == STEPS, (name, losses)
            weights = {key: _tensor(value) for key, value in sae.state_dict().items()}
            trackers = {kind: _tree(tracker.state_dict()) for kind, tracker in trainee.trackers.items()}
            found[f"{name}, seed {seed}"] = {"losses": _sha(repr(losses).encode()), "weights": weights, **codes(sae)}
            found[f"{name}, seed {seed}"]["trackers"] = trackers
    return found


@torch.no_grad()
def codes(sae: Any) -> dict[str, str]:
    """Hashes of the codes and the reconstruction of fixed activations, and of codes that were streamed."""
    generator = torch.Generator().manual_seed(0)
    acts = 3 * torch.randn(4, CONTEXT, sae.d_in, generator=generator)
    mask = torch.rand(4, CONTEXT, generator=generator) > 0.1
    doc_ids = (torch.arange(CONTEXT) // 23).expand(4, -1)
    sae.eval()
    whole = sae.encode(acts, mask, doc_ids=doc_ids)
    found = {"codes": _tensor(whole.dense()), "recon": _tensor(sae.decode(whole))}
    if sae.causal:
        state = sae.stream(4)
        parts = [state.step(acts[:, a:b], mask[:, a:b]) for a, b in ((0, 1), (1, 30), (30, CONTEXT))]
        found["streamed"] = _tensor(torch.cat([part.dense() for part in parts], 1))
    return found


def _without(options: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != key}


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _tensor(value: torch.Tensor) -> str:
    value = value.detach().contiguous()
    value = value.view(torch.uint8) if value.dtype == torch.bfloat16 else value
    return _sha(value.numpy().tobytes() + str(tuple(value.shape)).encode())


def _tree(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _tree(item) for key, item in value.items()}
    return _tensor(value) if isinstance(value, torch.Tensor) else repr(value)


def emit() -> None:
    """All hashes of the checkout that is on the path, as JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {"world": on_the_world(Path(folder)), "planted": on_planted_data()}
    print(json.dumps(found))


def hashes(checkout: Path) -> dict[str, Any]:
    """What `emit` prints in a process of its own, with that checkout's sources."""
    env = os.environ | {"PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--emit"]
    done = subprocess.run(command, env=env, cwd=checkout, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves by path."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: leaf for name, item in tree.items() for key, leaf in flat(item, f"{path}/{name}").items()}


def main() -> int:
    """Compare this checkout with another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?", help="another checkout, or a .json that --save wrote")
    parser.add_argument("--save", type=Path, help="keep this checkout's hashes in a file")
    parser.add_argument("--emit", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.emit:
        emit()
        return 0
    ours = hashes(HERE)
    if given.save:
        given.save.write_text(json.dumps(ours, indent=1))
    if given.other is None:
        return 0
    theirs = json.loads(given.other.read_text()) if given.other.suffix == ".json" else hashes(given.other.resolve())
    left, right = flat(ours), flat(theirs)
    differ = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    for key in differ:
        print(f"differs: {key}")
    print(f"{len(left)} hashes here, {len(right)} there, {len(differ)} differ")
    return 1 if differ or not left else 0


if __name__ == "__main__":
    raise SystemExit(main())
