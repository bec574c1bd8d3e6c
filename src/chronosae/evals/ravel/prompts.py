"""Prompts as tokens, and how likely the subject finds an answer, with the activation at the entity changed or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from chronosae.autoencoders import Autoencoder, Codes, DenseCodes, SparseCodes
from chronosae.evals.ravel.data import ENTITY, AttributeSet
from chronosae.evals.ravel.options import RavelOptions
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench
from chronosae.kernels import scatter_dense

SEQUENCES, LOGITS = 128, 2**28
"""Sequences a forward pass, and numbers in its logits, at most."""


@dataclass(frozen=True)
class Prompt:
    """Which question a row of tokens asks."""

    entity: str
    attribute: str
    template: int


@dataclass(frozen=True)
class Prompts:
    """Every prompt of a set of entities."""

    asked: tuple[Prompt, ...]
    rows: TokenRows
    places: Int[Tensor, "prompts span"]
    """The entity's tokens, the last one last; where a name is shorter than the longest, words before it. -1: no token
    that autoencoders see."""
    length: Int[Tensor, " prompts"]
    """Tokens of the entity's name."""
    answers: dict[str, tuple[int, ...]]
    """Tokens of each value, the space before it included."""

    def align(self, a: int, b: int) -> bool:
        """Both have a token for each token of the longer name."""
        longer = int(torch.maximum(self.length[a], self.length[b]))
        return bool((self.places[[a, b], -longer:] >= 0).all())


@dataclass(frozen=True)
class Change:
    """What becomes of the activations at the entity's tokens."""

    values: Float[Tensor, "sequences span d_in"]
    where: Bool[Tensor, "sequences span"]
    """Tokens that change."""
    replace: bool
    """True: they become `values`; False: `values` are added to them."""

    def at(self, which: slice | Int[Tensor, " some"]) -> "Change":
        """The change of some sequences."""
        return Change(self.values[which], self.where[which], self.replace)


def read_prompts(bench: Workbench, data: AttributeSet, options: RavelOptions) -> Prompts:
    """All prompts that fit into the context and whose entity ends at a token that autoencoders see."""
    asked, texts, names = [], [], []
    for attribute, prompts in data.prompts.items():
        for number, prompt in enumerate(prompts[: options.templates]):
            for entity in data.values[attribute]:
                asked.append(Prompt(entity, attribute, number))
                texts.append(prompt.replace(ENTITY, entity))
                start = prompt.index(ENTITY)
                names.append((start, start + len(entity)))
    rows = bench.read(texts, options.context)
    spans = [rows.span(i, *name) for i, name in enumerate(names)]
    last = torch.tensor([span[-1] if span else 0 for span in spans])
    fits = torch.tensor([bool(span) for span in spans]) & ~rows.truncated & rows.mask[torch.arange(len(last)), last]
    kept = fits.nonzero().squeeze(1)
    length = torch.tensor([1 if options.last_only else len(span) for span in spans])[kept]
    values = sorted({value for by_entity in data.values.values() for value in by_entity.values()})
    ids = bench.subject.tokenizer([f" {value}" for value in values], add_special_tokens=False)["input_ids"]
    return Prompts(
        tuple(asked[i] for i in kept.tolist()),
        rows.rows(kept),
        _places(rows.mask[kept], last[kept], int(length.max()) if len(length) else 1),
        length,
        {value: tuple(tokens) for value, tokens in zip(values, ids, strict=True)},
    )


def _places(seen: Bool[Tensor, "prompts pos"], last: Int[Tensor, " prompts"], span: int) -> Tensor:
    places = last.unsqueeze(1) - torch.arange(span - 1, -1, -1)
    visible = (places >= 0) & seen.gather(1, places.clamp(min=0))
    return torch.where(visible, places, -1)


def codes_at_entities(
    bench: Workbench, prompts: Prompts, saes: Mapping[str, Autoencoder], what: str
) -> tuple[Float[Tensor, "prompts span d_in"], dict[str, Codes]]:
    """Raw activations, and codes `[prompts, span, ...]` of each autoencoder, at the entities' tokens, on the CPU.

    Whole prompts are encoded; the tokens are picked afterwards.
    """
    acts = torch.zeros(*prompts.places.shape, bench.subject.info.d_model)
    parts: dict[str, list[Codes]] = {name: [] for name in saes}
    order = []
    for part, codes in bench.encoded(prompts.rows, saes, what):
        # A place of no token is never exchanged; it holds the last position's values.
        at = (torch.arange(len(part.index)).unsqueeze(1), prompts.places[part.index])
        order.append(part.index)
        acts[part.index] = part.batch.acts.cpu()[at]
        for name, code in codes.items():
            parts[name].append(_picked(code, at))
    back = torch.cat(order).argsort()
    return acts, {name: _joined(pieces, back) for name, pieces in parts.items()}


