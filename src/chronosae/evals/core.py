"""The core evaluation: SAEBench's core metrics by SAEBench's definitions, for several autoencoders in one pass.

First every autoencoder's reconstruction over `cfg.tokens` tokens, which also gives the site's mean; then, over the
first `cfg.behaviour_tokens` of them, what the subject makes of each reconstruction. The clean pass and both ablations
are run once.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.activations.batch import SequenceBatch
from chronosae.autoencoders import Autoencoder, Codes
from chronosae.config import CoreEvalConfig, UserError
from chronosae.evals import behaviour, core_intervals, core_metrics
from chronosae.evals.by_position import PositionSums, document_positions
from chronosae.evals.core_result import CoreData, CoreMetrics, CoreResult
from chronosae.evals.features import FeatureCounts, decoder_spread, feature_table
from chronosae.evals.histograms import histograms
from chronosae.evals.kept import Kept, Reconstructed, bare, take
from chronosae.evals.moments import MomentSums, SiteMoments
from chronosae.evals.pca import PCALine
from chronosae.evals.reconstruction import ReconstructionSums, ReconstructionTotals
from chronosae.evals.saebench_variants import BatchVariants
from chronosae.evals.workbench import encode, evaluating
from chronosae.subject import Subject

Batches = Callable[[int], Iterator[SequenceBatch]]
"""Tokens wanted -> batches of held-out sequences at the site, the same ones from the start at every call."""


@torch.no_grad()
def evaluate_core(
    saes: Mapping[str, Autoencoder],
    subject: Subject,
    site: str,
    batches: Batches,
    cfg: CoreEvalConfig,
    *,
    seed: int = 0,
) -> dict[str, CoreResult]:
    """Core metrics of each autoencoder at `site`, by its name in `saes`.

    Arguments:
        batches: `batches(n)` yields `SequenceBatch`es of at least n tokens (positions, masked ones included) where
            there are that many; called twice. A batch here is what SAEBench calls a batch.
        seed: of the bootstrap intervals.

    Raises:
        UserError: no unmasked token to evaluate on; activations or clean logits with NaN or Inf.
    """
    assert saes, "no autoencoder to evaluate"
    start = time.perf_counter()
    with evaluating(saes):
        first = _reconstruct(saes, site, batches, cfg)
        finite = {name: sae for name, sae in saes.items() if first.totals[name].finite and _weights_finite(sae)}
        second, data = _behave(finite, subject, batches, cfg, first)
    pca = PCALine(first.moments)
    results = {
        name: _result(name, sae, first, second if name in finite else None, pca, data, seed)
        for name, sae in saes.items()
    }
    seconds = time.perf_counter() - start
    return {name: replace(result, wall_seconds=seconds) for name, result in results.items()}


@dataclass
class _FirstPass:
    """What the reconstruction pass leaves behind."""

    moments: SiteMoments
    totals: dict[str, ReconstructionTotals]
    variants: dict[str, dict[str, float | None]]
    counts: dict[str, FeatureCounts]
    positions: dict[str, PositionSums]
    """By column of the context."""
    document_positions: dict[str, PositionSums]
    data: CoreData
    kept: Kept
    """The first batches' reconstructions."""


def _reconstruct(saes: Mapping[str, Autoencoder], site: str, batches: Batches, cfg: CoreEvalConfig) -> _FirstPass:
    moments, tokens, masks = MomentSums(), hashlib.sha256(), hashlib.sha256()
    sums = {name: ReconstructionSums() for name in saes}
    by_column, by_place = ({name: PositionSums() for name in saes} for _ in range(2))
    variants = {name: BatchVariants() for name in saes}
    counts = {name: FeatureCounts(sae.d_sae) for name, sae in saes.items()}
    positions = sequences = n_batches = unmasked = context = 0
    kept = Kept(cfg.behaviour_tokens)
    for part in take(bare(batches(cfg.tokens)), cfg.tokens):
        batch = part.batch
        tokens.update(batch.tokens.long().cpu().numpy().tobytes())
        masks.update(batch.mask.cpu().numpy().tobytes())
        x, document = _unmasked(batch, site)
        column, place = batch.mask.nonzero()[:, 1], document_positions(batch.mask, batch.doc_ids)[batch.mask]
        moments.add(x, document)
        recon: dict[str, Tensor] = {}
        exact = x.double().cpu()
        for name, sae in saes.items():
            codes, y = _encode_decode(sae, batch)
            recon[name] = y
            l0, l1 = counts[name].add(codes, batch.mask.to(y.device))
            # What TFA predicts from the past is dense; what is new is what other autoencoders call L0.
            novel = codes.chosen().l0()
            l0, l1, novel, y = (part.to(x.device)[batch.mask] for part in (l0, l1, novel, y))
            sums[name].add(x, y, l0, l1, novel, document)
            variants[name].add(x, y)
            y = y.double().cpu()
            by_column[name].add(exact, y, l0, column, batch.tokens.shape[1])
            by_place[name].add(exact, y, l0, place, batch.tokens.shape[1])
        kept.offer(Reconstructed(batch, recon))
        n_batches, sequences = n_batches + 1, sequences + batch.n_sequences
        positions, unmasked, context = positions + batch.tokens.numel(), unmasked + len(x), batch.tokens.shape[1]
    if not unmasked:
        raise UserError(
            f"core evaluation at {site}: no unmasked token in {sequences} held-out sequences; give more text in"
            " corpus.eval_path (--set corpus.eval_path=...) or lower corpus.holdout_every"
        )
    return _FirstPass(
        moments.finish(),
        {name: part.finish() for name, part in sums.items()},
        {name: part.finish() for name, part in variants.items()},
        counts,
        by_column,
        by_place,
        CoreData(
            site,
            context,
            sequences,
            behaviour_sequences=0,
            batches=n_batches,
            behaviour_batches=0,
            sha256=hashlib.sha256(tokens.digest() + masks.digest()).hexdigest(),
            short=positions < cfg.tokens,
        ),
        kept,
    )


