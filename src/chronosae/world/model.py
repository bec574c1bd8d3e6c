"""The world's language model: its folder with an integrity check, and what it knows.

Scored are accuracy by subject and format, spelling of held-out words, chains, and validation loss.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronosae.config.errors import UserError
from chronosae.world.chains import CHAINS, GAP_CLASSES
from chronosae.world.corpus import make_document
from chronosae.world.knowledge import SUBJECTS
from chronosae.world.multiple_choice import Question, letter_prompt, likelihood_prompt, questions
from chronosae.world.spelling import LETTERS, prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HASH_FILE = "SHA256SUMS"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_hashes(folder: Path) -> None:
    """Write ``SHA256SUMS`` (readable by ``sha256sum -c``) over every other file of the folder."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != HASH_FILE)
    (folder / HASH_FILE).write_text("".join(f"{_sha256(folder / name)}  {name}\n" for name in names))


def check_hashes(folder: Path) -> None:
    """Raise a one-line error that names the first file that is missing or differs from ``SHA256SUMS``."""
    sums = folder / HASH_FILE
    if not sums.is_file():
        raise UserError(f"world model: {sums} is missing; train one with `chronosae world train`")
    for line in sums.read_text().splitlines():
        expected, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            raise UserError(f"world model: {path} is missing; reinstall the package")
        if _sha256(path) != expected:
            raise UserError(
                f"world model: {path} is damaged (its sha256 is not the recorded one); reinstall the package"
            )


def model_folder() -> Path:
    """The folder of the shipped model (weights, tokenizer, ``training.json``), its hashes checked."""
    folder = Path(__file__).parent / "data"
    check_hashes(folder)
    return folder


FORMATS = {"likelihood": likelihood_prompt, "letter": letter_prompt}


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson interval of a proportion."""
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion(hits: int, n: int) -> dict[str, Any]:
    """Accuracy with n and its interval."""
    low, high = wilson(hits, n)
    return {"accuracy": round(hits / n, 4) if n else math.nan, "n": n, "interval95": [round(low, 4), round(high, 4)]}


def continuation_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[tuple[str, Sequence[str]]],
    batch: int = 64,
) -> list[list[float]]:
    """Log-likelihood (nats, summed over tokens) of every continuation of every prompt."""
    import torch

    prompts_ids = tokenizer([prompt for prompt, _ in items]).input_ids
    full_ids = tokenizer([prompt + c for prompt, continuations in items for c in continuations]).input_ids
    owner = [i for i, (_, continuations) in enumerate(items) for _ in continuations]
    rows = [(prompts_ids[i], full) for i, full in zip(owner, full_ids, strict=True)]
    if all(len(full) == len(prompt) + 1 for prompt, full in rows):
        return _next_token_scores(model, items, prompts_ids, [full[-1] for full in full_ids], batch)
    flat: list[float] = [0.0] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i][1]))
    for start in range(0, len(rows), batch):
        chosen = by_length[start : start + batch]
        longest = max(len(rows[i][1]) for i in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        wanted = torch.zeros(len(chosen), longest, dtype=torch.bool)
        for row, i in enumerate(chosen):
            prompt, full = rows[i]
            ids[row, : len(full)] = torch.tensor(full)
            wanted[row, len(prompt) : len(full)] = True
        ids = ids.to(model.device)
        with torch.no_grad():
            # Padding stands on the right, so causal attention keeps it from changing anything before it.
            logits = model(input_ids=ids).logits[:, :-1].float()
        logp = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).squeeze(-1).cpu()
        totals = (logp * wanted[:, 1:]).sum(-1).tolist()
        for i, total in zip(chosen, totals, strict=True):
            flat[i] = total
    result: list[list[float]] = []
    for _, continuations in items:
        result.append(flat[: len(continuations)])
        flat = flat[len(continuations) :]
    return result


def _next_token_scores(
    model: PreTrainedModel,
    items: Sequence[tuple[str, Sequence[str]]],
    prompts_ids: list[list[int]],
    next_ids: list[int],
    batch: int,
) -> list[list[float]]:
    """The same when every continuation is one token: one pass a prompt instead of one a continuation."""
    import torch

    wanted: list[list[int]] = []
    for _, continuations in items:
        wanted.append(next_ids[: len(continuations)])
        next_ids = next_ids[len(continuations) :]
    result: list[list[float]] = [[]] * len(items)
    by_length = sorted(range(len(items)), key=lambda i: len(prompts_ids[i]))
    for start in range(0, len(items), batch):
        chosen = by_length[start : start + batch]
        ids = torch.zeros(len(chosen), len(prompts_ids[chosen[-1]]), dtype=torch.long)
        for row, i in enumerate(chosen):
            ids[row, : len(prompts_ids[i])] = torch.tensor(prompts_ids[i])
        last = torch.tensor([len(prompts_ids[i]) - 1 for i in chosen])
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device)).logits.float().cpu()
        logp = torch.log_softmax(logits[torch.arange(len(chosen)), last], -1)
        for row, i in enumerate(chosen):
            result[i] = logp[row, wanted[i]].tolist()
    return result


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Question], form: str = "likelihood"
) -> list[int]:
    """The option the model prefers for each question, in ``likelihood`` or ``letter`` format."""
    scores = continuation_scores(model, tokenizer, [FORMATS[form](q) for q in asked])
    return [max(range(4), key=row.__getitem__) for row in scores]


def validation_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: int = 300) -> float:
    """Mean loss in nats a token on the first documents of the validation split."""
    texts = [make_document("valid", i).text for i in range(documents)]
    scores = continuation_scores(model, tokenizer, [("", (text,)) for text in texts], batch=16)
    tokens = sum(len(tokenizer(text).input_ids) - 1 for text in texts)
    return -sum(row[0] for row in scores) / tokens


def spelling_accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Held-out words whose first letter is the model's first choice among all letters."""
    options = [f" {letter.upper()}" for letter in LETTERS]
    items = [item for letter in LETTERS for item in prompts(letter)]
    scores = continuation_scores(model, tokenizer, [(prompt, options) for prompt, _ in items], batch=256)
    hits = sum(
        options[max(range(len(row)), key=row.__getitem__)] == right
        for row, (_, right) in zip(scores, items, strict=True)
    )
    return proportion(hits, len(items))


