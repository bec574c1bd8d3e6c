"""A tiny subject, sequences at one of its sites, and autoencoders, all in float64."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto import CONFIG_MAPPING

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.config import CoreEvalConfig
from chronosae.evals import EvalResult, Heldout, Provenance, Workbench, result_envelope, write_envelope
from chronosae.evals.bootstrap import Interval
from chronosae.evals.core import Core, CoreMetrics
from chronosae.evals.core.data import CoreData
from chronosae.evals.core.evaluation import measure
from chronosae.evals.core.features import FeatureTable
from chronosae.evals.core.measure import Measured
from chronosae.evals.core.report import report
from chronosae.presets import build
from chronosae.subject import Subject

Batches = Callable[[int], Iterator[SequenceBatch]]

VOCAB, WIDTH, LAYERS, CONTEXT = 48, 16, 3, 12
DOCUMENT = 7
SITE = "blocks.1.hook_resid_post"

# SAEBench's definitions average per batch, so these four (and no others) depend on the cut into batches.
BATCH_DEPENDENT = {
    "mse_saebench",
    "explained_variance_saebench_060",
    "explained_variance_legacy",
    "relative_reconstruction_bias",
}


def tiny_subject(seed: int = 0) -> Subject:
    """A random GPT-2 whose logits are sharp enough for ablations to matter."""
    torch.manual_seed(seed)
    options = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 32}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["gpt2"](**options, bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return Subject(model.double(), tokenizer=None, name="tiny")


@torch.no_grad()
def likely_tokens(subject: Subject, n: int, context: int = CONTEXT, seed: int = 0) -> Tensor:
    """Sequences that the subject itself finds likely, so that ablating it raises the loss."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (n, 1), generator=generator)
    for _ in range(context - 1):
        probs = subject.logits(tokens)[:, -1].softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(probs, 1, generator=generator)], dim=1)
    return tokens


def documents(shape: tuple[int, ...]) -> Tensor:
    """Ids of documents that end and begin within contexts, and go on in the next."""
    return 100 + torch.arange(math.prod(shape)).view(shape) // DOCUMENT


def make_batch(subject: Subject, tokens: Tensor, mask: Tensor, site: str = SITE) -> SequenceBatch:
    """Activations of `tokens`, as the activations room hands them out."""
    return SequenceBatch(
        acts=subject.activations(tokens, [site])[site],
        mask=mask,
        tokens=tokens,
        positions=mask.long().cumsum(1) - 1,
        doc_ids=documents(tokens.shape),
        source=("tiny",) * len(tokens),
    )


def random_mask(shape: tuple[int, int], seed: int, share: float = 0.25) -> Tensor:
    """First positions out, and a share of the others; at least one in."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > share
    mask[:, 0] = False
    mask[0, 1] = True
    return mask


def split(batch: SequenceBatch, sizes: Sequence[int]) -> Batches:
    """The same sequences as batches of these sizes, cycled."""

    def batches(_n_tokens: int) -> Iterator[SequenceBatch]:
        start = turn = 0
        while start < batch.n_sequences:
            rows = slice(start, start + sizes[turn % len(sizes)])
            tensors = {name: getattr(batch, name)[rows] for name in ("acts", "mask", "tokens", "positions", "doc_ids")}
            yield replace(batch, **tensors, source=batch.source[rows])
            start, turn = rows.stop, turn + 1

    return batches


def tiny_sae(preset: str = "topk", seed: int = 0, **options) -> Autoencoder:
    """An untrained autoencoder with biases, so that every term of a formula matters."""
    options = {"topk": {"k": 5}, "relu_l1": {}}[preset] | {"d_sae": 24} | options
    sae = build(preset, d_in=WIDTH, seed=seed, **options).double()
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        sae.b_enc.copy_(torch.randn(sae.d_sae, generator=generator) * 0.1)
        sae.b_dec.copy_(torch.randn(WIDTH, generator=generator) * 0.1)
        sae.W_enc.add_(torch.randn(WIDTH, sae.d_sae, generator=generator) * 0.1)
    return sae


@dataclass(frozen=True)
class Seen:
    """A core result beside the measures it was made from."""

    name: str
    result: EvalResult
    measured: Measured

    @property
    def metrics(self) -> CoreMetrics:
        return CoreMetrics.model_validate(self.result.flat)

    @property
    def flags(self) -> tuple[str, ...]:
        return self.result.flags

    @property
    def intervals(self) -> Mapping[str, Interval]:
        return self.result.intervals

    @property
    def data(self) -> CoreData:
        return self.measured.data

    @property
    def features(self) -> FeatureTable:
        return self.measured.saes[self.name].features

    @property
    def pca_curve(self) -> dict[int, float]:
        return self.measured.pca.curve()

    @property
    def by_position(self) -> dict[str, Any]:
        return self.result.block["by_position"]

    @property
    def by_document_position(self) -> dict[str, Any]:
        return self.result.block["by_document_position"]

    @property
    def histograms(self) -> dict[str, Any]:
        return self.result.block["histograms"]


def evaluate_core(
    saes: Mapping[str, Autoencoder], subject: Subject, site: str, batches: Batches, cfg: CoreEvalConfig, **bench: Any
) -> dict[str, Seen]:
    """Core on held-out `batches`; `bench` are further fields of the workbench."""
    place = Workbench(subject, site, heldout=Heldout(lambda n, _: batches(n), "made up"), **bench)
    measured = measure(saes, place, cfg)
    return {name: Seen(name, report(name, measured, cfg, place), measured) for name in saes}


def evaluate(
    subject: Subject, saes: dict[str, Autoencoder], batch: SequenceBatch, sizes: Sequence[int] = (4,), **options: Any
) -> dict[str, Seen]:
    """`evaluate_core` on all of `batch`."""
    n = batch.tokens.numel()
    cfg = CoreEvalConfig(tokens=n, behaviour_tokens=n, batch_sequences=max(sizes))
    return evaluate_core(saes, subject, options.pop("site", SITE), split(batch, sizes), cfg, **options)


def core_envelope(
    name: str, sae: Autoencoder, seen: Seen, cfg: CoreEvalConfig, provenance: Provenance
) -> dict[str, Any]:
    """The JSON of a core result."""
    return result_envelope(Core(**cfg.model_dump()), name, sae, seen.data.site, seen.result, provenance)


def write_core(
    path: Path, name: str, sae: Autoencoder, seen: Seen, cfg: CoreEvalConfig, provenance: Provenance
) -> None:
    """Write it."""
    write_envelope(result_envelope(Core(**cfg.model_dump()), name, sae, seen.data.site, seen.result, provenance), path)
