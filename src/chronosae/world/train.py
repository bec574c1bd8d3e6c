"""Training of the world's language model, ``chronosae world train``: tokenizer, packed rows, recipe, loop, folder."""

from __future__ import annotations

import copy
import json
import math
import platform
import shutil
import subprocess
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chronosae.config.errors import UserError
from chronosae.subject.loading import resolve_device
from chronosae.world.corpus import MIXTURE, Document, make_document
from chronosae.world.lexicon import GENERATOR_VERSION
from chronosae.world.model import HASH_FILE, record_scores, write_hashes

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
VOCAB_SIZE = 2048
_WORDS = r"\n[A-D]\)|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's way to cut text into words, with option marks kept whole."""


def sample_texts(documents: int, seed: int) -> Iterable[str]:
    """Training documents from the corpus's own mixture."""
    return (make_document("train", i, seed=seed, mixture=MIXTURE).text for i in range(documents))


def build_tokenizer(*, seed: int = 0, documents: int = 12_000, max_length: int = 512) -> PreTrainedTokenizerFast:
    """Train the tokenizer on generated documents; the same seed gives the same tokenizer."""
    bpe = Tokenizer(models.BPE())
    # An option mark at the start of a line ("\nA)") becomes one token, so that a letter stands right before its option.
    marks = pre_tokenizers.Split(Regex(r"\n[A-D]\)"), "isolated")
    words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([marks, words, bytes_])  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, EOS],
        show_progress=False,  # type: ignore[call-arg]
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(sample_texts(documents, seed), trainer)
    bpe.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


_FACTS = {"encyclopaedia": 0.14, "quiz": 0.12, "spelling": 0.04}
CURRICULUM: tuple[tuple[float, dict[str, float]], ...] = (
    (0.00, {**_FACTS, "prose": 0.34, "lookup": 0.28, "named": 0.08}),
    (0.25, {**_FACTS, "prose": 0.30, "lookup": 0.22, "named": 0.12, "open_book": 0.06}),
    (0.45, {**_FACTS, "prose": 0.30, "lookup": 0.12, "named": 0.10, "open_book": 0.08, "letters": 0.10}),
    (0.65, {**_FACTS, "prose": 0.32, "lookup": 0.05, "named": 0.05, "open_book": 0.06, "letters": 0.22}),
    (1.00, {**_FACTS, "prose": 0.44, "lookup": 0.01, "named": 0.01, "open_book": 0.02, "letters": 0.22}),
)
"""Share of documents by progress of training (0 to 1), interpolated between the rows."""

PROSE: dict[str, float] = {"story": 0.36, "dialogue": 0.22, "letter": 0.10, "report": 0.20, "form": 0.12}
LABEL_WEIGHTS: dict[str, float] = {"answer_letter": 8.0, "fact_value": 2.0, "first_letter": 2.0, "chain_effect": 2.0}
"""Loss weights of the tokens that carry an answer; every other token weighs 1."""


def mixture_at(progress: float) -> dict[str, float]:
    """The document mixture at a point of the curriculum."""
    points = [point for point, _ in CURRICULUM]
    i = min(max(bisect_right(points, progress), 1), len(points) - 1)
    (left, a), (right, b) = CURRICULUM[i - 1], CURRICULUM[i]
    t = min(1.0, (progress - left) / (right - left))
    mixed = {k: (1 - t) * a.get(k, 0.0) + t * b.get(k, 0.0) for k in {**a, **b}}
    prose = mixed.pop("prose")
    return {**{k: prose * share for k, share in PROSE.items()}, **mixed}


