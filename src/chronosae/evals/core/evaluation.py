"""The core evaluation: SAEBench's core metrics by SAEBench's definitions, for several autoencoders in one pass.

First every autoencoder's reconstruction over `tokens` tokens, which also gives the site's mean; then, over the first
`behaviour_tokens` of them, what the subject makes of each reconstruction. The clean pass and both ablations run once.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.config import CoreEvalConfig, UserError
from chronosae.evals.core.data import (
    CoreData,
    Kept,
    PCALine,
    Reconstructed,
    SiteSpread,
    SpreadSums,
    bare,
    take,
    unmasked,
)
from chronosae.evals.core.measure import (
    MEAN,
    ZERO,
    BehaviourSums,
    BehaviourTotals,
    Measured,
    MeasuredSAE,
    SAESums,
    edit_key,
)
from chronosae.evals.core.report import report
from chronosae.evals.evaluation import EVALUATIONS, EvalResult, Evaluation
from chronosae.evals.workbench import Workbench, encode, evaluating

Batches = Callable[[int], Iterator[SequenceBatch]]
"""Tokens wanted -> batches of held-out sequences at the site, the same ones from the start at every call."""


@EVALUATIONS.add
class Core(CoreEvalConfig, Evaluation):
    """What reconstructions keep of the activations and of what the subject does with them, and how sparse codes are."""

    name = "core"
    eval_type_id = "core"
    headline: ClassVar = {"explained_variance": "FVE", "ce_loss_score": "CE rec."}
    undefined = -1
    own_text = True

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """See `docs/evaluations/core.md`.

        Raises:
            UserError: no unmasked token to evaluate on; activations or clean logits with NaN or Inf.
        """
        measured = measure(saes, bench, self)
        return {name: report(name, measured, self, bench) for name in saes}


@torch.no_grad()
def measure(saes: Mapping[str, Autoencoder], bench: Workbench, options: CoreEvalConfig) -> Measured:
    """Both passes over the held-out text of `bench`; a batch here is what SAEBench calls a batch."""
    assert saes, "no autoencoder to evaluate"
    heldout = bench.heldout
    if heldout is None:
        raise ValueError("core reads held-out text: give the workbench some (`heldout`)")

    def batches(n_tokens: int) -> Iterator[SequenceBatch]:
        return heldout.batches(n_tokens, options.batch_sequences)

    with evaluating(saes):
        data, spread, found, kept = _reconstruct(saes, bench.site, batches, options)
        finite = {name: sae for name, sae in saes.items() if found[name].finite}
        again = _again(finite, batches, options.behaviour_tokens, kept)
        behaviour, data = _behave(finite, bench, again, spread, data, options.behaviour_tokens)
    return Measured(data, spread, PCALine(spread), found, behaviour)


def _reconstruct(
    saes: Mapping[str, Autoencoder], site: str, batches: Batches, options: CoreEvalConfig
) -> tuple[CoreData, SiteSpread, dict[str, MeasuredSAE], Kept]:
    spread, tokens, masks = SpreadSums(), hashlib.sha256(), hashlib.sha256()
    sums = {name: SAESums(sae) for name, sae in saes.items()}
    positions = sequences = n_batches = n_tokens = context = 0
    kept = Kept(options.behaviour_tokens)
    for part in take(bare(batches(options.tokens)), options.tokens):
        batch, seen = part.batch, unmasked(part.batch, site)
        tokens.update(batch.tokens.long().cpu().numpy().tobytes())
        masks.update(batch.mask.cpu().numpy().tobytes())
        spread.add(seen.acts, seen.document)
        kept.offer(Reconstructed(batch, {name: part.add(batch, seen) for name, part in sums.items()}))
        n_batches, sequences = n_batches + 1, sequences + batch.n_sequences
        positions, n_tokens = positions + batch.tokens.numel(), n_tokens + len(seen.acts)
        context = batch.tokens.shape[1]
    if not n_tokens:
        raise UserError(
            f"core evaluation at {site}: no unmasked token in {sequences} held-out sequences; give more text in"
            " corpus.eval_path (--set corpus.eval_path=...) or lower corpus.holdout_every"
        )
    data = CoreData(
        site,
        context,
        sequences,
        behaviour_sequences=0,
        batches=n_batches,
        behaviour_batches=0,
        sha256=hashlib.sha256(tokens.digest() + masks.digest()).hexdigest(),
        short=positions < options.tokens,
    )
    return data, spread.finish(), {name: part.finish(n_tokens) for name, part in sums.items()}, kept


def _again(
    saes: Mapping[str, Autoencoder], batches: Batches, n_tokens: int, kept: Kept
) -> Iterator[tuple[SequenceBatch, dict[str, Tensor]]]:
    """The first `n_tokens` positions with their reconstructions, computed anew only where they weren't kept."""
    for part in take(kept if kept.whole else bare(batches(n_tokens)), n_tokens):
        recon = part.recon or {name: sae.decode(encode(sae, part.batch)) for name, sae in saes.items()}
        yield part.batch, {name: recon[name] for name in saes}


def _behave(
    saes: Mapping[str, Autoencoder],
    bench: Workbench,
    parts: Iterator[tuple[SequenceBatch, dict[str, Tensor]]],
    spread: SiteSpread,
    data: CoreData,
    wanted: int,
) -> tuple[BehaviourTotals, CoreData]:
    """Masked positions keep their original activation."""
    sums = BehaviourSums(bench.subject, bench.site)
    sequences = n_batches = 0
    for batch, recon in parts:
        acts, mask = batch.acts, batch.mask.unsqueeze(-1)
        mean = spread.mean.to(device=acts.device, dtype=acts.dtype)
        edited = {ZERO: torch.zeros_like(acts), MEAN: torch.where(mask, mean, acts)}
        for name, y in recon.items():
            edited[edit_key(name)] = torch.where(mask, y.to(device=acts.device, dtype=acts.dtype), acts)
        sums.add(batch, edited)
        n_batches, sequences = n_batches + 1, sequences + batch.n_sequences
    totals = sums.finish()
    if not totals.ce_count.sum():
        raise UserError(
            f"core evaluation at {bench.site}: no unmasked token with a next token in {sequences} sequences;"
            " raise evals.core.behaviour_tokens (--set evals.core.behaviour_tokens=...)"
        )
    short = data.short or sequences * data.context < wanted
    return totals, replace(data, behaviour_sequences=sequences, behaviour_batches=n_batches, short=short)
