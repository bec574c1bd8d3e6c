"""What the subject makes of a reconstruction: next-token cross-entropy and KL divergence from the clean model.

Positions count as in SAEBench. KL: every position t with mask True. Cross-entropy: those of them that have a next token
in the context (t predicts t + 1), whatever that next token is. Masked positions keep their original activation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from chronosae.activations.batch import SequenceBatch
from chronosae.config import UserError
from chronosae.evals.documents import DocumentSums
from chronosae.subject import Subject

CLEAN = "clean"
ZERO = "zero"
MEAN = "mean"

MOST_LOGITS = 2**28
"""Numbers in one intervention's logits, and in the clean ones beside them, held at once; a sequence at the least."""


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
    """Accumulates a `BehaviourTotals` for the clean model and for every intervention it is given."""

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
