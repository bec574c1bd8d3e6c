"""Lagged edges on the codes of a trained TopK autoencoder, which are wrong on a third of their activations.

The committed results hold five seeds; two of them are trained again here.
"""

import json
import statistics
from pathlib import Path

import pytest
from causal_edges import edge_study

RESULTS = Path(__file__).parents[2] / "results" / "planted" / "causal-edges.json"
# Mean over seeds, and each: the bars for edges on the codes of an autoencoder.
BARS = {
    "at_true_count": (0.92, 0.88),
    "precision": (0.92, 0.88),
    "recall": (0.92, 0.88),
    "recoverable_recall": (0.97, 0.97),
    "interior_f1": (0.90, 0.85),
    "links_f1": (0.90, 0.85),
}


def check(studies: list[dict[str, float]], gain: float) -> None:
    for name, (average, each) in BARS.items():
        values = [study[name] for study in studies]
        assert statistics.fmean(values) >= average and min(values) >= each, (name, values)
    gains = [study["at_true_count"] - study["surprise_at_true_count"] for study in studies]
    losses = [study["at_true_count"] - study["sketch_at_true_count"] for study in studies]
    assert statistics.fmean(gains) >= gain and statistics.fmean(losses) <= 0.03
    assert max(study["null_edges"] for study in studies) <= 2
    assert max(study["no_edges_edges"] for study in studies) <= 2
    assert max(study["shuffled_pairs"] for study in studies) <= 0.01


def test_the_committed_results_hold_five_seeds_that_pass_every_bar():
    seeds = json.loads(RESULTS.read_text(encoding="utf-8"))["seeds"]
    assert sorted(seeds) == list("01234")
    check(list(seeds.values()), gain=0.08)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_edges_and_chains_are_found_on_the_codes_of_a_trained_autoencoder():
    # What is gained over surprise moves in steps of 1/64 and scatters by 0.04 between seeds: two say less than five.
    check([edge_study(seed) for seed in (0, 1)], gain=0.04)
