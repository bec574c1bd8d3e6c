"""The whole evaluation on a real language model and held-out real text."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from evals_tiny import evaluate_core

from chronosae.activations import SequenceBatch, heldout_batches
from chronosae.config import RunConfig
from chronosae.presets import build
from chronosae.subject import Subject


def test_principal_components_as_an_autoencoder_lie_on_the_pca_line_of_a_real_model(shared: Path) -> None:
    """An SAE made of signed principal axes is a PCA, so on its own evaluation text it must meet the line."""
    site = "blocks.2.hook_resid_post"
    core = {"tokens": 16 * 64, "behaviour_tokens": 8 * 64, "batch_sequences": 8}
    cfg = RunConfig.model_validate(
        {
            "subject": {"model": str(shared / "models/stories260k"), "sites": [site]},
            "corpus": {"eval_path": str(shared / "data/stories/tinystories_sample.txt")},
            "activations": {"context": 64},
            "training": {"tokens": 2048, "batch_tokens": 2048},
            "saes": {"topk": {}},
            "evals": {"core": core},
        }
    )
    subject = Subject.load(cfg.subject)

    def batches(n_tokens: int) -> Iterator[SequenceBatch]:
        return (batch[site] for batch in heldout_batches(cfg, subject, -(-n_tokens // 64), 8))

    x = torch.cat([batch.unmasked() for batch in batches(16 * 64)])
    mean, d_in, k = x.mean(0), x.shape[1], 12
    axes = torch.linalg.eigh((x - mean).T @ (x - mean)).eigenvectors.flip(1)[:, :k]
    sae = build("relu_l1", d_in=d_in, d_sae=2 * k)
    with torch.no_grad():
        sae.b_dec.copy_(mean)
        sae.b_enc.zero_()
        sae.W_enc.copy_(torch.cat([axes, -axes], dim=1))
        sae.W_dec.copy_(torch.cat([axes, -axes], dim=1).T)
    assert cfg.evals.core is not None
    result = evaluate_core({"pca": sae}, subject, site, batches, cfg.evals.core)["pca"]
    metrics = result.metrics
    assert metrics.l0 == pytest.approx(k, abs=1e-6)
    assert metrics.explained_variance == pytest.approx(metrics.pca_explained_variance, rel=1e-5)
    assert metrics.undefined() == [] and "ce_undefined" not in result.flags
    # The model knows its stories; what twelve axes leave of it lies between ablation and the whole.
    assert metrics.ce_loss_without_sae < metrics.ce_loss_with_sae < metrics.ce_loss_with_ablation
    assert 0 < metrics.ce_loss_score < 1 and 0 < metrics.kl_div_score < 1
    # what the subject reads is of one document: there is nothing to resample
    assert not any(name.startswith(("ce_", "kl_")) for name in result.intervals)
    direct = [
        -subject.logits(b.tokens)[:, :-1].log_softmax(-1).gather(2, b.tokens[:, 1:, None])[..., 0][b.mask[:, :-1]]
        for b in batches(8 * 64)
    ]
    assert metrics.ce_loss_without_sae == pytest.approx(float(torch.cat(direct).mean()), rel=1e-5)
