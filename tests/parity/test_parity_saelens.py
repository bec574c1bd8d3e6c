"""Folders of SAELens mean the same to us as to SAELens: equal codes and reconstructions, both ways.

SAELens is no dependency of ours: this runs in the environment of `tests/parity/requirements.txt` and is skipped
everywhere else.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sae_lens", reason="needs SAELens (tests/parity/requirements.txt)")
sys.path.insert(0, str(Path(__file__).parents[1] / "autoencoders"))

from sae_lens import SAE
from saelens_folders import OLD, VARIANTS, D, F, write

import chronosae
from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Normalisation, export_temporal
from chronosae.config import TrainingConfig
from chronosae.presets import build
from chronosae.training import Trainee


def acts(batch: int = 3, pos: int = 11) -> torch.Tensor:
    return torch.randn(batch, pos, D, generator=torch.Generator().manual_seed(0)) * 2 + 0.3


@pytest.mark.parametrize("name", VARIANTS)
def test_codes_and_reconstructions_equal_those_of_saelens(name: str, tmp_path: Path) -> None:
    architecture, options = VARIANTS[name]
    write(tmp_path, architecture, **options)
    same(chronosae.load(tmp_path), SAE.load_from_disk(tmp_path))


@pytest.mark.parametrize("name", OLD)
def test_folders_from_before_version_6_too(name: str, tmp_path: Path) -> None:
    architecture, cfg = OLD[name]
    write(tmp_path, architecture, old=cfg)
    same(chronosae.load(tmp_path), SAE.load_from_disk(tmp_path))


def same(ours: Any, theirs: Any) -> None:
    x = acts()
    with torch.no_grad():
        codes, recon = ours.encode(x), ours(x)
        codes = codes.novel.dense() if hasattr(codes, "novel") else codes.dense()
        expected = theirs.encode(x)
        torch.testing.assert_close(codes, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(recon, theirs(x), atol=1e-5, rtol=1e-5)
    assert (codes > 0).any() and not (codes > 0).all()


@pytest.mark.parametrize("kind", ["none", "dataset", "token"])
@pytest.mark.parametrize(
    "options",
    [{"k": 4}, {"k": 4, "n_attn_layers": 2, "tied": False}, {"activation": {"kind": "relu"}, "l1_weight": 0.05}],
    ids=["topk", "two_layers_untied", "relu"],
)
def test_a_tfa_we_trained_runs_in_saelens(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    norm = Normalisation(kind=kind, factor=1.7 if kind == "dataset" else 1.0)
    settings: dict[str, Any] = {"n_heads": 2, "bottleneck_factor": 4} | options
    sae = build("tfa", d_in=D, d_sae=F, normalisation=norm, **settings)
    member = Trainee("tfa", sae, "site", TrainingConfig(), steps=20, lr=1e-2, seed=0)
    mask, zeros = torch.ones(3, 11, dtype=torch.bool), torch.zeros(3, 11, dtype=torch.int64)
    for _ in range(20):
        member.step(SequenceBatch(acts(), mask, zeros, mask.cumsum(1) - 1, zeros, ("p",) * 3))
    export_temporal(sae, tmp_path, {"site": "blocks.1.hook_resid_post", "subject": "gpt2", "context": 128})
    theirs = SAE.load_from_disk(tmp_path)
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post" and theirs.cfg.metadata.model_name == "gpt2"
    same(sae, theirs)
    same(chronosae.load(tmp_path), theirs)
