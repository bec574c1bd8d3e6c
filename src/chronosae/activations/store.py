"""From a `RunConfig` to streams: training batches, held-out batches, measured normalisation."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.activations.ahead import Ahead, Bookmarked, Rewindable
from chronosae.activations.cache import FORMAT, CacheBuilder, ShardFolder
from chronosae.activations.cached import CachedStream
from chronosae.activations.harvest import ActivationStream, LiveStream, SiteBatches, harvest, require_finite
from chronosae.activations.sequences import Encoder, Sequences, TokenBatch
from chronosae.config import RunConfig, UserError
from chronosae.corpora import Mixture, Part, open_evaluation_source, open_sources
from chronosae.subject import Subject

Kind = Literal["dataset", "token", "none"]


@dataclass(frozen=True)
class SiteScale:
    """What was measured at one site, over `n_tokens` unmasked tokens; the autoencoder's own `Normalisation` applies it.

    Training sees raw activations times `factor` = sqrt(d_in) / mean norm (`dataset`), every vector at norm sqrt(d_in)
    (`token`), or the raw ones (`none`). `mean` is the mean raw activation, `normalised_mean` the mean of what training
    sees, which is where b_dec starts.
    """

    kind: Kind
    factor: float
    mean: Float[Tensor, " d_in"]
    normalised_mean: Float[Tensor, " d_in"]
    n_tokens: int


def unit_rms(acts: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
    """Every vector at norm sqrt(d_in); a zero vector stays zero."""
    norm = acts.norm(dim=-1, keepdim=True)
    return acts * (math.sqrt(acts.shape[-1]) / norm.clamp(min=1e-12))


class _Sums:
    """Running sums at one site, in float64."""

    def __init__(self) -> None:
        self.n, self.norm = 0, 0.0
        self.raw: Tensor = torch.zeros(())
        self.unit: Tensor = torch.zeros(())

    def add(self, acts: Float[Tensor, "n d_in"]) -> None:
        acts = acts.double()
        self.n += acts.shape[0]
        self.norm += float(acts.norm(dim=-1).sum())
        self.raw = self.raw + acts.sum(0).cpu()
        self.unit = self.unit + unit_rms(acts).sum(0).cpu()


def measure(stream: ActivationStream, kind: Kind, n_tokens: int) -> dict[str, SiteScale]:
    """Scale and mean of every site over the first `n_tokens` unmasked tokens or a little more (whole batches).

    The stream is used up as far as it is read.

    Raises:
        UserError: the activations of a site are all zero, or not finite, or every token is masked.
    """
    sums: dict[str, _Sums] = {}
    empty = 0
    while not sums or min(each.n for each in sums.values()) < n_tokens:
        for site, batch in stream.next().items():
            sums.setdefault(site, _Sums()).add(batch.unmasked())
        # A corpus of special tokens alone would be read for ever.
        empty = empty + 1 if not any(each.n for each in sums.values()) else 0
        if empty == 64:
            raise UserError("every token of the corpus is special and masked: there is nothing to learn from")
    return {site: _scale(site, each, kind) for site, each in sums.items()}


def _scale(site: str, sums: _Sums, kind: Kind) -> SiteScale:
    mean_norm = sums.norm / sums.n
    if not math.isfinite(mean_norm) or mean_norm == 0:
        what = "all zero" if mean_norm == 0 else "not finite"
        raise UserError(f"activations at {site} are {what} over {sums.n} tokens: there is nothing to learn from")
    factor = math.sqrt(sums.raw.shape[0]) / mean_norm if kind == "dataset" else 1.0
    mean = sums.raw / sums.n
    normalised = sums.unit / sums.n if kind == "token" else mean * factor
    return SiteScale(kind, factor, mean.float(), normalised.float(), sums.n)


def open_stream(cfg: RunConfig, subject: Subject, cache_dir: Path | None = None) -> LiveStream | CachedStream:
    """The training stream that `cfg.activations.store` asks for, at its beginning; a cache is built if need be.

    Args:
        cfg: the run.
        subject: the language model.
        cache_dir: folder of the cache when `cfg.activations.cache_dir` is absent.

    Raises:
        UserError: the text, the tokenizer, the sites or the cache can't be used.
    """
    check(cfg, subject)
    acts = cfg.activations
    if acts.store == "stream":
        return LiveStream(
            training_sequences(cfg, subject),
            subject,
            cfg.subject.sites,
            batch_sequences=cfg.batch_sequences,
            harvest_sequences=acts.harvest_sequences,
        )
    return CachedStream(
        build_cache(cfg, subject, cache_dir),
        cfg.subject.sites,
        acts.cache_dtype,
        batch_sequences=cfg.batch_sequences,
        seed=cfg.seed,
        device=subject.device,
    )


@contextmanager
def training_stream(
    cfg: RunConfig, subject: Subject, cache_dir: Path | None = None, opened: Bookmarked | None = None
) -> Iterator[ActivationStream]:
    """`open_stream` (or `opened`), its batches made ahead where `cfg.activations.ahead` wants it, until the block ends.

    In the block nothing else may use the subject.
    """
    stream = open_stream(cfg, subject, cache_dir) if opened is None else opened
    if cfg.activations.ahead == "never" or (cfg.activations.ahead == "auto" and subject.device.type != "cuda"):
        yield stream
        return
    # A forward pass may fill several batches: its turn comes when the first of them is trained on.
    harvested = cfg.activations.harvest_sequences if cfg.activations.store == "stream" else 1
    with Ahead(stream, depth=-(-harvested // cfg.batch_sequences), device=subject.device) as ahead:
        yield ahead


def measure_normalisation(
    cfg: RunConfig, subject: Subject, cache_dir: Path | None = None
) -> tuple[dict[str, SiteScale], Rewindable]:
    """Scale and mean of every site, from the first tokens of the training stream; and the stream, at its beginning."""
    acts, stream = cfg.activations, Rewindable(open_stream(cfg, subject, cache_dir))
    measured = measure(stream, acts.normalise, acts.normalise_tokens)
    stream.rewind()
    return measured, stream


def training_sequences(cfg: RunConfig, subject: Subject, *, for_cache: bool = False) -> Sequences:
    """Token contexts of the training part: shuffled and endless, or as packed and one pass for a cache."""
    sources, weights = open_sources(cfg.corpus)
    mixture = Mixture(sources, weights, seed=cfg.seed, part=_training_part(cfg), holdout_every=cfg.corpus.holdout_every)
    encoder = Encoder(subject.tokenizer, cfg.activations.prepend_bos)
    return Sequences(mixture, encoder, cfg.activations, seed=cfg.seed, shuffle=not for_cache, one_pass=for_cache)


def _training_part(cfg: RunConfig) -> Part:
    return "train" if cfg.corpus.eval_path is None else "all"


def build_cache(cfg: RunConfig, subject: Subject, cache_dir: Path | None = None) -> ShardFolder:
    """The cache of a run, complete: as many contexts as training reads, or one pass over the text if that is less.

    Raises:
        UserError: no folder is given, it holds something else, or the disk is too small.
    """
    check(cfg, subject)
    acts = cfg.activations
    folder = Path(acts.cache_dir).expanduser() if acts.cache_dir else cache_dir
    if folder is None:
        raise UserError("activations.store is cache, but no folder is given; set activations.cache_dir")
    n_sequences = cfg.steps * cfg.batch_sequences
    builder = CacheBuilder(
        folder,
        _cache_key(cfg, subject, n_sequences),
        lambda: training_sequences(cfg, subject, for_cache=True),
        subject,
        cfg.subject.sites,
        n_sequences=n_sequences,
        context=acts.context,
        harvest_sequences=acts.harvest_sequences,
        dtype=acts.cache_dtype,
    )
    return builder.build()


def _cache_key(cfg: RunConfig, subject: Subject, n_sequences: int) -> dict[str, object]:
    """All that decides what a cache holds. What isn't here may change without building it anew."""
    sources, weights = open_sources(cfg.corpus)
    acts = cfg.activations
    return {
        "format": FORMAT,
        "subject": subject.fingerprint,
        "subject_dtype": str(subject.dtype),
        "tokenizer": Encoder(subject.tokenizer, acts.prepend_bos).fingerprint,
        "sites": cfg.subject.sites,
        "corpus": [[s.name, s.fingerprint, w] for s, w in zip(sources, weights, strict=True)],
        "part": [_training_part(cfg), cfg.corpus.holdout_every],
        "context": acts.context,
        "exclude_special": acts.exclude_special,
        "dtype": acts.cache_dtype,
        "seed": cfg.seed,
        "training_sequences": n_sequences,
    }


