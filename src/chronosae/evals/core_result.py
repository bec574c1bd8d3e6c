"""What a core evaluation returns: metrics that are numbers or absent, flags, intervals, per-feature numbers."""

from dataclasses import dataclass
from typing import Any

from chronosae.config import Section
from chronosae.evals.bootstrap import Interval
from chronosae.evals.features import FeatureTable

Metric = float | None

# Flag -> what it means. `docs/evaluations/core.md` says more.
FLAGS: dict[str, str] = {
    "never_fires": "no feature fired at any evaluated token",
    "non_finite_output": "codes or reconstruction held NaN or Inf; every metric is absent",
    "non_finite_logits": "the subject's logits held NaN or Inf with this reconstruction; CE and KL are absent",
    "constant_activations": "the activations don't vary, so explained variance doesn't exist",
    "dead_features_over_10_percent": "more than one feature in ten never fired on the evaluated tokens",
    "worse_than_mean": "explained variance at or below 0: the mean activation reconstructs as well",
    "worse_than_pca": "as many principal components as features active a token explain more",
    "ablation_not_worse_than_sae": "the subject loses no more by zero ablation than by this reconstruction",
    "ce_undefined": "zero ablation doesn't raise cross-entropy, so ce_loss_score doesn't exist",
    "ce_undefined_mean_ablation": "mean ablation doesn't raise cross-entropy, so its score doesn't exist",
    "kl_undefined": "zero ablation doesn't change the subject, so kl_div_score doesn't exist",
    "kl_undefined_mean_ablation": "mean ablation doesn't change the subject, so its score doesn't exist",
    "negative_codes": "some codes are negative; SAEBench subtracts those in l1 and leaves them out of densities",
    "fewer_tokens_than_asked": "the held-out text ran out before evals.core.tokens or behaviour_tokens",
}


class CoreMetrics(Section):
    """The core metrics by their flat names; None where a metric is undefined. NaN and Inf are refused."""

    explained_variance: Metric = None
    """1 - sum ||x - y||^2 / sum ||x - mean x||^2 over all unmasked tokens."""
    explained_variance_saebench_060: Metric = None
    """What SAEBench 0.6.0 calls explained_variance (scale dependent)."""
    explained_variance_legacy: Metric = None
    """What SAEBench's paper calls explained variance: mean over tokens of 1 - e / ||x - batch mean||^2."""
    pca_explained_variance: Metric = None
    """explained_variance of round(novel_l0) principal components, fitted on the evaluated tokens."""
    mse: Metric = None
    """Mean squared error an element."""
    mse_saebench: Metric = None
    """What SAEBench calls mse: mean over batches of (mean ||x - y||^2), over the mean tokens a batch."""
    cossim: Metric = None
    """Mean over tokens of cos(x, y); 0 where either is zero."""
    l2_norm_in: Metric = None
    """Mean ||x||."""
    l2_norm_out: Metric = None
    """Mean ||y||."""
    l2_ratio: Metric = None
    """Mean of ||y|| / ||x||: below 1 is shrinkage."""
    relative_reconstruction_bias: Metric = None
    """Mean over batches of mean ||y||^2 / mean x.y (SAEBench)."""
    relative_reconstruction_bias_pooled: Metric = None
    """sum ||y||^2 / sum x.y over all tokens: equation 10 of arXiv 2404.16014."""
    l0: Metric = None
    """Mean number of features active at a token."""
    novel_l0: Metric = None
    """The same without the features that TFA predicts from the past (a dense vector); elsewhere it is l0."""
    l1: Metric = None
    """Mean sum of |code| at a token, in the autoencoder's own units."""
    frac_alive: Metric = None
    """Share of the features that fired on at least one evaluated token."""
    freq_over_1_percent: Metric = None
    """Share of the features that fire on more than 1 % of the tokens."""
    freq_over_10_percent: Metric = None
    """Share of the features that fire on more than 10 % of the tokens."""
    normalized_freq_over_1_percent: Metric = None
    """Share of all activations that belongs to features firing on more than 1 % of the tokens."""
    normalized_freq_over_10_percent: Metric = None
    """Share of all activations that belongs to features firing on more than 10 % of the tokens."""
    average_max_encoder_cosine_sim: Metric = None
    """Mean over features of the largest cosine with another feature's encoder weights."""
    average_max_decoder_cosine_sim: Metric = None
    """Mean over features of the largest cosine with another feature's decoder weights."""
    decoder_cosine_separation: Metric = None
    """Mean squared cosine between different decoder rows."""
    decoder_welch_floor: Metric = None
    """The least it can be: (F - d) / (d (F - 1)), F features in d dimensions (Welch 1974)."""
    ce_loss_without_sae: Metric = None
    """Next-token cross-entropy of the subject, nats."""
    ce_loss_with_sae: Metric = None
    """The same with the reconstruction in place of the activations."""
    ce_loss_with_ablation: Metric = None
    """The same with zeros in place of the activations, at every position."""
    ce_loss_score: Metric = None
    """(CE with ablation - CE with SAE) / (CE with ablation - CE without): the loss recovered."""
    ce_loss_with_mean_ablation: Metric = None
    """The same with the mean unmasked activation, at unmasked positions."""
    ce_loss_score_mean_ablation: Metric = None
    """Loss recovered against mean ablation."""
    kl_div_with_sae: Metric = None
    """KL(clean || with the reconstruction), nats a position."""
    kl_div_with_ablation: Metric = None
    """KL(clean || zero ablation)."""
    kl_div_score: Metric = None
    """1 - KL with SAE / KL with ablation."""
    kl_div_with_mean_ablation: Metric = None
    """KL(clean || mean ablation)."""
    kl_div_score_mean_ablation: Metric = None
    """1 - KL with SAE / KL with mean ablation."""
    n_tokens: int | None = None
    """Unmasked tokens behind reconstruction and sparsity."""

    def defined(self) -> dict[str, float]:
        """The metrics that are numbers."""
        return {name: value for name, value in self.model_dump().items() if value is not None}

    def undefined(self) -> list[str]:
        """Names of the metrics that aren't."""
        return [name for name, value in self.model_dump().items() if value is None]


@dataclass(frozen=True)
class CoreData:
    """The evaluation data, the same for every autoencoder of one pass."""

    site: str
    context: int
    sequences: int
    behaviour_sequences: int
    batches: int
    behaviour_batches: int
    sha256: str
    """Of the tokens and the masks in order, however they were cut into batches."""
    short: bool
    """The text ran out before the tokens asked for."""


@dataclass(frozen=True)
class CoreResult:
    """The core evaluation of one autoencoder."""

    metrics: CoreMetrics
    flags: tuple[str, ...]
    intervals: dict[str, Interval]
    features: FeatureTable
    pca_curve: dict[int, float]
    data: CoreData
    seed: int
    wall_seconds: float
    """Of the whole pass, which every autoencoder evaluated together shares."""
    evaluated_together: int
    by_position: dict[str, list[Any]]
    """`PositionSums.table` by column of the context; empty where the output wasn't finite."""
    by_document_position: dict[str, list[Any]]
    """The same by `document_positions`: the document's first unmasked token in the context is 0."""
    histograms: dict[str, Any]