def _picked(codes: Codes, at: tuple[Tensor, Tensor]) -> Codes:
    """Codes of some tokens, on the CPU."""
    where = tuple(index.to(codes.values.device) for index in at)
    values = codes.values[where].cpu()
    scale = None if codes.scale is None else codes.scale[where].cpu()
    if isinstance(codes, SparseCodes):
        return SparseCodes(values, scale, codes.indices[where].cpu(), codes.n_features)
    return DenseCodes(values, scale)


def _joined(pieces: Sequence[Codes], order: Int[Tensor, " prompts"]) -> Codes:
    """One `Codes` of all pieces, in another order."""
    slots = max(piece.values.shape[-1] for piece in pieces)

    def cat(tensors: Sequence[Tensor]) -> Tensor:
        # Unused slots come first.
        return torch.cat([pad(tensor, (slots - tensor.shape[-1], 0)) for tensor in tensors])[order]

    scales = [piece.scale for piece in pieces if piece.scale is not None]
    scale = torch.cat(scales)[order] if scales else None
    sparse = [piece for piece in pieces if isinstance(piece, SparseCodes)]
    values = cat([piece.values for piece in pieces])
    if sparse:
        return SparseCodes(values, scale, cat([piece.indices for piece in sparse]), sparse[0].n_features)
    return DenseCodes(values, scale)


def dense_rows(codes: Codes, which: Int[Tensor, " n"]) -> Float[Tensor, "n span d_sae"]:
    """All codes of some prompts: only as many are held at once as are exchanged."""
    if isinstance(codes, SparseCodes):
        return scatter_dense(codes.indices[which], codes.values[which], codes.n_features)
    return codes.values[which]


def log_likelihood(
    bench: Workbench,
    prompts: Prompts,
    which: Int[Tensor, " sequences"],
    answers: Sequence[str],
    change: Change | None = None,
) -> Float[Tensor, " sequences"]:
    """Log-probability (nats, summed over tokens) of each answer after its prompt; gradients flow to `change`."""
    found = []
    longest = prompts.rows.tokens.shape[1] + max(map(len, prompts.answers.values()), default=0)
    at_once = max(1, min(SEQUENCES, LOGITS // (longest * bench.subject.vocab_size)))
    for start in range(0, len(which), at_once):
        part = slice(start, start + at_once)
        some = None if change is None else change.at(part)
        found.append(_log_likelihood(bench, prompts, which[part], answers[part], some))
    return torch.cat(found) if found else torch.zeros(0)


def _log_likelihood(
    bench: Workbench, prompts: Prompts, which: Tensor, answers: Sequence[str], change: Change | None
) -> Tensor:
    subject, device = bench.subject, bench.subject.device
    lengths = prompts.rows.lengths[which]
    tails = [prompts.answers[answer] for answer in answers]
    width = int(max(n + len(tail) for n, tail in zip(lengths.tolist(), tails, strict=True)))
    tokens = torch.zeros(len(which), width, dtype=torch.long)
    answer = torch.zeros(len(which), width, dtype=torch.bool)
    real = torch.zeros(len(which), width, dtype=torch.bool)
    for i, (row, n, tail) in enumerate(zip(which.tolist(), lengths.tolist(), tails, strict=True)):
        tokens[i, :n] = prompts.rows.tokens[row, :n]
        tokens[i, n : n + len(tail)] = torch.tensor(tail)
        answer[i, n : n + len(tail)] = True
        real[i, : n + len(tail)] = True

    def edit(acts: Tensor) -> Tensor:
        assert change is not None
        where = change.where.nonzero(as_tuple=True)
        at = (where[0].to(device), prompts.places[which][where].to(device))
        new = change.values.to(acts)[change.where.to(device)]
        return acts.index_put(at, new if change.replace else acts[at] + new)

    edits = {} if change is None else {bench.site: edit}
    logits = subject.run_with(tokens, edits, real)[:, :-1].float()
    log_p = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None].to(device)).squeeze(-1)
    return (log_p * answer[:, 1:].to(device)).sum(1).cpu()
