"""How many files of ours does one TopK step walk through, and how many a whole run?

    python tools/touched_files.py [step | run] [--list]

A file counts once, when code of it is entered while Python's profiling hook (`sys.setprofile`, in every thread) is on.

`step`: one training step (`Trainee.step`) of the preset `topk` at the embedded model's sizes, 2,048 tokens of noise.
Everything is built, and one step taken, before the counting begins: imports, compilation and what happens once aren't
in it. Code that numba compiled is never entered as Python, so a kernel counts for the file that calls it.

`run`: `chronosae.run` on the embedded model, two steps of one TopK autoencoder and the core evaluation of few tokens,
in a process that has imported nothing of ours when the counting begins: from the import of the package and the
configuration to the results. The body of a module, run when it is imported, counts as entered; of how many files a
function was called is told beside it (decorators and the like, called while importing, are among them).

Each is counted in a process of its own. The package counted is the one that the path finds, so that
`PYTHONPATH=other/src python tools/touched_files.py` counts another checkout.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

SIZE: dict[str, Any] = {"d_in": 256, "d_sae": 1024, "k": 8}
SEQUENCES, CONTEXT = 16, 128
CONFIG: dict[str, Any] = {
    "subject": {"model": "world", "sites": ["blocks.2.hook_resid_post"], "device": "cpu"},
    "corpus": {"path": "world"},
    "activations": {"context": 128, "shuffle_buffer": 32, "harvest_sequences": 16, "normalise_tokens": 2048},
    "training": {"tokens": 4096, "batch_tokens": 2048},
    "saes": {"topk": {"d_sae": 1024, "k": 8}},
    "evals": {"core": {"tokens": 2048, "behaviour_tokens": 1024, "batch_sequences": 8}},
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=COUNTS, help="what to count; both by default")
    parser.add_argument("--list", action="store_true", help="print the files")
    parser.add_argument("--count-here", choices=COUNTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count_here:
        print(json.dumps(COUNTS[args.count_here]()))
        return
    for name in [args.what] if args.what else COUNTS:
        command = [sys.executable, __file__, "--count-here", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
        files = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {len(files)} files, a function called in {sum(files.values())}")
        for file, called in files.items() if args.list else ():
            print(f"  {file}" if called else f"  {file} (body only)")


def entered(work: Callable[[], Any]) -> dict[str, bool]:
    """Files of the package that `work` enters, as paths within it: whether a function of theirs was called."""
    bodies: set[str] = set()
    functions: set[str] = set()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            # Bodies of modules and classes have no fast locals.
            code = frame.f_code
            (functions if code.co_flags & inspect.CO_OPTIMIZED else bodies).add(code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # pyright: ignore[reportArgumentType] - None ends it
    import chronosae

    home = Path(chronosae.__file__).resolve().parent
    files = ((Path(name).resolve(), name in functions) for name in sorted(bodies | functions) if name.endswith(".py"))
    return {str(file.relative_to(home)): called for file, called in files if file.is_relative_to(home)}


def of_a_step() -> dict[str, bool]:
    """Files of the second training step."""
    import torch

    from chronosae import SequenceBatch, build
    from chronosae.config import TrainingConfig
    from chronosae.training import Trainee

    sae = build("topk", **SIZE)
    trainee = Trainee("topk", sae, "site", TrainingConfig(), steps=1000, lr=1e-3, seed=0)
    shape = (SEQUENCES, CONTEXT)
    mask, zeros = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.int64)
    acts = torch.randn(*shape, SIZE["d_in"], generator=torch.Generator().manual_seed(0))
    batch = SequenceBatch(acts, mask, zeros, mask.cumsum(1) - 1, zeros, ("noise",) * SEQUENCES)
    trainee.step(batch)
    files = entered(lambda: trainee.step(batch))
    assert trainee.stopped is None, trainee.stopped
    return files


def of_a_run() -> dict[str, bool]:
    """Files of a run, from the first import to the results."""
    with tempfile.TemporaryDirectory() as folder:
        # JSON is YAML.
        config, out = Path(folder, "run.yaml"), Path(folder, "out")
        config.write_text(json.dumps(CONFIG), encoding="utf-8")

        def run() -> None:
            import chronosae

            chronosae.run(chronosae.load_config(config), out)

        # What the run tells people goes where the count is not.
        answer, sys.stdout = sys.stdout, sys.stderr
        try:
            return entered(run)
        finally:
            sys.stdout = answer


COUNTS: dict[str, Callable[[], dict[str, bool]]] = {"step": of_a_step, "run": of_a_run}

if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
