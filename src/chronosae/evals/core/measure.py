"""What core computes of autoencoders, summed over the batches of held-out text; only unmasked tokens enter.

x is an activation, y its reconstruction, e = ||x - y||^2. Sums are in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.config import UserError
from chronosae.evals.core.data import CoreData, DocumentSums, PCALine, SiteSpread, Unmasked
from chronosae.evals.core.features import FeatureCounts, FeatureTable, decoder_spread, feature_table
from chronosae.evals.workbench import encode
from chronosae.subject import Subject

CLEAN = "clean"
ZERO = "zero"
MEAN = "mean"

MOST_LOGITS = 2**28
"""Numbers in one intervention's logits, and in the clean ones beside them, held at once; a sequence at the least."""
# SAEBench divides by 1 where a norm is below this.
TINY_NORM = 1e-4

QUANTITIES = ("tokens", "error", "norm_in", "norm_out", "ratio", "dot", "square_out", "cosine", "l0", "l1", "novel_l0")


@dataclass(frozen=True)
class ReconstructionTotals:
    """Sums over unmasked tokens: `by_document[i]` has one column for each of `QUANTITIES`."""

    by_document: Float[Tensor, "documents quantities"]

    @property
    def finite(self) -> bool:
        """No code and no reconstruction at an unmasked token was NaN or Inf."""
        return bool(self.by_document.isfinite().all())

    def column(self, name: str) -> Float[Tensor, " documents"]:
        """One quantity, summed within each document."""
        return self.by_document[:, QUANTITIES.index(name)]

    def total(self, name: str) -> float:
        """One quantity, summed over all tokens."""
        return float(self.column(name).sum())

    def mean(self, name: str) -> float:
        """One quantity, averaged over all tokens."""
        return self.total(name) / self.total("tokens")


def token_quantities(
    x: Float[Tensor, "n d_in"],
    y: Float[Tensor, "n d_in"],
    l0: Int[Tensor, " n"],
    l1: Float[Tensor, " n"],
    novel_l0: Int[Tensor, " n"],
) -> Float[Tensor, "n quantities"]:
    """Each token's value of every quantity in `QUANTITIES`, in that order.

    The cosine of a zero vector with anything is 0 (SAEBench's is NaN).
    """
    norm_in, norm_out, dot = x.norm(dim=1), y.norm(dim=1), (x * y).sum(1)
    product = norm_in * norm_out
    columns = {
        "tokens": torch.ones_like(dot),
        "error": (x - y).square().sum(1),
        "norm_in": norm_in,
        "norm_out": norm_out,
        "ratio": norm_out / torch.where(norm_in < TINY_NORM, 1.0, norm_in),
        "dot": dot,
        "square_out": norm_out.square(),
        "cosine": torch.where(product == 0, 0.0, dot / torch.where(product == 0, 1.0, product)),
        "l0": l0.double(),
        "l1": l1.double(),
        "novel_l0": novel_l0.double(),
    }
    return torch.stack([columns[name] for name in QUANTITIES], dim=1)


