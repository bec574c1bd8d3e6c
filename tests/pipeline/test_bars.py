"""What the product promises, at full size. Minutes each, so behind `-m slow`; `.ci/run` runs them.

Runs go through the command line in a process of their own: what a user starts, without the shape checks of the tests.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from chronosae.world import score_world

ROOT = Path(__file__).parents[2]


def finished_run(out: Path, *command: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, *command, f"--out-dir={out}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "final_info.json").read_text())


def core(info: dict[str, Any], name: str) -> dict[str, float]:
    return info["saes"][name]["metrics"]["core"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_reconstructs_well_beats_pca_keeps_its_features_alive_and_matches_l0(tmp_path: Path) -> None:
    info = finished_run(tmp_path / "demo", str(ROOT / "experiment.py"))
    topk, relu = core(info, "topk"), core(info, "relu_l1")
    assert info["saes"]["topk"]["options"]["k"] <= info["saes"]["topk"]["d_in"] / 8
    assert topk["explained_variance"] >= 0.85
    assert topk["explained_variance"] > topk["pca_explained_variance"]
    assert topk["frac_alive"] >= 0.90
    assert topk["ce_loss_score"] >= 0.90
    assert abs(relu["l0"] / topk["l0"] - 1) <= 0.05
    assert all(sae["flags"] == [] for sae in info["saes"].values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_model_on_real_text_reconstructs_well_on_held_out_text(tmp_path: Path, shared: Path) -> None:
    text = shared / "data" / "wikitext2"
    info = finished_run(
        tmp_path / "stories",
        *["-m", "chronosae.cli", "run", str(ROOT / "configs" / "quickstart.yaml")],
        f"--set=subject.model={shared / 'models' / 'stories260k'}",
        f"--set=corpus.path={text / 'train.txt'}",
        f"--set=corpus.eval_path={text / 'valid.txt'}",
    )
    topk = core(info, "topk")
    assert info["saes"]["topk"]["options"]["k"] == 8 and info["saes"]["topk"]["dict_size"] == 1024
    assert topk["explained_variance"] >= 0.85
    assert topk["explained_variance"] > topk["pca_explained_variance"]
    assert topk["ce_loss_score"] >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_embedded_model_knows_its_world() -> None:
    torch.set_num_threads(2)
    scores = score_world(formats=("likelihood",), extras=False)["likelihood"]
    assert set(scores) == {"pathogens", "history", "geography", "computing", "ageing"}
    for subject, score in scores.items():
        assert score["n"] >= 100 and score["accuracy"] >= 0.95, subject
