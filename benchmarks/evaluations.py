"""Core and sparse probing against SAEBench's own, the whole work: from tokens and texts to metrics.

    python benchmarks/evaluations.py [--json] [--repeats 5] [--peer .parity/bin/python]

SAEBench 0.6.0 runs in a process of its own, in the environment that `make parity` makes; the two take turns. Both
evaluate the same TopK autoencoder (d_sae 4,096, k 32, random weights) at the same site of the embedded language model:
SAEBench on TransformerLens' copy of it and with its own TopK class, on the same texts. Texts to probe have 20 to 100
words, as in most of SAEBench's data sets; contexts are 128 tokens. Each ratio is the median over rounds of (SAEBench's
time / ours). Shape checks are off, also in SAEBench, which ships them on.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor

from chronosae import build, world
from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.config import SubjectConfig
from chronosae.evals import EVALUATIONS, Heldout, Workbench
from chronosae.evals.core import Core
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.subject import Subject

ROOT = Path(__file__).resolve().parents[1]
SITE, LAYER, CONTEXT = "blocks.2.hook_resid_post", 2, 128
D_SAE, K = 4096, 32
SEQUENCES, BEHAVIOUR_SEQUENCES, PROMPTS = 128, 64, 16
SPECIAL = {0, 1}
TEXTS, DATA, TRAIN, TEST = "world/subject", "benchmark/subject", 400, 100
WORDS = range(20, 101)
# The promise, for each.
LIMIT = 2.0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", default=str(ROOT / ".parity/bin/python"), help="Python that has sae-bench 0.6.0")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    world.register()
    world.register_evaluation_data()
    LABELLED.register(DATA, _short_texts)
    subject = Subject.load(SubjectConfig(model=str(world.model_folder()), device="cpu"), name="world")
    sae = build("topk", d_in=subject.info.d_model, d_sae=D_SAE, k=K).eval()
    if args.serve:
        _serve(subject, sae)
        return
    if not Path(args.peer).is_file():
        sys.exit(f"{args.peer}: no such file; make parity makes the environment that holds SAEBench")
    works = {
        "core": _our_core(subject, sae),
        "sparse_probing": _our_probing(subject, sae, "saebench"),
        "sparse_probing (our protocol)": _our_probing(subject, sae, "chronosae"),
    }
    peer = _start_peer(args.peer)
    try:
        pairs = {
            name: [(_seconds(work), _ask(peer, name)) for _ in range(args.repeats + 1)] for name, work in works.items()
        }
    finally:
        peer.kill()
    result = _result({name: found[1:] for name, found in pairs.items()}, args.repeats)
    for name, value in result["ratio"].items():
        low, high = result["spread"][name]
        print(f"{name:<30} {value:.2f} x as fast as SAEBench ({low:.2f} to {high:.2f})")
    if args.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


def _result(pairs: dict[str, list[tuple[float, float]]], repeats: int) -> dict[str, Any]:
    ratios = {name: sorted(theirs / ours for ours, theirs in found) for name, found in pairs.items()}
    ratio = {name: round(statistics.median(found), 3) for name, found in ratios.items()}
    return {
        "ratio": ratio,
        "spread": {name: [round(found[0], 3), round(found[-1], 3)] for name, found in ratios.items()},
        "seconds": {
            name: [round(statistics.median(pair[side] for pair in found), 3) for side in (0, 1)]
            for name, found in pairs.items()
        },
        "d_sae": D_SAE,
        "sequences": SEQUENCES,
        "behaviour_sequences": BEHAVIOUR_SEQUENCES,
        "train_texts_a_class": TRAIN,
        "test_texts_a_class": TEST,
        "repeats": repeats,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "ok": all(value >= LIMIT for value in ratio.values()),
    }


def _start_peer(python: str) -> subprocess.Popen[str]:
    environment = os.environ | {"JAXTYPING_DISABLE": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [python, str(Path(__file__).resolve()), "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _ask(peer: subprocess.Popen[str], name: str) -> float:
    """SAEBench's seconds."""
    assert peer.stdin is not None and peer.stdout is not None
    peer.stdin.write(name.split()[0] + "\n")
    peer.stdin.flush()
    answer = peer.stdout.readline()
    if not answer:
        sys.exit("the peer's process ended; is SAEBench installed there (make parity)?")
    return float(answer)


def _serve(subject: Subject, sae: Autoencoder) -> None:
    """The peer's process: one measurement for every name that comes in."""
    answers, sys.stdout = sys.stdout, sys.stderr  # SAEBench prints
    with tempfile.TemporaryDirectory() as folder:
        peer = _peer(subject, sae, Path(folder))
        works = {"core": _their_core(subject, peer), "sparse_probing": _their_probing(peer)}
        for line in sys.stdin:
            print(_seconds(works[line.strip()]), file=answers, flush=True)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _tokens(subject: Subject) -> Tensor:
    """Sequences of the world's text, BOS first, no padding."""
    texts = " ".join(LABELLED.read(TEXTS, "train", "data").texts)
    ids = subject.tokenizer(texts, add_special_tokens=False)["input_ids"][: SEQUENCES * (CONTEXT - 1)]
    rows = torch.tensor(ids).view(SEQUENCES, CONTEXT - 1)
    return torch.cat([torch.full((SEQUENCES, 1), subject.tokenizer.bos_token_id), rows], 1)


def _short_texts(split: str) -> LabelledTexts:
    """The first words of each text, 20 for the first, 21 for the next ..."""
    found = LABELLED.read(TEXTS, split, "data")
    words = (text.split(" ")[: WORDS[i % len(WORDS)]] for i, text in enumerate(found.texts))
    return LabelledTexts(DATA, tuple(map(" ".join, words)), found.labels)


