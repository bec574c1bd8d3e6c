"""Training of the world's language model: ``chronosae world train``."""

from __future__ import annotations

import math
import platform
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronosae.world.lexicon import GENERATOR_VERSION

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Recipe:
    """The committed recipe; lengths in tokens, rates per optimiser step."""

    hidden_size: int = 256
    intermediate_size: int = 704
    layers: int = 4
    heads: int = 4
    max_position_embeddings: int = 512
    context: int = 256
    rows: int = 8
    steps: int = 5600
    lr: float = 1.5e-3
    final_lr: float = 4e-5
    warmup_steps: int = 200
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    checkpoint_minutes: float = 3.0
    tokenizer_documents: int = 12_000


def build_model(recipe: Recipe, vocab_size: int, seed: int) -> LlamaForCausalLM:
    """A freshly initialised stock Llama with tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.max_position_embeddings,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    # Plain attention: on processors, the fused backward pass costs twice as much at this size.
    model.set_attn_implementation("eager")
    return model


def weighted_loss(
    model: LlamaForCausalLM, ids: Int[Tensor, "batch pos"], weights: Float[Tensor, "batch pos"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The weighted loss to descend and the plain mean loss to report, both in nats a token."""
    import torch

    logits = model(input_ids=ids[:, :-1]).logits.float()
    per_token = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="none"
    )
    w = weights[:, 1:].reshape(-1)
    return (per_token * w).sum() / w.sum(), per_token.detach().mean()


def learning_rate(progress: float, step: int, recipe: Recipe) -> float:
    """Linear warm-up over steps, then cosine over progress (0 to 1)."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warm * (recipe.final_lr + (recipe.lr - recipe.final_lr) * cosine)


def pick_device(device: str) -> torch.device:
    """``auto`` takes a GPU if there is one; ``UserError`` for a device that doesn't exist."""
    from chronosae.config.errors import UserError
    from chronosae.subject.loading import resolve_device

    try:
        return resolve_device(device)
    except UserError as error:
        # The same words, under the name that the option has here.
        raise UserError(f"world train: --device {str(error).removeprefix('subject.device: ')}") from None


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bfloat16 autocast pays: on any GPU, and on processors with AMX tiles (as far as torch can tell)."""
    import torch

    if device.type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # newer than torch 2.8
    return bool(capabilities and capabilities().get("amx_bf16", False))


def _git_state() -> str:
    try:
        here = Path(__file__).parent
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "--", "."], cwd=here, capture_output=True, text=True)
        return head.stdout.strip() + (" (with changes)" if dirty.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def train_world(
    out_dir: Path,
    *,
    seed: int = 0,
    minutes: float | None = None,
    recipe: Recipe | None = None,
    device: str = "auto",
    score: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train tokenizer and model from nothing and write a model folder.

    ``minutes`` (default 50) bounds the training time: a slower machine runs the same schedule compressed. Otherwise
    the result is a function of the seed (and of the machine's arithmetic). A checkpoint is written every few minutes,
    so an interrupted run leaves a usable model. Returns the record that is stored as ``training.json``.

    Raises:
        UserError: before any work, when ``out_dir`` exists and isn't an empty folder, or ``minutes`` or ``device``
            make no sense; later, when the loss isn't finite.
    """
    from chronosae.config.errors import UserError
    from chronosae.world.saving import new_folder
    from chronosae.world.score import record_scores

    minutes = 50.0 if minutes is None else minutes
    if minutes <= 0:
        raise UserError(f"world train: minutes must be positive, not {minutes}")
    where = pick_device(device)
    with new_folder(out_dir) as folder:
        result = _train(folder, seed, minutes, recipe or Recipe(), where, quiet)
        if score:
            result["scores"] = record_scores(folder)
    return result


def _train(folder: Path, seed: int, minutes: float, recipe: Recipe, where: torch.device, quiet: bool) -> dict[str, Any]:
    import torch
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from chronosae.config.errors import UserError
    from chronosae.world.packing import Packer
    from chronosae.world.saving import save_model
    from chronosae.world.tokenizer import build_tokenizer

    autocast = bf16_is_fast(where)
    tokenizer = build_tokenizer(
        seed=seed, documents=recipe.tokenizer_documents, max_length=recipe.max_position_embeddings
    )
    model = build_model(recipe, len(tokenizer), seed)
    model.to(where)  # pyright: ignore[reportArgumentType]
    packer = Packer(tokenizer, recipe.context, seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.lr,
        betas=recipe.betas,
        fused=True,
    )
    code = _git_state()
    started = saved = time.monotonic()
    losses: list[tuple[int, float]] = []
    step, smooth = 0, math.nan

    def record(finished: bool) -> dict[str, Any]:
        wall = time.monotonic() - started
        tokens = step * recipe.rows * recipe.context
        return {
            "generator_version": GENERATOR_VERSION,
            "seed": seed,
            "minutes": minutes,
            "recipe": asdict(recipe),
            "finished": finished,
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": step,
            "tokens": tokens,
            "documents": packer.next_document,
            "wall_seconds": round(wall, 1),
            "tokens_per_second": round(tokens / max(wall, 1e-9)),
            "device": str(where),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
            if where.type == "cpu"
            else torch.cuda.get_device_name(where),
            "precision": "bf16 autocast" if autocast else "float32",
            "torch": torch.__version__,
            "code": code,
            "loss_curve": losses,
        }

    columns = (TextColumn("world"), BarColumn(), TextColumn("{task.fields[line]}"), TimeRemainingColumn())
    with Progress(*columns, disable=quiet) as bar:
        task = bar.add_task("train", total=1.0, line="")
        while step < recipe.steps:
            elapsed = time.monotonic() - started
            progress = max(step / recipe.steps, elapsed / (60 * minutes))
            if progress >= 1:
                break
            ids, weights = packer.rows(recipe.rows, progress)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(progress, step, recipe)
            with torch.autocast(where.type, dtype=torch.bfloat16, enabled=autocast):
                loss, plain = weighted_loss(model, torch.tensor(ids, device=where), torch.tensor(weights, device=where))
            if not math.isfinite(loss.item()):
                raise UserError(f"world train: the loss is {loss.item()} at step {step}; lower the learning rate")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            smooth = plain.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * plain.item()
            if step % 50 == 0:
                losses.append((step, round(smooth, 4)))
                rate = step * recipe.rows * recipe.context / (time.monotonic() - started)
                bar.update(task, completed=progress, line=f"step {step} loss {smooth:.3f} {rate:,.0f} tokens/s")
            if time.monotonic() - saved > 60 * recipe.checkpoint_minutes:
                save_model(model, tokenizer, record(False), folder)
                saved = time.monotonic()
    result = record(True)
    save_model(model, tokenizer, result, folder)
    return result