class BatchVariants:
    """SAEBench 0.6.0's four metrics that depend on how tokens are cut into batches, as its code computes them.

    They are here so that published numbers can be compared; `docs/evaluations/core.md` says what is wrong with three of
    them.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def add(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_in"]) -> None:
        """Add the unmasked tokens of one batch; a batch without any is left out."""
        if not len(x):
            return
        x, y = x.double(), y.double()
        error = (x - y).square().sum(1)
        spread = (x - x.mean(0)).square().sum(1)
        square_out, dot = y.square().sum(1).mean(), (x * y).sum(1).mean()
        self._rows.append(
            torch.stack(
                [
                    torch.tensor(float(len(x)), dtype=x.dtype, device=x.device),
                    error.mean(),
                    x.square().sum(1).mean(),
                    x.square().mean(),
                    (1 - error / spread).sum(),
                    # A zero reconstruction: the limit of y -> 0 along x.
                    torch.where(square_out == 0, 0.0, square_out / dot),
                ]
            )
        )

    def finish(self) -> dict[str, float | None]:
        """The variants by name; None where the formula divides by zero."""
        n, error, squares, quartic_root, legacy, bias = torch.stack(self._rows).cpu().T
        # The square of the mean *square*: dimension x^4, subtracted from x^2. That is SAEBench's bug, kept on purpose.
        spread = squares.mean() - quartic_root.mean().square()
        values = {
            "mse_saebench": error.sum() / n.sum(),
            "explained_variance_saebench_060": 1 - error.mean() / spread,
            "explained_variance_legacy": legacy.sum() / n.sum(),
            "relative_reconstruction_bias": bias.mean(),
        }
        return {name: float(value) if value.isfinite() else None for name, value in values.items()}


class PositionSums:
    """Sums at each position, over unmasked tokens of all sequences; in float64, on the CPU.

    A position is a column of the context, or a place in a document (`document_positions`).
    """

    def __init__(self) -> None:
        self._tokens = torch.zeros(0, dtype=torch.float64)
        self._error, self._l0, self._squares = (torch.zeros(0, dtype=torch.float64) for _ in range(3))
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._shift: Tensor | None = None

    def add(
        self,
        x: Float[Tensor, "n d_in"],
        y: Float[Tensor, "n d_in"],
        l0: Int[Tensor, " n"],
        column: Int[Tensor, " n"],
        context: int,
    ) -> None:
        """Add unmasked tokens `x`, their reconstructions and L0; `column` is the position of each, below `context`."""
        x, y, column = x.double().cpu(), y.double().cpu(), column.cpu()
        if self._shift is None:
            # About the first batch's mean: the difference of two large numbers would lose digits.
            self._shift = x.mean(0) if len(x) else x.new_zeros(x.shape[1])
        shifted = x - self._shift
        grown = max(context, len(self._tokens))
        self._tokens = _grow(self._tokens, grown).index_add_(0, column, torch.ones(len(x), dtype=torch.float64))
        self._error = _grow(self._error, grown).index_add_(0, column, (x - y).square().sum(1))
        self._l0 = _grow(self._l0, grown).index_add_(0, column, l0.double().cpu())
        self._squares = _grow(self._squares, grown).index_add_(0, column, shifted.square().sum(1))
        self._sums = _grow(self._sums, grown, x.shape[1]).index_add_(0, column, shifted)

    def table(self, mean: Float[Tensor, " d_in"]) -> dict[str, list[float | int | None]]:
        """`tokens`, `explained_variance` and `l0` at each column; None where no token was unmasked or none varies.

        Variance is about `mean`, the mean over all tokens, so that columns can be compared:
        `1 - sum_t ||x_t - y_t||^2 / sum_t ||x_t - mean||^2` over the tokens of the column.
        """
        assert self._shift is not None, "no batch was added"
        offset = mean.double().cpu() - self._shift
        variance = self._squares - 2 * self._sums @ offset + self._tokens * offset.square().sum()
        rows = zip(
            self._tokens.tolist(), self._error.tolist(), variance.tolist(), self._l0.tolist(), strict=True
        )  # fmt: skip
        cells = [(int(n), 1 - e / v if n and v > 0 else None, l0 / n if n else None) for n, e, v, l0 in rows]
        return {
            "tokens": [n for n, _, _ in cells],
            "explained_variance": [value for _, value, _ in cells],
            "l0": [value for _, _, value in cells],
        }


def _grow(values: Tensor, length: int, width: int | None = None) -> Tensor:
    shape = (length,) if width is None else (length, width)
    if values.shape == shape:
        return values
    grown = values.new_zeros(shape)
    if len(values):
        grown[: len(values)] = values
    return grown


@dataclass(frozen=True)
class BehaviourTotals:
    """Sums over positions, one row a document: `ce[name]` over `ce_count` positions, `kl[name]` over `kl_count`."""

    ce: dict[str, Float[Tensor, " documents"]]
    kl: dict[str, Float[Tensor, " documents"]]
    ce_count: Int[Tensor, " documents"]
    kl_count: Int[Tensor, " documents"]

    def mean_ce(self, name: str) -> float:
        """Mean cross-entropy in nats under one intervention; `CLEAN` is none."""
        return float(self.ce[name].sum() / self.ce_count.sum())

    def mean_kl(self, name: str) -> float:
        """Mean KL(clean || edited) in nats."""
        return float(self.kl[name].sum() / self.kl_count.sum())


class BehaviourSums:
    """What the subject makes of reconstructions: a `BehaviourTotals` of the clean model and of every intervention.

    Positions count as in SAEBench. KL: every position t with mask True. Cross-entropy: those of them that have a next
    token in the context (t predicts t + 1), whatever that next token is.
    """

    def __init__(self, subject: Subject, site: str) -> None:
        self._subject = subject
        self._site = site
        self._losses: dict[str, DocumentSums] = {CLEAN: DocumentSums()}
        self._counts = DocumentSums()

    def add(self, batch: SequenceBatch, edited: Mapping[str, Float[Tensor, "batch pos d_in"]]) -> None:
        """Score one batch under each of `edited`: name -> the activations at the site after the intervention.

        Raises:
            UserError: the clean model's own logits hold NaN or Inf.
        """
        at_once = max(1, MOST_LOGITS // (batch.tokens.shape[1] * self._subject.vocab_size))
        for start in range(0, batch.n_sequences, at_once):
            rows = slice(start, start + at_once)
            tensors = (getattr(batch, name)[rows] for name in ("acts", "tokens", "mask", "doc_ids"))
            self._add(*tensors, edited={name: acts[rows] for name, acts in edited.items()})

    def _add(self, acts: Tensor, tokens: Tensor, mask: Tensor, doc_ids: Tensor, edited: Mapping[str, Tensor]) -> None:
        documents = doc_ids[mask]
        clean = log_softmax(self._subject.run_from(self._site, acts, tokens))
        clean_ce = torch.cat([_next_token_loss(*row) for row in zip(clean, tokens, mask, strict=True)])
        if not clean_ce.isfinite().all():
            raise UserError(
                f"core evaluation at {self._site}: the subject's own logits hold NaN or Inf; try"
                " --set subject.dtype=float32"
            )
        self._losses[CLEAN].add(clean_ce.unsqueeze(1), documents)
        has_next = torch.ones_like(mask)
        has_next[:, -1] = False
        self._counts.add(torch.stack([has_next[mask], torch.ones_like(documents)], 1).double(), documents)
        for name, changed in edited.items():
            logits = self._subject.run_from(self._site, changed, tokens)
            losses = torch.cat([_score(*row) for row in zip(clean, logits, tokens, mask, strict=True)])
            self._losses.setdefault(name, DocumentSums()).add(losses, documents)

    def finish(self) -> BehaviourTotals:
        """The sums of everything added."""
        counts = self._counts.finish().long()
        losses = {name: sums.finish() for name, sums in self._losses.items()}
        return BehaviourTotals(
            ce={name: found[:, 0] for name, found in losses.items()},
            kl={name: found[:, 1] for name, found in losses.items() if name != CLEAN},
            ce_count=counts[:, 0],
            kl_count=counts[:, 1],
        )


def log_softmax(logits: Float[Tensor, "*tokens vocab"]) -> Float[Tensor, "*tokens vocab"]:
    """Log-probabilities, in at least float32."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.log_softmax(-1, dtype=dtype)


