"""What the product promises, at full size. Minutes each, so behind `-m slow`; `.ci/run` runs them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from chronosae.config import load_config
from chronosae.pipeline import run
from chronosae.world import score_world

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def both_cores() -> Any:
    """These run one at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def core(info: dict[str, Any], name: str) -> dict[str, float]:
    return info["saes"][name]["metrics"]["core"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_reconstructs_well_beats_pca_keeps_its_features_alive_and_matches_l0(tmp_path: Path) -> None:
    cfg = load_config(CONFIGS / "demo.yaml")
    assert cfg.saes["topk"]["k"] <= 256 / 8
    info = run(cfg, tmp_path / "demo")
    topk, relu = core(info, "topk"), core(info, "relu_l1")
    assert topk["explained_variance"] >= 0.85
    assert topk["explained_variance"] > topk["pca_explained_variance"]
    assert topk["frac_alive"] >= 0.90
    assert topk["ce_loss_score"] >= 0.90
    assert abs(relu["l0"] / topk["l0"] - 1) <= 0.05
    assert all(sae["flags"] == [] for sae in info["saes"].values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_model_on_real_text_reconstructs_well_on_held_out_text(tmp_path: Path, shared: Path) -> None:
    overrides = [
        f"subject.model={shared / 'models' / 'stories260k'}",
        f"corpus.path={shared / 'data' / 'wikitext2' / 'train.txt'}",
        f"corpus.eval_path={shared / 'data' / 'wikitext2' / 'valid.txt'}",
        "saes={topk: {preset: topk, d_sae: 1024, k: 8}}",
    ]
    info = run(load_config(CONFIGS / "quickstart.yaml", overrides), tmp_path / "stories")
    topk = core(info, "topk")
    assert topk["explained_variance"] >= 0.85
    assert topk["explained_variance"] > topk["pca_explained_variance"]
    assert topk["ce_loss_score"] >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_embedded_model_knows_its_world() -> None:
    scores = score_world(formats=("likelihood",))["likelihood"]
    assert set(scores) == {"pathogens", "history", "geography", "computing", "ageing"}
    for subject, score in scores.items():
        assert score["n"] >= 100 and score["accuracy"] >= 0.95, subject