def encode(documents: list[Document], tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[list[int], list[float]]]:
    """Token ids (with ``<bos>`` and ``<eos>``) and loss weights of each document."""
    eos = tokenizer.eos_token_id
    encodings = tokenizer.backend_tokenizer.encode_batch([d.text for d in documents])
    for document, encoding in zip(documents, encodings, strict=True):
        weights = [1.0] * len(encoding.ids)
        for a in document.annotations:
            weight = LABEL_WEIGHTS.get(a.label)
            if weight is not None:
                for i, (start, end) in enumerate(encoding.offsets):
                    if start < a.end and end > a.start:
                        weights[i] = weight
        yield [*encoding.ids, eos], [*weights, 1.0]  # type: ignore[list-item]


class Packer:
    """Fills rows of ``context`` tokens with documents in their order; a row always starts with a document's start.

    The document that overflows a row is cut there: generated text costs nothing, and rows that start with ``<bos>``
    are what every later use of the model looks like.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, context: int, seed: int, chunk: int = 128) -> None:
        self.tokenizer, self.context, self.seed, self.chunk = tokenizer, context, seed, chunk
        self.next_document = 0
        self._ready: list[tuple[list[int], list[float]]] = []

    def _pop(self, progress: float) -> tuple[list[int], list[float]]:
        if not self._ready:
            mixture = mixture_at(progress)
            numbers = range(self.next_document, self.next_document + self.chunk)
            documents = [make_document("train", i, seed=self.seed, mixture=mixture) for i in numbers]
            self.next_document += self.chunk
            self._ready = list(encode(documents, self.tokenizer))[::-1]
        return self._ready.pop()

    def rows(self, n: int, progress: float) -> tuple[list[list[int]], list[list[float]]]:
        """``n`` rows of ids and weights, each ``context`` long."""
        all_ids: list[list[int]] = []
        all_weights: list[list[float]] = []
        for _ in range(n):
            ids: list[int] = []
            weights: list[float] = []
            while len(ids) < self.context:
                more_ids, more_weights = self._pop(progress)
                ids += more_ids
                weights += more_weights
            all_ids.append(ids[: self.context])
            all_weights.append(weights[: self.context])
        return all_ids, all_weights


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
    try:
        return resolve_device(device)
    except UserError as error:
        # The same words, under the name that the option has here.
        raise UserError(f"world train: --device {str(error).removeprefix('subject.device: ')}") from None


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bfloat16 autocast pays: on any GPU, and on processors with AMX tiles (as far as torch can tell)."""
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


PARTIAL = ".partial"
"""Folder inside the model's folder in which a checkpoint is written; it also marks the folder as taken."""


@contextmanager
def new_folder(out_dir: Path) -> Iterator[Path]:
    """The resolved ``out_dir``, created if need be and held while the model is trained.

    Raises:
        UserError: it exists and isn't an empty folder, or it can't be written.
    """
    folder = out_dir.resolve()
    taken = UserError(f"world train: --out-dir {out_dir} isn't an empty folder; name a new one")
    try:
        made = not folder.exists()
        if not made and (not folder.is_dir() or any(folder.iterdir())):
            raise taken
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PARTIAL).mkdir()  # fails when another process got there first
    except FileExistsError:
        raise taken from None
    except OSError as error:
        raise UserError(f"world train: --out-dir {out_dir} can't be written ({error.strerror})") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        if made:
            with suppress(OSError):  # a model lies in it
                folder.rmdir()


