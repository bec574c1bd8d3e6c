"""A bad value gives one clear line that names the key, through `chronosae.build` as through a configuration."""

from typing import Any

import pytest
import torch
from autoencoder_cases import D_IN, D_SAE

import chronosae
from chronosae.autoencoders import TopK
from chronosae.config import UserError

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("nope", {}, "unknown preset 'nope'; legal: relu_l1, topk, "),
    ("topk", {"kk": 4}, "build('topk'): unknown key kk; did you mean k? Legal here: "),
    ("topk", {"k": 25}, "k (25) must be at most d_sae (24)"),
    ("winner_take_all", {"k": 25}, "k (25.0) must be at most d_sae (24)"),
    ("multiscale", {"rates": []}, "rates must be different positive dilations such as [1, 2, 4], got []"),
    ("multiscale", {"rates": [1, 1]}, "got [1, 1]"),
    ("multiscale", {"rates": [0, 2]}, "got [0, 2]"),
    ("multiscale", {"rates": [-1]}, "got [-1]"),
    ("multiscale", {"kernel_size": 1}, "kernel_size must be at least 2: a feature kernel of one tap sees no other"),
    ("multiscale", {"rank": 2}, "rank, centered and depthwise need placement: input"),
    ("multiscale", {"placement": "input", "centered": True, "kernel_size": 2}, "kernel_size must be odd, got 2"),
    ("multiscale", {"placement": "both"}, "placement: input should be 'feature' or 'input', got \"both\""),
    ("multiscale", {"kernel": {"kind": "conv", "rates": []}}, "kernel: rates must be different positive dilations"),
    ("chrono", {"window": 1}, "window: input should be greater than or equal to 2, got 1"),
    ("consistency", {"window": 1}, "window: input should be greater than or equal to 2, got 1"),
    ("consistency", {"activation": {"kind": "topk", "k": 0}}, "activation.k: input should be greater than 0, got 0"),
    ("consistency", {"activation": {"kind": "topk", "k": 25}}, "k (25) must be at most d_sae (24)"),
    ("consistency", {"activation": {"kind": "topk"}}, "activation.k is missing"),
    ("consistency", {"activation": {"kind": "top"}}, "activation: unknown activation kind 'top'; legal: relu, topk"),
    ("consistency", {"k": 3, "activation": {"kind": "topk", "k": 3}}, "k means nothing beside activation"),
    ("chrono", {"rates": [1], "kernel": {"kind": "conv"}}, "rates means nothing beside kernel"),
    ("multiscale", {"rates": [1], "kernel": {"kind": "conv"}}, "rates means nothing beside kernel"),
    ("multiscale", {"denoise": True, "corruption": {"kind": "gaussian"}}, "denoise means nothing beside corruption"),
    ("positional", {"mask": "hard", "position_mask": {"kind": "soft", "context": 8}}, "mask means nothing beside"),
    ("tfa", {"k": 3, "activation": {"kind": "relu"}}, "k means nothing beside activation"),
    ("chrono", {"k_aux": 3, "activation": {"kind": "relu"}}, "k_aux is for activation functions that choose k"),
    ("consistency", {"activation": {"k": 3}}, "activation: unknown activation kind None; legal: relu, topk"),
    ("consistency", {"activation": {"kind": ["topk"]}}, "activation: unknown activation kind ['topk']"),
    ("consistency", {"activation": "topk"}, "activation: expected a mapping with `kind` (one of relu,"),
    ("consistency", {"activation": {"kind": "gated"}}, "the gated activation and the gate_aux term need each other"),
    ("consistency", {"norm": {"kind": "layer", "epz": 1}}, "norm.epz: unknown key; legal for layer: eps, kind, got 1"),
    ("consistency", {"norm": {"kind": "batch", "momentum": 2}}, "norm.momentum: input should be less than or equal"),
    ("consistency", {"norm": TopK(k=3)}, "norm: input should be a valid dictionary or instance of NormSpec"),
    ("consistency", {"mixer": {"kind": "conv", "rank": 0}}, "mixer.rank: input should be greater than 0, got 0"),
    ("consistency", {"corruption": {"kind": "gaussian", "level": 0}}, "corruption.level: input should be greater"),
    ("consistency", {"feature_dropout": 1.0}, "feature_dropout: input should be less than 1, got 1.0"),
    ("consistency", {"extra_terms": [{"kind": "cosine"}, {"kind": "next_token", "weight": 0}]}, "extra_terms.1.weight"),
    ("consistency", {"extra_terms": [{"kind": "consistency"}]}, "term 'consistency' is given twice"),
    ("consistency", {"extra_terms": [{"kind": "l0"}]}, "the l0 term needs the thresholds of the jump_relu activation"),
    ("consistency", {"trackers": [{"kind": "nope"}]}, "trackers.0: unknown tracker kind 'nope'"),
    ("positional", {"mask": "hard", "context": 4}, "share (8) leaves no position of the context (4) open"),
    ("positional", {"mask": "slices", "context": 4}, "slices (8) must be at most the context (4)"),
    ("positional", {"mask": "groups", "context": 2}, "early, middle and late need a context of at least 3, got 2"),
    ("positional", {"initial": [0.7, 0.3]}, "initial must be a range inside (0, 1), got [0.7, 0.3]"),
    ("positional", {"mask": "hard", "initial": [0.3, 0.7]}, "initial is for the soft mask, this one is hard"),
    ("positional", {"mask": "hard", "mask_lr_multiplier": 2}, "mask_lr_multiplier is for masks that learn"),
    ("positional", {"position_mask": {"kind": "hard", "context": 0}}, "position_mask.context: input should be greater"),
    ("matryoshka", {"split": [0.5, 0.6]}, "split must sum to 1, got [0.5, 0.6], which sums to 1.1"),
    ("tsae", {"split": [0.2, 0.2]}, "split must sum to 1, got [0.2, 0.2], which sums to 0.4"),
    ("tfa", {"n_heads": 5, "bottleneck_factor": 1}, "d_sae (24) must be a multiple of n_heads x bottleneck_factor"),
    ("txc", {"window": 1}, "window: input should be greater than or equal to 2, got 1"),
    ("stacked", {"window": 5}, "window (5) must divide d_sae (24) and k (4)"),
]


@pytest.mark.parametrize(("preset", "options", "message"), BAD, ids=[f"{b[0]}-{b[2][:40]}" for b in BAD])
def test_a_bad_value_is_one_clear_line(preset: str, options: dict[str, Any], message: str) -> None:
    k = {} if {"k", "activation"} & {*options} or preset in ("nope", "relu_l1") else {"k": 4}
    with pytest.raises(UserError) as error:
        chronosae.build(preset, d_in=D_IN, d_sae=D_SAE, **k, **options)
    text = str(error.value)
    assert message in text
    assert "\n" not in text and len(text) < 400 and preset in text


@pytest.mark.parametrize("preset", ["tfa", "txc", "stacked", "multiscale", "chrono"])
def test_flat_input_where_neighbours_matter_says_what_is_needed(preset: str) -> None:
    options = {"k": 4, **({"n_heads": 2, "bottleneck_factor": 3} if preset == "tfa" else {})}
    sae = chronosae.build(preset, d_in=D_IN, d_sae=D_SAE, **options | ({"window": 4} if preset == "txc" else {}))
    field = "all earlier tokens" if preset == "tfa" else f"{sae.receptive_field} tokens"
    with pytest.raises(ValueError, match=rf"^a {preset} autoencoder reads {field} at once, so it needs activations"):
        sae.encode(torch.zeros(5, D_IN))