def heldout_batches(
    cfg: RunConfig, subject: Subject, n_sequences: int, batch_sequences: int, sites: Sequence[str] | None = None
) -> Iterator[SiteBatches]:
    """Up to `n_sequences` whole contexts that training never sees, in a fixed order, at `sites` (absent: every site).

    The other sites aren't read, so what is wrong there does no harm. The text comes from `corpus.eval_path`, or from
    the held-out documents of each source in proportion to the weights. No document is used twice, so there may be fewer
    than asked; the last batch may be smaller.

    Raises:
        UserError: there is not one held-out context, or training reads it too; raised at once, not at the first batch.
            NaN or infinite activations at one of the sites, at their batch.
    """
    tokens = heldout_tokens(cfg, subject, n_sequences)
    wanted = cfg.subject.sites if sites is None else list(sites)
    subject.check_sites(wanted)

    def batches() -> Iterator[SiteBatches]:
        for start in range(0, len(tokens), batch_sequences):
            batches = harvest(subject, tokens[start : start + batch_sequences], wanted)
            yield require_finite(batches, subject)

    return batches()


def heldout_tokens(cfg: RunConfig, subject: Subject, n_sequences: int) -> TokenBatch:
    """The token contexts of `heldout_batches`."""
    check(cfg, subject)
    corpus = cfg.corpus
    if corpus.eval_path is not None:
        mixture = Mixture([open_evaluation_source(corpus)], part="all", seed=cfg.seed, repeat=False)
    else:
        sources, weights = open_sources(corpus)
        mixture = Mixture(
            sources, weights, seed=cfg.seed, part="heldout", holdout_every=corpus.holdout_every, repeat=False
        )
    encoder = Encoder(subject.tokenizer, cfg.activations.prepend_bos)
    tokens = Sequences(mixture, encoder, cfg.activations, shuffle=False).take(n_sequences)
    if not len(tokens):
        raise UserError(
            f"held-out text doesn't fill one context of {cfg.activations.context} tokens; set corpus.eval_path to text"
            " for the evaluations, or a smaller corpus.holdout_every"
        )
    return tokens


def check(cfg: RunConfig, subject: Subject) -> None:
    """`UserError` when the subject can't read what the configuration asks for."""
    subject.check_sites(cfg.subject.sites)
    if cfg.activations.context > subject.max_context:
        raise UserError(
            f"activations.context ({cfg.activations.context}) is more than the {subject.max_context} tokens that"
            f" {subject.name} was made for"
        )