def chain_accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: int = 240) -> dict[str, Any]:
    """By gap class: how often the chain's true effect is likelier, after its text so far, than the chain's others."""
    tables = {f"{chain.gap}/{chain.name}": list(chain.pairs.values()) for chain in CHAINS}
    notes: list[str] = []
    items: list[tuple[str, list[str]]] = []
    right: list[int] = []
    for i in range(documents):
        document = make_document("test", i, kind=("story", "letter")[i % 2])
        for a in document.annotations:
            # A space belongs to the token after it, so the prompt ends before the space.
            if a.label == "chain_effect" and document.text[a.start - 1] == " ":
                notes.append(a.note.split("/")[0])
                items.append((document.text[: a.start - 1], [f" {effect}" for effect in tables[a.note]]))
                right.append(tables[a.note].index(document.text[a.start : a.end]))
    scores = continuation_scores(model, tokenizer, items, batch=32)
    hits = [max(range(len(row)), key=row.__getitem__) == r for row, r in zip(scores, right, strict=True)]
    return {
        gap: proportion(sum(h for h, n in zip(hits, notes, strict=True) if n == gap), notes.count(gap))
        for gap in GAP_CLASSES
    }


def record_scores(folder: Path) -> dict[str, Any]:
    """Score a model folder and store the result in its ``training.json``."""
    scores = score_world(folder)
    path = folder / "training.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scores": scores}, indent=2) + "\n")
    write_hashes(folder)
    return scores


def load(folder: Path | None, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (float32, evaluation mode) and tokenizer of a model folder; the shipped one if ``folder`` is ``None``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if folder is None:
        folder = model_folder()
    else:
        check_hashes(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    model.eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def score_world(
    folder: Path | None = None,
    *,
    formats: Sequence[str] = ("likelihood", "letter"),
    limit: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    extras: bool = True,
) -> dict[str, Any]:
    """Accuracy of a model folder per format and subject, on held-out wordings only.

    ``limit`` takes that many random questions a subject instead of all of them. The result holds, per format and
    subject, ``accuracy``, ``n`` and ``interval95``; with ``extras`` also ``spelling``, the same on held-out words,
    ``chains`` by gap class, and ``validation_loss`` in nats a token.
    """
    for form in formats:
        if form not in FORMATS:
            raise UserError(f"world score: format must be one of {', '.join(FORMATS)}, not {form!r}")
    model, tokenizer = load(folder, device)
    result: dict[str, Any] = {}
    for form in formats:
        result[form] = {}
        for subject in SUBJECTS:
            asked: Sequence[Question] = questions(subject)
            if limit is not None and limit < len(asked):
                asked = random.Random(f"score/{seed}/{subject}").sample(list(asked), limit)
            got = answers(model, tokenizer, asked, form)
            result[form][subject] = proportion(sum(g == q.answer for g, q in zip(got, asked, strict=True)), len(asked))
    if extras:
        result["spelling"] = spelling_accuracy(model, tokenizer)
        result["chains"] = chain_accuracy(model, tokenizer)
        result["validation_loss"] = round(validation_loss(model, tokenizer), 4)
    return result