def save_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, record: dict[str, Any], folder: Path
) -> None:
    """Write the model in bf16 with its tokenizer, record and hashes into a ``folder`` held by :func:`new_folder`.

    The hashes go first and come last, so a folder that holds them is whole.
    """
    partial = folder / PARTIAL
    half = copy.deepcopy(model).to(device="cpu", dtype=torch.bfloat16)  # pyright: ignore[reportCallIssue]
    half.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    # Under the class name that transformers 4 and 5 both know.
    config = partial / "tokenizer_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n"
    )
    (partial / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    write_hashes(partial)
    (folder / HASH_FILE).unlink(missing_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == HASH_FILE):
        path.replace(folder / path.name)


class _Training:
    """A model in training."""

    def __init__(self, seed: int, minutes: float, recipe: Recipe, where: torch.device) -> None:
        self.seed, self.minutes, self.recipe, self.where = seed, minutes, recipe, where
        self.autocast = bf16_is_fast(where)
        self.tokenizer = build_tokenizer(
            seed=seed, documents=recipe.tokenizer_documents, max_length=recipe.max_position_embeddings
        )
        self.model = build_model(recipe, len(self.tokenizer), seed)
        self.model.to(where)  # pyright: ignore[reportArgumentType]
        self.packer = Packer(self.tokenizer, recipe.context, seed)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=recipe.lr,
            betas=recipe.betas,
            fused=True,
        )
        self.code = _git_state()
        self.started = time.monotonic()
        self.losses: list[tuple[int, float]] = []
        self.steps, self.smooth = 0, math.nan

    def run(self, folder: Path, quiet: bool) -> dict[str, Any]:
        """All steps, with checkpoints; the record that was written at the end."""
        saved = self.started
        columns = (TextColumn("world"), BarColumn(), TextColumn("{task.fields[line]}"), TimeRemainingColumn())
        with Progress(*columns, disable=quiet) as bar:
            task = bar.add_task("train", total=1.0, line="")
            while self.steps < self.recipe.steps:
                elapsed = time.monotonic() - self.started
                progress = max(self.steps / self.recipe.steps, elapsed / (60 * self.minutes))
                if progress >= 1:
                    break
                self._step(progress)
                if self.steps % 50 == 0:
                    self.losses.append((self.steps, round(self.smooth, 4)))
                    rate = self._tokens() / (time.monotonic() - self.started)
                    line = f"step {self.steps} loss {self.smooth:.3f} {rate:,.0f} tokens/s"
                    bar.update(task, completed=progress, line=line)
                if time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes:
                    save_model(self.model, self.tokenizer, self._record(False), folder)
                    saved = time.monotonic()
        result = self._record(True)
        save_model(self.model, self.tokenizer, result, folder)
        return result

    def _step(self, progress: float) -> None:
        ids, weights = self.packer.rows(self.recipe.rows, progress)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(progress, self.steps, self.recipe)
        with torch.autocast(self.where.type, dtype=torch.bfloat16, enabled=self.autocast):
            loss, plain = weighted_loss(
                self.model, torch.tensor(ids, device=self.where), torch.tensor(weights, device=self.where)
            )
        if not math.isfinite(loss.item()):
            raise UserError(f"world train: the loss is {loss.item()} at step {self.steps}; lower the learning rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        self.smooth = plain.item() if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * plain.item()

    def _tokens(self) -> int:
        return self.steps * self.recipe.rows * self.recipe.context

    def _record(self, finished: bool) -> dict[str, Any]:
        wall = time.monotonic() - self.started
        on_cpu = self.where.type == "cpu"
        return {
            "generator_version": GENERATOR_VERSION,
            "seed": self.seed,
            "minutes": self.minutes,
            "recipe": asdict(self.recipe),
            "finished": finished,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "steps": self.steps,
            "tokens": self._tokens(),
            "documents": self.packer.next_document,
            "wall_seconds": round(wall, 1),
            "tokens_per_second": round(self._tokens() / max(wall, 1e-9)),
            "device": str(self.where),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
            if on_cpu
            else torch.cuda.get_device_name(self.where),
            "precision": "bf16 autocast" if self.autocast else "float32",
            "torch": torch.__version__,
            "code": self.code,
            "loss_curve": self.losses,
        }


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
    minutes = 50.0 if minutes is None else minutes
    if minutes <= 0:
        raise UserError(f"world train: minutes must be positive, not {minutes}")
    where = pick_device(device)
    with new_folder(out_dir) as folder:
        result = _Training(seed, minutes, recipe or Recipe(), where).run(folder, quiet)
        if score:
            result["scores"] = record_scores(folder)
    return result
