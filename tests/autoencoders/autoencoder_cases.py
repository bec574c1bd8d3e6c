"""Small autoencoders of every preset and of every part, with weights that make each part do something."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Draws, Normalisation, Pass
from chronosae.autoencoders.parts.activations import ACTIVATIONS
from chronosae.autoencoders.parts.position_masks import POSITION_MASKS
from chronosae.objectives import StepContext, reconstruction_error, term_value
from chronosae.presets import PRESETS, build

D_IN, D_SAE, CONTEXT = 8, 24, 40

Case = tuple[str, dict[str, Any]]

# A row for every preset: options at this size.
TFA = {"n_heads": 2, "n_attn_layers": 2, "bottleneck_factor": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "relu_l1": {},
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "jump_relu": {},
    "gated": {},
    "matryoshka": {"k": 4},
    "winner_take_all": {"k": 4},
    "multiscale": {"k": 4},
    "consistency": {"k": 4, "window": 3},
    "causal": {"k": 4, "window": 2, "rank": 3, "entries": 4, "correlation_weight": 0.1},
    "lagged": {"lags": 2, "entries": 4},
    "positional": {"k": 4, "context": CONTEXT},
    "tsae": {"k": 4},
    "tfa": {"k": 4, **TFA},
    "txc": {"k": 4, "window": 3},
    "stacked": {"k": 6, "window": 3},
    "chrono": {"k": 4, "window": 3, "rates": [1, 3]},
}

ACTIVATION_OPTIONS: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "jump_relu": {"threshold": 0.3},
}
TERMS_FOR: dict[str, list[dict[str, Any]]] = {
    "relu": [{"kind": "l1", "weight": 0.1}],
    "jump_relu": [{"kind": "l0", "weight": 0.1}],
    "gated": [{"kind": "gate_aux"}, {"kind": "gate_l1", "weight": 0.1}],
}


def mix(activation: str) -> Case:
    """Multiscale, consistency and positional in one autoencoder, with everything else that fits."""
    return "multiscale", {
        "rates": [1, 3],
        "activation": {"kind": activation, **ACTIVATION_OPTIONS.get(activation, {})},
        "mixer": {"kind": "conv", "rates": [1, 2], "rank": 3},
        "norm": {"kind": "batch"},
        "position_mask": {"kind": "soft", "context": CONTEXT, "masked_gradients": True},
        "corruption": {"kind": "gaussian", "level": 0.1},
        "feature_dropout": 0.2,
        "extra_terms": [
            {"kind": "consistency", "window": 3},
            {"kind": "cross_position"},
            {"kind": "next_token"},
            {"kind": "code_separation"},
            {"kind": "orthogonality"},
            *TERMS_FOR.get(activation, []),
        ],
    }


MIXES: dict[str, Case] = {f"mix_{kind}": mix(kind) for kind in ACTIVATIONS.kinds}
INPUT = {"k": 4, "placement": "input"}
VARIANTS: dict[str, Case] = {
    "input": ("multiscale", INPUT),
    "input_low_rank": ("multiscale", {**INPUT, "rank": 2}),
    "input_full": ("multiscale", {**INPUT, "depthwise": False, "rates": [1, 3]}),
    "input_kernel_1": ("multiscale", {**INPUT, "kernel_size": 1}),
    "input_centered": ("multiscale", {**INPUT, "centered": True, "rates": [1, 2]}),
    "layer_norm": ("chrono", {"k": 4, "window": 3, "norm": {"kind": "layer"}}),
    "batch_norm": ("consistency", {"k": 4, "window": 3, "norm": {"kind": "batch"}}),
    "tfa_untied": ("tfa", {**TFA, "tied": False, "activation": {"kind": "jump_relu"}}),
    "txc_batch_topk": ("txc", {"window": 3, "activation": {"kind": "batch_topk", "k": 4}}),
    "stacked_relu": ("stacked", {"window": 3, "activation": {"kind": "relu"}}),
    "lagged_topk": ("lagged", {**OPTIONS["lagged"], "k": 4}),
    "chrono_positional": (
        "chrono",
        {"k": 4, "window": 3, "position_mask": {"kind": "importance", "context": 5, "beyond": "wrap"}},
    ),
    **{f"{kind}_mask": ("positional", {"k": 4, "mask": kind, "context": CONTEXT}) for kind in POSITION_MASKS.kinds},
    **MIXES,
}

CASES: dict[str, Case] = {name: (name, OPTIONS.get(name, {})) for name in PRESETS} | {
    name: case for name, case in VARIANTS.items() if case[0] in PRESETS
}
each_case = pytest.mark.parametrize("name", CASES)


def make(name: str, kind: str = "none", dtype: torch.dtype = torch.float64, seed: int = 0) -> Autoencoder:
    """The autoencoder of a case, none of its weights or statistics at a special value."""
    preset, options = CASES[name]
    factor = 1.7 if kind == "dataset" else 1.0
    normalisation = Normalisation(kind=kind, factor=factor)  # pyright: ignore[reportArgumentType]
    sae = build(preset, d_in=D_IN, d_sae=D_SAE, normalisation=normalisation, seed=seed, **options).double()
    disturb(sae, seed)
    return sae.to(dtype).eval()


@torch.no_grad()
def disturb(sae: Autoencoder, seed: int) -> None:
    """Move every weight and every statistic off its initial value."""
    g = torch.Generator().manual_seed(seed + 100)
    for parameter in sae.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=g, dtype=parameter.dtype), alpha=0.2)
    for key, buffer in sae.named_buffers():
        draw = torch.rand(buffer.shape, generator=g, dtype=torch.float64)
        match key.rsplit(".", 1)[-1]:
            case "threshold" | "thresholds":
                buffer.copy_(0.2 + 0.5 * draw)
            case "running_mean" | "running_var":
                buffer.copy_(0.5 + draw)
            case "seen":
                buffer.fill_(True)


@dataclass(frozen=True)
class Inputs:
    """Random sequences: about a quarter of the tokens masked, a few documents a sequence."""

    acts: Tensor
    mask: Tensor
    doc_ids: Tensor

    def encode(self, sae: Autoencoder, **changes: Any) -> Tensor:
        """Dense codes of these inputs, some of them replaced."""
        given = {"acts": self.acts, "mask": self.mask, "doc_ids": self.doc_ids} | changes
        acts, mask = given.pop("acts"), given.pop("mask")
        with torch.no_grad():
            return sae.encode(acts, mask, **given).dense()


def inputs(batch: int, pos: int, seed: int, dtype: torch.dtype = torch.float64) -> Inputs:
    """Sequences from a seed. Document numbers return on purpose: what counts is where they change."""
    g = torch.Generator().manual_seed(seed)
    acts = torch.randn(batch, pos, D_IN, generator=g, dtype=torch.float64).to(dtype)
    mask = torch.rand(batch, pos, generator=g) > 0.25
    documents = (torch.rand(batch, pos, generator=g) < 0.2).long().cumsum(1) % 2
    return Inputs(acts, mask, documents)


def noise(*shape: int, seed: int = 999) -> Tensor:
    """Something else, ten times as large."""
    return 10 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(
    sae: Autoencoder, given: Inputs, draws: Draws | None = None, *, acts: Tensor | None = None, dead_every: int = 3
) -> tuple[Tensor, Pass]:
    """The whole objective of one training pass, one feature in `dead_every` counted as dead, and the pass."""
    draws = draws or Draws(3, 5)
    acts = given.acts if acts is None else acts
    forward = sae.training_pass(acts, given.mask, doc_ids=given.doc_ids, draws=draws)
    step = StepContext(sae, forward, torch.arange(sae.d_sae) % dead_every == dead_every - 1, draws)
    loss = sae.cfg.reconstruction_weight * reconstruction_error(forward)
    for term in sae.cfg.terms:
        value = term_value(term, step)
        if value is not None:
            loss = loss + term.weight * value
    return loss, forward


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Equal within DESIGN's tolerance."""
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