def _our_core(subject: Subject, sae: Autoencoder) -> Callable[[], Any]:
    tokens = _tokens(subject)
    mask = ~torch.isin(tokens, torch.tensor(sorted(SPECIAL)))
    core = Core(tokens=SEQUENCES * CONTEXT, behaviour_tokens=BEHAVIOUR_SEQUENCES * CONTEXT, batch_sequences=PROMPTS)

    def batches(*_: int) -> Iterator[SequenceBatch]:
        for start in range(0, SEQUENCES, PROMPTS):
            part, seen = tokens[start : start + PROMPTS], mask[start : start + PROMPTS]
            acts = subject.activations(part, [SITE])[SITE]
            documents = torch.arange(start, start + PROMPTS).unsqueeze(1).expand_as(part)
            yield SequenceBatch(acts, seen, part, seen.long().cumsum(1) - 1, documents, ("world",) * PROMPTS)

    bench = Workbench(subject, SITE, heldout=Heldout(batches))
    return lambda: core.run(bench, {"sae": sae})


def _our_probing(subject: Subject, sae: Autoencoder, protocol: str) -> Callable[[], Any]:
    probing = EVALUATIONS["sparse_probing"].read(
        {
            "data": [DATA],
            "protocol": protocol,
            "k": [1, 2, 5],
            "train_rows": 2 * TRAIN,
            "test_rows": 2 * TEST,
            "context": CONTEXT,
        },
    )
    return lambda: probing.run(Workbench(subject, SITE), {"sae": sae})


def _peer(subject: Subject, sae: Autoencoder, folder: Path) -> SimpleNamespace:
    """TransformerLens' copy of the subject and SAEBench's TopK with our weights."""
    sys.path.insert(0, str(ROOT / "tests" / "parity"))
    sys.path.insert(0, str(ROOT / "tests" / "subject"))
    from sae_bench.custom_saes.topk_sae import TopKSAE  # type: ignore[import-not-found]
    from test_subject_transformerlens import tl_model  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(world.model_folder(), dtype=torch.float32)
    hooked = tl_model("world", hf, folder)
    hooked.tokenizer = subject.tokenizer
    theirs = TopKSAE(sae.d_in, D_SAE, K, "world", LAYER, torch.device("cpu"), torch.float32)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        getattr(theirs, name).data = getattr(sae, name).data.clone()
    theirs.cfg.architecture = theirs.cfg.architecture_str = "topk"
    return SimpleNamespace(model=hooked, sae=theirs, folder=folder)


def _their_core(subject: Subject, peer: SimpleNamespace) -> Callable[[], Any]:
    from sae_bench.evals.core import main as saebench  # type: ignore[import-not-found]
    from sae_bench.evals.core.eval_config import CoreEvalConfig as Config  # type: ignore[import-not-found]

    names = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
    names += ("featurewise_density_statistics", "featurewise_weight_based_metrics")
    config = Config(
        batch_size_prompts=PROMPTS,
        n_eval_reconstruction_batches=BEHAVIOUR_SEQUENCES // PROMPTS,
        n_eval_sparsity_variance_batches=SEQUENCES // PROMPTS,
        exclude_special_tokens_from_reconstruction=True,
        **{f"compute_{name}": True for name in names},
    )
    tokens = _tokens(subject)

    class Store:
        """The part of an ActivationsStore that `run_evals` uses."""

        context_size, store_batch_size_prompts, start = CONTEXT, PROMPTS, 0

        def get_batch_tokens(self, n: int) -> Tensor:
            self.start += n
            return tokens[self.start - n : self.start]

        def reset_input_dataset(self) -> None:
            self.start = 0

    def work() -> Any:
        metrics, features = saebench.run_evals(peer.sae, Store(), peer.model, config, ignore_tokens=SPECIAL)
        return metrics, saebench.calculate_misc_metrics(features)

    return work


def _their_probing(peer: SimpleNamespace) -> Callable[[], Any]:
    from sae_bench.evals.sparse_probing import main as saebench  # type: ignore[import-not-found]
    from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig  # type: ignore[import-not-found]
    from sae_bench.sae_bench_utils import dataset_info, dataset_utils  # type: ignore[import-not-found]

    parts = {split: LABELLED.read(DATA, split, "data") for split in ("train", "test")}
    classes = sorted(set(parts["train"].labels))
    sizes = {"train": TRAIN, "test": TEST}

    def by_class(split: str) -> dict[str, list[str]]:
        pairs = list(zip(parts[split].texts, parts[split].labels, strict=True))
        return {c: [text for text, label in pairs if label == c][: sizes[split]] for c in classes}

    # Where SAEBench would download a data set, it gets ours.
    dataset_utils.get_multi_label_train_test_data = lambda *_: (by_class("train"), by_class("test"))
    dataset_info.chosen_classes_per_dataset[DATA] = classes
    config = SparseProbingEvalConfig(
        model_name="world",
        dataset_names=[DATA],
        probe_train_set_size=2 * TRAIN,
        probe_test_set_size=2 * TEST,
        context_length=CONTEXT,
        k_values=[1, 2, 5],
        llm_batch_size=64,
        sae_batch_size=64,
        llm_dtype="float32",
    )
    return lambda: saebench.run_eval_single_sae(
        config, peer.sae, peer.model, "cpu", str(peer.folder), save_activations=False
    )


if __name__ == "__main__":
    main()
