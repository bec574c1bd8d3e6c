"""Activations and codes at one token of each word: whole prompts are encoded, then the position is chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.config import UserError
from chronosae.evals.absorption.prompts import Prompt
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench


@dataclass(frozen=True)
class AtWords:
    """What stands at the chosen token of each word; one entry a word, on the CPU."""

    letters: Int[Tensor, " words"]
    """Index of the first letter among the evaluated letters."""
    units: Int[Tensor, " words"]
    """Words with the same number look the same to the subject up to the chosen token."""
    acts: Float[Tensor, "words d_in"]
    codes: Mapping[str, SparseCodes]
    """By autoencoder; `scale` is what a code of 1 is worth in raw activations, [words]."""

    def __len__(self) -> int:
        return len(self.letters)


@dataclass(frozen=True)
class Read:
    """All parts of the words."""

    train: AtWords
    test: AtWords
    again: AtWords
    """The test words in the prompts on which absorption is measured: `test` itself, or others (SAEBench)."""


def read_prompts(bench: Workbench, prompts: Sequence[Prompt]) -> TokenRows:
    """The prompts as token rows.

    Raises:
        UserError: one of them is longer than the subject's context.
    """
    rows = bench.read([prompt.text for prompt in prompts], bench.subject.max_context)
    if rows.truncated.any():
        raise UserError(
            f"evals.absorption.examples: a prompt is longer than the subject's {bench.subject.max_context} tokens;"
            " ask for fewer examples"
        )
    return rows


def word_tokens(rows: TokenRows, prompts: Sequence[Prompt], which: str) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Position of each word's `first` or `last` token, and the word's tokens up to it.

    Raises:
        UserError: autoencoders don't see that token.
    """
    spans = [rows.span(i, prompt.start, prompt.end) for i, prompt in enumerate(prompts)]
    ends = [1 if which == "first" else len(span) for span in spans]
    positions = torch.tensor([span[end - 1] for span, end in zip(spans, ends, strict=True)])
    if not rows.mask[torch.arange(len(rows)), positions].all():
        raise UserError(
            "evals.absorption.examples: without examples the word stands where autoencoders see nothing (the first"
            " position); ask for at least one example"
        )
    return positions, [
        tuple(rows.tokens[i, s[:end]].tolist()) for i, (s, end) in enumerate(zip(spans, ends, strict=True))
    ]


def read_words(
    bench: Workbench,
    rows: TokenRows,
    positions: Int[Tensor, " words"],
    letters: Int[Tensor, " words"],
    units: Int[Tensor, " words"],
    saes: Mapping[str, Autoencoder],
    what: str,
) -> AtWords:
    """Activations, and codes of every autoencoder, at `positions` of whole prompts."""
    acts = torch.zeros(len(rows), bench.subject.info.d_model)
    parts: dict[str, list[SparseCodes]] = {name: [] for name in saes}
    order: list[Tensor] = []
    for part, codes in bench.encoded(rows, saes, what):
        here = positions[part.index]
        acts[part.index] = part.batch.acts[torch.arange(len(here)), here].float().cpu()
        order.append(part.index)
        for name, code in codes.items():
            parts[name].append(codes_at(saes[name], code, here))
    back = torch.cat(order).argsort()
    return AtWords(letters, units, acts, {name: _joined(found, back) for name, found in parts.items()})


def codes_at(sae: Autoencoder, codes: Codes, positions: Int[Tensor, " batch"]) -> SparseCodes:
    """Codes at one position of each sequence, with as many slots as the fullest needs, on the CPU."""
    positions = positions.to(codes.values.device)
    rows = torch.arange(len(positions), device=positions.device)
    values = codes.values[rows, positions].detach().float()
    if isinstance(codes, SparseCodes):
        indices = codes.indices[rows, positions]
    else:
        slots = max(1, int((values != 0).sum(-1).max()))
        indices = values.abs().topk(slots, dim=-1).indices.sort(dim=-1).values
        values = values.gather(-1, indices)
    worth = torch.full_like(values[:, 0], 1 / sae.cfg.normalisation.factor)
    if codes.scale is not None:
        worth = 1 / codes.scale[rows, positions].float()
    return SparseCodes(values.cpu(), worth.cpu(), indices.cpu(), codes.d_sae)


def _joined(parts: Sequence[SparseCodes], order: Int[Tensor, " words"]) -> SparseCodes:
    slots = max(part.values.shape[1] for part in parts)
    values, indices = (
        torch.cat([pad(getattr(part, name), (0, slots - part.values.shape[1])) for part in parts])[order]
        for name in ("values", "indices")
    )
    scales = [part.scale for part in parts if part.scale is not None]
    return SparseCodes(values, torch.cat(scales)[order], indices, parts[0].n_features)
