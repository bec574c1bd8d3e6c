"""One library's TopK training step, as its own trainer makes it; run by `train_step.py` in that library's environment.

    PYTHON train_step_worker.py LIBRARY '{"d_in": ..., "d_sae": ..., "k": ..., "tokens": ..., "dead": ...}'

Takes one step for every line on its standard input, and answers with the seconds it took: by the clock, and of CPU.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

LR = 1e-4
# Batches in turn, so that no library profits from seeing the same one again.
BATCHES = 4


def chronosae(size: dict[str, Any]) -> Callable[[Tensor], Any]:
    """Ours: the trainer's whole step, with clipping, accounting and AuxK."""
    from chronosae.activations import SequenceBatch
    from chronosae.config import TrainingConfig
    from chronosae.presets import build
    from chronosae.training import Trainee

    aux: dict[str, Any] = {} if size["dead"] else {"aux_weight": 0}
    sae = build("topk", d_in=size["d_in"], d_sae=size["d_sae"], k=size["k"], **aux)
    trainee = Trainee("topk", sae, "site", TrainingConfig(), steps=10**6, lr=LR, seed=0)
    dead, shape = dead_features(size), (size["tokens"] // 128, 128)
    mask, zeros = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.int64)

    def step(x: Tensor) -> None:
        trainee.dead.since_fired.zero_().masked_fill_(dead, 10**9)
        acts = x.view(*shape, -1)
        trainee.step(SequenceBatch(acts, mask, zeros, mask.cumsum(1) - 1, zeros, ("noise",) * shape[0]))
        assert trainee.stopped is None

    return step


def sparsify(size: dict[str, Any]) -> Callable[[Tensor], Any]:
    """sparsify's step with Adam: unit-norm decoder, projected gradient, fraction of variance unexplained."""
    from sparsify.config import SparseCoderConfig  # pyright: ignore[reportMissingImports]
    from sparsify.sparse_coder import SparseCoder  # pyright: ignore[reportMissingImports]

    sae = SparseCoder(size["d_in"], SparseCoderConfig(num_latents=size["d_sae"], k=size["k"]))
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    dead = dead_features(size) if size["dead"] else None

    def step(x: Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x, dead_mask=dead)
        (out.fvu + (out.auxk_loss / 32 if size["dead"] else 0)).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def saelens(size: dict[str, Any]) -> Callable[[Tensor], Any]:
    """SAELens' trainer with the defaults of its TopK."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    aux = {} if size["dead"] else {"aux_loss_coefficient": 0.0}
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=size["d_in"], d_sae=size["d_sae"], k=size["k"], **aux))
    cfg = SAETrainerConfig(
        total_training_samples=10**6 * size["tokens"],
        train_batch_size_samples=size["tokens"],
        device="cpu",
        lr=LR,
        lr_end=LR,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        autocast=False,
        dead_feature_window=1000,
        feature_sampling_window=10**9,
        n_restart_cycles=1,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=cfg, sae=sae, data_provider=iter(()))
    dead = dead_features(size)

    def step(x: Tensor) -> None:
        trainer.n_forward_passes_since_fired.zero_().masked_fill_(dead, 10**9)
        trainer._train_step(sae, x)
        trainer.n_training_steps += 1

    return step


def dictionary_learning(size: dict[str, Any]) -> Callable[[Tensor], Any]:
    """dictionary_learning's TopK trainer."""
    # Its store of activations wants nnsight, and the package imports it first thing.
    sys.modules.setdefault("nnsight", cast(ModuleType, SimpleNamespace(LanguageModel=object)))
    from dictionary_learning.trainers.top_k import TopKTrainer  # pyright: ignore[reportMissingImports]

    trainer = TopKTrainer(
        steps=10**6,
        activation_dim=size["d_in"],
        dict_size=size["d_sae"],
        k=size["k"],
        layer=0,
        lm_name="none",
        lr=LR,
        auxk_alpha=1 / 32 if size["dead"] else 0,
        device="cpu",
    )
    dead = dead_features(size)

    def step(x: Tensor) -> None:
        trainer.num_tokens_since_fired.zero_().masked_fill_(dead, 10**9)
        # From step 1 on: step 0 also finds a geometric median.
        trainer.update(1, x)

    return step


def dead_features(size: dict[str, Any]) -> Tensor:
    """The share of features that counts as dead, spread over the dictionary."""
    return torch.linspace(0, 1, size["d_sae"], dtype=torch.float64).mul(size["d_sae"]).frac() < size["dead"]


LIBRARIES = {f.__name__: f for f in (chronosae, sparsify, saelens, dictionary_learning)}
LIBRARIES["dense"] = chronosae
"""Our own step with every kernel its torch reference (`CHRONOSAE_KERNELS=torch` in the environment)."""


def main() -> None:
    """Serve until the input ends."""
    name, size = sys.argv[1], json.loads(sys.argv[2])
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    torch.manual_seed(0)
    batches = [torch.randn(size["tokens"], size["d_in"]) for _ in range(BATCHES)]
    step = LIBRARIES[name](size)
    for count, _ in enumerate(sys.stdin):
        start, start_cpu = time.perf_counter(), time.process_time()
        step(batches[count % BATCHES])
        print(time.perf_counter() - start, time.process_time() - start_cpu, file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
