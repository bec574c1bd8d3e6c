"""Whole contexts with their codes: as an autoencoder should see them, or as SAEBench shows them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder, Codes
from chronosae.evals.pooling import pool_codes, pool_dense
from chronosae.evals.scr_tpp.options import Protocol
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import PASS_TOKENS, Workbench, encode, evaluating


@dataclass(frozen=True)
class Context:
    """Some texts at the site, with the codes of each autoencoder."""

    index: Int[Tensor, " batch"]
    """Which of all texts these are."""
    batch: SequenceBatch
    """What was encoded; its mask says where vectors are changed when features are zeroed."""
    seen: Bool[Tensor, "batch pos"]
    """The tokens that are pooled over."""
    codes: Mapping[str, Codes]

    @property
    def raw(self) -> Float[Tensor, "batch d_in"]:
        """Mean activation of each text."""
        return pool_dense(self.batch.acts, self.seen, "mean")

    def pooled(self, codes: Codes) -> Float[Tensor, "batch d_sae"]:
        """Mean of these codes over the pooled tokens."""
        return pool_codes(codes, self.seen.to(codes.values.device), "mean").float()

    def removable(self, codes: Codes) -> Float[Tensor, "batch d_sae"]:
        """What zeroing features takes out of the pooled vector, in units of these codes.

        The same as `pooled`, save that SAEBench sums over what it changed at special tokens and padding too.
        """
        mask = self.batch.mask
        total = pool_codes(codes, mask.to(codes.values.device), "mean").float()
        share = mask.sum(1) / self.seen.sum(1).clamp(min=1)
        return total * share.unsqueeze(1).to(total)


def contexts(
    bench: Workbench, rows: TokenRows, saes: Mapping[str, Autoencoder], protocol: Protocol, what: str, context: int
) -> Iterator[Context]:
    """All texts, each once, with the codes of all autoencoders.

    Arguments:
        context: SAEBench's protocol fills every text up with zeros to so many tokens.
    """
    if protocol == "chronosae":
        for part, codes in bench.encoded(rows, saes, what):
            yield Context(part.index, part.batch, part.batch.mask, codes)
        return
    with torch.no_grad(), evaluating(saes):
        for part in bench.batches(rows.showing(rows.real & ~_special(bench, rows)), what):
            # Filled up to the context, many short texts would be far more tokens than there were.
            for some in torch.arange(len(part.index)).split(max(1, PASS_TOKENS // context)):
                batch, seen = _zeroed(part.batch, some, context)
                codes = {name: encode(sae, batch) for name, sae in saes.items()}
                yield Context(part.index[some], batch, seen, codes)


def in_raw_units(sae: Autoencoder, codes: Codes) -> Codes:
    """Codes for which `sum over f of code_f W_dec_f` is their share of the decoded activation itself."""
    if codes.scale is not None:
        return replace(codes, values=codes.values / codes.scale.unsqueeze(-1))
    return replace(codes, values=codes.values / sae.cfg.normalisation.factor)


def _special(bench: Workbench, rows: TokenRows) -> Bool[Tensor, "rows pos"]:
    tokenizer = bench.subject.tokenizer
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    return torch.isin(rows.tokens, torch.tensor(sorted(special), dtype=rows.tokens.dtype))


def _zeroed(
    batch: SequenceBatch, some: Int[Tensor, " n"], context: int
) -> tuple[SequenceBatch, Bool[Tensor, "n context"]]:
    """Zeros in place of masked vectors, up to `context` tokens, and no mask that would tell them from others."""
    seen = batch.mask[some]
    room = context - seen.shape[1]
    seen = functional.pad(seen, (0, room))
    acts = functional.pad(batch.acts[some], (0, 0, 0, room)).masked_fill(~seen.unsqueeze(-1), 0.0)
    tokens = functional.pad(batch.tokens[some], (0, room))
    zeroed = SequenceBatch(
        acts=acts,
        mask=torch.ones_like(seen),
        tokens=tokens,
        positions=torch.arange(context, device=tokens.device).expand_as(tokens),
        doc_ids=torch.zeros_like(tokens),
        source=batch.source[: len(some)],
    )
    return zeroed, seen
