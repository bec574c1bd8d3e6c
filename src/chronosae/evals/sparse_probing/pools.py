"""One vector a text, as each protocol makes it."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.evals.pooling import RAW, pool_codes, pool_dense, pooled
from chronosae.evals.sparse_probing.options import SparseProbingOptions
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench, encode, evaluating


def text_vectors(
    bench: Workbench, rows: TokenRows, saes: Mapping[str, Autoencoder], options: SparseProbingOptions, what: str
) -> dict[str, Float[Tensor, "rows width"]]:
    """A vector a text for each autoencoder, and for the raw activations under `RAW`; float32 on the CPU."""
    if options.protocol != "saebench":
        return pooled(bench, rows, saes, options.pool, what)
    shown = rows.showing(ordinary(rows, bench))
    if not options.zero_special:
        return pooled(bench, shown, saes, options.pool, what)
    return zeroed_means(bench, shown, saes, min(options.context, bench.subject.max_context), what)


def ordinary(rows: TokenRows, bench: Workbench) -> Bool[Tensor, "rows pos"]:
    """What SAEBench counts: every token but BOS, EOS and padding; the first position too where there is no BOS."""
    tokenizer = bench.subject.tokenizer
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    return rows.real & ~torch.isin(rows.tokens, torch.tensor(sorted(special), dtype=rows.tokens.dtype))


def zeroed_means(
    bench: Workbench, rows: TokenRows, saes: Mapping[str, Autoencoder], context: int, what: str
) -> dict[str, Float[Tensor, "rows width"]]:
    """SAEBench's vectors: masked positions are zeroed *before* encoding, every text is padded to the context, and the
    autoencoder is told of no mask; the codes are then averaged over the positions that weren't zeroed.

    What comes after a text can't change its codes where the autoencoder is causal: there the padding is left out.
    """
    widths = {RAW: bench.subject.info.d_model} | {name: sae.d_sae for name, sae in saes.items()}
    found = {name: torch.zeros(len(rows), width) for name, width in widths.items()}
    with torch.no_grad(), evaluating(saes):
        for part in bench.batches(rows, what):
            found[RAW][part.index] = pool_dense(part.batch.acts, part.batch.mask, "mean").cpu()
            for name, sae in saes.items():
                batch, kept = zeroed(part.batch, part.batch.mask.shape[1] if sae.causal else context)
                codes = encode(sae, batch)
                found[name][part.index] = pool_codes(codes, kept.to(codes.values.device), "mean").float().cpu()
    return found


def zeroed(batch: SequenceBatch, context: int) -> tuple[SequenceBatch, Bool[Tensor, "batch pos"]]:
    """The batch with zero vectors for masked positions, padded to `context` and wholly unmasked; and its old mask."""
    more = context - batch.mask.shape[1]
    kept = pad(batch.mask, (0, more))
    tokens = pad(batch.tokens, (0, more))
    changed = SequenceBatch(
        acts=pad(batch.acts * batch.mask.unsqueeze(-1), (0, 0, 0, more)),
        mask=torch.ones_like(kept),
        tokens=tokens,
        positions=torch.arange(context, device=tokens.device).expand_as(tokens),
        doc_ids=torch.zeros_like(tokens),
        source=batch.source,
    )
    return changed, kept