def _next_token_loss(
    log_probs: Float[Tensor, "pos vocab"], tokens: Int[Tensor, " pos"], mask: Bool[Tensor, " pos"]
) -> Float[Tensor, " n"]:
    """Of each unmasked position; 0 for the context's last, which has no next token."""
    predicted = log_probs[:-1].gather(1, tokens[1:].unsqueeze(1)).squeeze(1)
    return -pad(predicted, (0, 1))[mask].double()


def _score(
    clean: Float[Tensor, "pos vocab"],
    logits: Float[Tensor, "pos vocab"],
    tokens: Int[Tensor, " pos"],
    mask: Bool[Tensor, " pos"],
) -> Float[Tensor, "n 2"]:
    """Cross-entropy and KL at each unmasked position of one sequence; one sequence at a time, so that no second copy of
    the batch is needed."""
    log_probs = log_softmax(logits)
    clean, edited = clean[mask], log_probs[mask]
    # Vocabulary that the model rules out has log-probability -inf on both sides and adds nothing.
    terms = torch.where(clean == -torch.inf, 0.0, clean.exp() * (clean - edited))
    return torch.stack([_next_token_loss(log_probs, tokens, mask), terms.double().sum(1)], 1)


@dataclass(frozen=True)
class MeasuredSAE:
    """The sums of one autoencoder over everything that it reconstructed."""

    totals: ReconstructionTotals
    variants: dict[str, float | None]
    """`BatchVariants`."""
    features: FeatureTable
    decoder: dict[str, float]
    """`decoder_spread`."""
    columns: PositionSums
    """By position in the context."""
    places: PositionSums
    """By place in the document."""
    negative: bool
    """Some codes are negative."""
    finite: bool
    """Neither outputs nor weights hold NaN or Inf. A weight that is NaN may not show: TopK never picks it."""