def _behave(
    saes: Mapping[str, Autoencoder],
    subject: Subject,
    batches: Batches,
    cfg: CoreEvalConfig,
    first: _FirstPass,
) -> tuple[behaviour.BehaviourTotals, CoreData]:
    sums = behaviour.BehaviourSums(subject, first.data.site)
    sequences = n_batches = 0
    for part in _again(saes, batches, cfg.behaviour_tokens, first.kept):
        batch = part.batch
        acts, mask = batch.acts, batch.mask.unsqueeze(-1)
        mean = first.moments.mean.to(device=acts.device, dtype=acts.dtype)
        edited = {behaviour.ZERO: torch.zeros_like(acts), behaviour.MEAN: torch.where(mask, mean, acts)}
        for name in saes:
            recon = part.recon[name].to(device=acts.device, dtype=acts.dtype)
            edited[_key(name)] = torch.where(mask, recon, acts)
        sums.add(batch, edited)
        n_batches, sequences = n_batches + 1, sequences + batch.n_sequences
    totals = sums.finish()
    if not totals.ce_count.sum():
        raise UserError(
            f"core evaluation at {first.data.site}: no unmasked token with a next token in {sequences} sequences;"
            " raise evals.core.behaviour_tokens (--set evals.core.behaviour_tokens=...)"
        )
    short = first.data.short or sequences * first.data.context < cfg.behaviour_tokens
    return totals, replace(first.data, behaviour_sequences=sequences, behaviour_batches=n_batches, short=short)


def _again(saes: Mapping[str, Autoencoder], batches: Batches, n_tokens: int, kept: Kept) -> Iterator[Reconstructed]:
    """The first `n_tokens` positions with their reconstructions, computed anew only where they weren't kept."""
    if kept.whole:
        yield from take(kept, n_tokens)
        return
    for part in take(bare(batches(n_tokens)), n_tokens):
        yield Reconstructed(part.batch, {name: _encode_decode(sae, part.batch)[1] for name, sae in saes.items()})


def _weights_finite(sae: Autoencoder) -> bool:
    """A weight that is NaN may not show in the output: TopK never picks it."""
    return all(bool(weight.isfinite().all()) for weight in sae.parameters())


def _key(name: str) -> str:
    """An autoencoder may be called `zero` or `mean`; the ablations own those names."""
    return f"sae:{name}"


def _result(
    name: str,
    sae: Autoencoder,
    first: _FirstPass,
    second: behaviour.BehaviourTotals | None,
    pca: PCALine,
    data: CoreData,
    seed: int,
) -> CoreResult:
    moments, totals = first.moments, first.totals[name]
    features = feature_table(sae, first.counts[name], moments.n_tokens)
    flags = ["fewer_tokens_than_asked"] if data.short else []
    metrics, found = CoreMetrics(), {}
    if second is None:
        flags.append("non_finite_output")
    else:
        values = core_metrics.reconstruction_metrics(totals, moments, pca) | first.variants[name] | features.summary()
        values |= decoder_spread(sae)
        flags += core_metrics.reconstruction_flags(values)
        flags += ["negative_codes"] if first.counts[name].negative else []
        behaved, raised = core_metrics.behaviour_metrics(second, _key(name))
        flags += raised
        metrics = CoreMetrics.model_validate(values | behaved)
        found = core_intervals.intervals(totals, moments, second, _key(name), seed)
        found = {metric: interval for metric, interval in found.items() if metric in metrics.defined()}
    return CoreResult(
        metrics, tuple(flags), found, features, pca.curve(), data, seed, wall_seconds=0.0,
        evaluated_together=len(first.totals),
        by_position={} if second is None else first.positions[name].table(moments.mean),
        by_document_position={} if second is None else first.document_positions[name].table(moments.mean),
        histograms=histograms(features, first.counts[name]),
    )  # fmt: skip


def _unmasked(batch: SequenceBatch, site: str) -> tuple[Float[Tensor, "n d_in"], Tensor]:
    """The unmasked activations and, for each, its document's id."""
    x = batch.unmasked()
    if not x.isfinite().all():
        raise UserError(
            f"core evaluation at {site}: the subject's activations hold NaN or Inf; try --set subject.dtype=float32"
        )
    return x, batch.doc_ids[batch.mask]


def _encode_decode(sae: Autoencoder, batch: SequenceBatch) -> tuple[Codes, Float[Tensor, "batch pos d_in"]]:
    """Whole sequences in, as the autoencoder sees them in training."""
    codes = encode(sae, batch)
    return codes, sae.decode(codes)
