"""Prompts as tokens, and how likely the subject finds an answer, with the activation at the entity changed or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, DenseCodes, SparseCodes
from chronosae.evals.ravel.data import ENTITY, AttributeSet
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench
from chronosae.kernels import scatter_dense

SEQUENCES = 128
"""Sequences a forward pass."""


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
    place: Int[Tensor, " prompts"]
    """The entity's last token."""
    answers: dict[str, tuple[int, ...]]
    """Tokens of each value, the space before it included."""


@dataclass(frozen=True)
class Change:
    """What becomes of the activation at the entity's last token."""

    values: Float[Tensor, "sequences d_in"]
    replace: bool
    """True: it becomes `values`; False: `values` is added to it."""


def read_prompts(bench: Workbench, data: AttributeSet, templates: int, context: int) -> Prompts:
    """All prompts that fit into the context and whose entity ends at a token that autoencoders see."""
    asked, texts, ends = [], [], []
    for attribute, prompts in data.prompts.items():
        for number, prompt in enumerate(prompts[:templates]):
            for entity in data.values[attribute]:
                asked.append(Prompt(entity, attribute, number))
                texts.append(prompt.replace(ENTITY, entity))
                ends.append(prompt.index(ENTITY) + len(entity))
    rows = bench.read(texts, context)
    spans = [rows.span(i, end - 1, end) for i, end in enumerate(ends)]
    place = torch.tensor([span[-1] if span else 0 for span in spans])
    fits = torch.tensor([bool(span) for span in spans]) & ~rows.truncated & rows.mask[torch.arange(len(ends)), place]
    kept = fits.nonzero().squeeze(1)
    values = sorted({value for by_entity in data.values.values() for value in by_entity.values()})
    ids = bench.subject.tokenizer([f" {value}" for value in values], add_special_tokens=False)["input_ids"]
    return Prompts(
        tuple(asked[i] for i in kept.tolist()),
        rows.rows(kept),
        place[kept],
        {value: tuple(tokens) for value, tokens in zip(values, ids, strict=True)},
    )


def codes_at_entities(
    bench: Workbench, prompts: Prompts, saes: Mapping[str, Autoencoder], what: str
) -> tuple[Float[Tensor, "prompts d_in"], dict[str, DenseCodes]]:
    """Raw activations, and codes `[prompts, d_sae]` of each autoencoder, at the entities' last tokens.

    Whole prompts are encoded; the tokens are picked afterwards.
    """
    acts = torch.zeros(len(prompts.asked), bench.subject.info.d_model)
    parts: dict[str, list[tuple[Tensor, Tensor | None]]] = {name: [] for name in saes}
    order = []
    for part, codes in bench.encoded(prompts.rows, saes, what):
        at = (torch.arange(len(part.index)), prompts.place[part.index])
        order.append(part.index)
        acts[part.index] = part.batch.acts.cpu()[at]
        for name, code in codes.items():
            scale = None if code.scale is None else code.scale.cpu()[at]
            parts[name].append((_dense_at(code, at).cpu(), scale))
    back = torch.cat(order).argsort()
    found = {}
    for name, pieces in parts.items():
        scales = [scale for _, scale in pieces if scale is not None]
        found[name] = DenseCodes(torch.cat([v for v, _ in pieces])[back], torch.cat(scales)[back] if scales else None)
    return acts, found


def _dense_at(codes: Codes, at: tuple[Tensor, Tensor]) -> Tensor:
    where = tuple(index.to(codes.values.device) for index in at)
    if isinstance(codes, SparseCodes):
        return scatter_dense(codes.indices[where], codes.values[where], codes.d_sae)
    return codes.values[where]


def log_likelihood(
    bench: Workbench,
    prompts: Prompts,
    which: Int[Tensor, " sequences"],
    answers: Sequence[str],
    change: Change | None = None,
) -> Float[Tensor, " sequences"]:
    """Log-probability (nats, summed over tokens) of each answer after its prompt; gradients flow to `change`."""
    found = []
    for start in range(0, len(which), SEQUENCES):
        part = slice(start, start + SEQUENCES)
        some = None if change is None else Change(change.values[part], change.replace)
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
    at = (torch.arange(len(which), device=device), prompts.place[which].to(device))

    def edit(acts: Tensor) -> Tensor:
        assert change is not None
        new = change.values.to(acts)
        return acts.index_put(at, new if change.replace else acts[at] + new)

    edits = {} if change is None else {bench.site: edit}
    logits = subject.run_with(tokens, edits, real)[:, :-1].float()
    log_p = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None].to(device)).squeeze(-1)
    return (log_p * answer[:, 1:].to(device)).sum(1).cpu()