class SAESums:
    """Accumulates a `MeasuredSAE`."""

    def __init__(self, sae: Autoencoder) -> None:
        self._sae = sae
        self._quantities, self._variants, self._counts = DocumentSums(), BatchVariants(), FeatureCounts(sae.d_sae)
        self._columns, self._places = PositionSums(), PositionSums()

    def add(self, batch: SequenceBatch, seen: Unmasked) -> Float[Tensor, "batch pos d_in"]:
        """Take in a batch; returns its reconstruction."""
        codes = encode(self._sae, batch)
        recon = self._sae.decode(codes)
        l0, l1 = self._counts.add(codes, batch.mask.to(recon.device))
        # What TFA predicts from the past is dense; what is new is what other autoencoders call L0.
        novel = codes.chosen().l0()
        l0, l1, novel, y = (part.to(seen.acts.device)[batch.mask] for part in (l0, l1, novel, recon))
        self._quantities.add(token_quantities(seen.acts.double(), y.double(), l0, l1, novel), seen.document)
        self._variants.add(seen.acts, y)
        for sums, column in ((self._columns, seen.column), (self._places, seen.place)):
            sums.add(seen.exact, y, l0, column, batch.tokens.shape[1])
        return recon

    def finish(self, n_tokens: int) -> MeasuredSAE:
        """The sums of everything added, over `n_tokens` unmasked tokens."""
        totals = ReconstructionTotals(self._quantities.finish())
        return MeasuredSAE(
            totals,
            self._variants.finish(),
            feature_table(self._sae, self._counts, n_tokens),
            decoder_spread(self._sae),
            self._columns,
            self._places,
            negative=self._counts.negative,
            finite=totals.finite and all(bool(weight.isfinite().all()) for weight in self._sae.parameters()),
        )


@dataclass(frozen=True)
class Measured:
    """What both passes found at one site."""

    data: CoreData
    spread: SiteSpread
    pca: PCALine
    saes: Mapping[str, MeasuredSAE]
    behaviour: BehaviourTotals
    """Of the ablations, and under `edit_key(name)` of each autoencoder whose output is finite."""


def edit_key(name: str) -> str:
    """An autoencoder may be called `zero` or `mean`; the ablations own those names."""
    return f"sae:{name}"
