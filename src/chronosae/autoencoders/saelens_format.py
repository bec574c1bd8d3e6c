"""What is in a SAELens folder: its configuration, of every version, and its tensors, checked."""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from chronosae.autoencoders.parts.base import Positive
from chronosae.autoencoders.storage import read_safetensors
from chronosae.config import UserError, validate

# Our preset of each architecture.
PRESETS = {"standard": "relu_l1", "topk": "topk", "jumprelu": "jump_relu", "gated": "gated", "temporal": "tfa"}
# Keys that were renamed, in version 3 or so.
OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
_ATTENTION = ("k_ctx", "q_target", "v_ctx", "c_proj")

Weights = dict[str, Tensor]


class SAELensCfg(BaseModel):
    """What of their configuration decides the codes; the rest is metadata."""

    model_config = ConfigDict(extra="ignore")

    architecture: str
    d_in: Positive
    d_sae: Positive
    dtype: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    activation_fn: str = "relu"
    k: Positive | None = None
    rescale_acts_by_decoder_norm: bool = False
    n_heads: Positive = 8
    n_attn_layers: int = Field(default=1, gt=0, le=1000)
    bottleneck_factor: Positive = 64
    sae_diff_type: Literal["topk", "relu"] = "topk"
    kval_topk: Positive | None = None
    tied_weights: bool = True
    activation_normalization_factor: float = Field(default=1.0, gt=0)


def read_cfg(raw: dict[str, Any], where: str) -> SAELensCfg:
    """The configuration, brought to the keys of today.

    Raises:
        UserError: an architecture or activation function that can't be read, or a bad value.
    """
    flat = {OLD_NAMES.get(key, key): value for key, value in raw.items()}
    flat = {key: value for key, value in flat.items() if value is not None}
    flat["architecture"] = str(flat.get("architecture", "standard"))
    flat["dtype"] = str(flat.get("dtype", "float32")).removeprefix("torch.")
    if flat.get("activation_fn") == "topk":
        # Before version 6, TopK was an activation function of the standard architecture.
        flat["architecture"] = "topk"
        arguments = flat.get("activation_fn_kwargs")
        flat.setdefault("k", arguments.get("k") if isinstance(arguments, dict) else None)
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = "expected_average_only_in" if flat["normalize_activations"] else "none"
    if flat["architecture"] not in PRESETS:
        raise UserError(
            f"{where}: SAELens architecture {flat['architecture']!r} can't be read; legal: {', '.join(PRESETS)}"
        )
    cfg = validate(SAELensCfg, flat, where=where)
    if cfg.activation_fn not in ("relu", "topk", "jumprelu"):
        raise UserError(
            f"{where}: activation_fn {cfg.activation_fn!r} can't be reproduced; legal: relu, topk, jumprelu"
        )
    if cfg.architecture == "topk" and cfg.k is None:
        raise UserError(f"{where}: k is missing")
    return cfg


def read_weights(cfg: SAELensCfg, path: Path) -> Weights:
    """Their tensors in the configuration's type, names and shapes as they must be, all finite."""
    weights = read_safetensors(path)
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    if torch.equal(factor := weights.get("scaling_factor", torch.ones(1)), torch.ones_like(factor)):
        # Some versions wrote it although it did nothing.
        weights.pop("scaling_factor", None)
    expected = _shapes(cfg)
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise UserError(
            f"{path}: {wrong} should have shape {expected.get(wrong, 'none (unknown name)')} in a SAELens"
            f" {cfg.architecture} autoencoder, found {found.get(wrong, 'nothing')}"
        )
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise UserError(f"{path}: {name} holds NaN or Inf")
    return {name: weight.to(getattr(torch, cfg.dtype)) for name, weight in weights.items()}


def _shapes(cfg: SAELensCfg) -> dict[str, tuple[int, ...]]:
    D, F = cfg.d_in, cfg.d_sae
    shapes: dict[str, tuple[int, ...]] = {"W_dec": (F, D), "b_dec": (D,)}
    if cfg.architecture != "temporal" or not cfg.tied_weights:
        shapes["W_enc"] = (D, F)
    if cfg.architecture in ("standard", "topk", "jumprelu"):
        shapes["b_enc"] = (F,)
    if cfg.architecture == "jumprelu":
        shapes["threshold"] = (F,)
    if cfg.architecture == "gated":
        shapes |= dict.fromkeys(("b_gate", "b_mag", "r_mag"), (F,))
    if cfg.architecture == "temporal":
        for layer in range(cfg.n_attn_layers):
            for name in _ATTENTION:
                width = F // cfg.bottleneck_factor if name in ("k_ctx", "q_target") else F
                shapes[f"attn_layers.{layer}.{name}.weight"] = (width, F)
                shapes[f"attn_layers.{layer}.{name}.bias"] = (width,)
    return shapes
