"""Folders of SAELens: published autoencoders come in, temporal ones we trained go out.

A SAELens folder has the same two files as ours. `chronosae.load` reads the architectures standard, topk, jumprelu,
gated and temporal, with the flat keys from before version 6 too; what can't be reproduced exactly is refused. The
autoencoder that results has the codes and reconstructions that SAELens itself computes, in float32 where theirs are
narrower.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chronosae.autoencoders.dictionary import Dictionary
from chronosae.autoencoders.parts import Positive
from chronosae.autoencoders.parts.activations import ActivationSpec, Gated, JumpReLU, ReLU, TopK
from chronosae.autoencoders.predictive import PredictiveAutoencoder
from chronosae.autoencoders.spec import Normalisation, Predictive, Spec
from chronosae.autoencoders.storage import (
    CFG_FILE,
    WEIGHTS_FILE,
    Weights,
    check_weights,
    read_safetensors,
    write_folder,
)
from chronosae.config import UserError, validate

# Our preset of each architecture.
PRESETS = {"standard": "relu_l1", "topk": "topk", "jumprelu": "jump_relu", "gated": "gated", "temporal": "tfa"}
# Keys that were renamed, in version 3 or so.
OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
# What we call the entries of `metadata` that a later step reads, and what they are called there.
METADATA = {"site": "hook_name", "subject": "model_name", "context": "context_size"}
# The version whose `temporal` folders we write.
VERSION = "6.54.0"
_ATTENTION = ("k_ctx", "q_target", "v_ctx", "c_proj")


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


def _read_cfg(raw: dict[str, Any], where: str) -> SAELensCfg:
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


def _read_weights(cfg: SAELensCfg, path: Path) -> Weights:
    """Their tensors in the configuration's type, names and shapes as they must be, all finite."""
    weights = read_safetensors(path)
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    if torch.equal(factor := weights.get("scaling_factor", torch.ones(1)), torch.ones_like(factor)):
        # Some versions wrote it although it did nothing.
        weights.pop("scaling_factor", None)
    check_weights(weights, _shapes(cfg), path, f" in a SAELens {cfg.architecture} autoencoder")
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


def is_saelens(cfg: dict[str, Any]) -> bool:
    """`cfg.json` is SAELens': an architecture that isn't ours, or the sizes in flat keys."""
    architecture = str(cfg.get("architecture", ""))
    return not architecture.startswith("chronosae/") and (bool(architecture) or {"d_in", "d_sae"} <= cfg.keys())


def read(folder: Path, raw: dict[str, Any]) -> tuple[Spec, Weights]:
    """What the autoencoder of a folder is made of, and its weights; `raw` is the folder's configuration.

    Raises:
        UserError: an architecture or option that can't be reproduced, or weights that don't fit.
    """
    where = str(folder / CFG_FILE)
    cfg = _read_cfg(raw, where)
    weights = _read_weights(cfg, folder / WEIGHTS_FILE)
    spec, state = (_temporal if cfg.architecture == "temporal" else _static)(cfg, weights, where)
    dtype = torch.float64 if cfg.dtype == "float64" else torch.float32
    return spec, {name: weight.to(dtype).contiguous() for name, weight in state.items()}


def metadata(raw: dict[str, Any]) -> dict[str, Any]:
    """Their metadata (flat keys before version 6), and what of it we know under our names: site, subject, context."""
    found = raw.get("metadata") if isinstance(raw.get("metadata"), dict) else None
    theirs = found or {OLD_NAMES.get(key, key): value for key, value in raw.items()}
    ours = {name: theirs[their_name] for name, their_name in METADATA.items() if theirs.get(their_name) is not None}
    return theirs | ours


def export_temporal(sae: Dictionary, folder: Path | str, metadata: dict[str, Any] | None = None) -> None:
    """Write a `tfa` autoencoder as a folder of SAELens' `temporal` architecture, which stock SAELens loads.

    Args:
        metadata: goes into `cfg.json`; site, subject and context also under SAELens' names.

    Raises:
        ValueError: another body, or novel codes by another function than topk or relu, which the format can't hold.
    """
    activation, norm = sae.cfg.activation, sae.cfg.normalisation
    if not isinstance(sae, PredictiveAutoencoder):
        raise ValueError(f"SAELens' temporal format holds tfa autoencoders; this is a {sae.cfg.preset}")
    if not isinstance(activation, TopK | ReLU):
        raise ValueError(f"SAELens' temporal format knows topk and relu, not {activation.kind}")
    known = {METADATA[name]: value for name, value in (metadata or {}).items() if name in METADATA}
    cfg = {
        "architecture": "temporal",
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": {"dataset": "constant_scalar_rescale", "token": "constant_norm_rescale"}.get(
            norm.kind, "none"
        ),
        "activation_normalization_factor": norm.factor,
        "reshape_activations": "none",
        "n_heads": sae.body.n_heads,
        "n_attn_layers": sae.body.n_attn_layers,
        "bottleneck_factor": sae.body.bottleneck_factor,
        "sae_diff_type": activation.kind,
        "kval_topk": activation.k if isinstance(activation, TopK) else None,
        "tied_weights": sae.body.tied,
        "metadata": {"sae_lens_version": VERSION, "sae_lens_training_version": None} | (metadata or {}) | known,
    }
    weights = {
        {"W_enc_untied": "W_enc"}.get(name, name): weight
        for name, weight in sae.state_dict().items()
        if not name.startswith(("heads.", "activation."))
    }
    write_folder(Path(folder), cfg, weights)


def _normalisation(cfg: SAELensCfg, where: str) -> Normalisation:
    """`expected_average_only_in` is a factor that SAELens folds into the weights before it saves them: nothing left."""
    kind = cfg.normalize_activations
    if kind in ("none", "expected_average_only_in"):
        return Normalisation()
    if kind == "constant_norm_rescale":
        return Normalisation(kind="token")
    if kind == "constant_scalar_rescale" and cfg.architecture == "temporal":
        return Normalisation(kind="dataset", factor=cfg.activation_normalization_factor)
    raise UserError(
        f"{where}: normalize_activations {kind!r} can't be reproduced;"
        " legal: none, expected_average_only_in, constant_norm_rescale"
    )


def _static(cfg: SAELensCfg, weights: Weights, where: str) -> tuple[Spec, Weights]:
    W_enc, W_dec, b_dec = (weights[name].double() for name in ("W_enc", "W_dec", "b_dec"))
    bias = weights["b_gate" if cfg.architecture == "gated" else "b_enc"].double()
    # (x - b_dec) W + (b + b_dec W) = x W + b
    shift = torch.zeros_like(bias) if cfg.apply_b_dec_to_input else b_dec @ W_enc
    activation: ActivationSpec = ReLU()
    state: Weights = {}
    if cfg.architecture == "topk":
        activation = TopK(k=cfg.k or 1)
        if cfg.rescale_acts_by_decoder_norm:
            # Codes are pre-activations times the norms, which the decoder divides by: the norms move to the encoder.
            norms = W_dec.norm(dim=1).clamp_min(1e-30)
            W_enc, bias, shift, W_dec = W_enc * norms, bias * norms, shift * norms, W_dec / norms.unsqueeze(1)
    if cfg.architecture == "jumprelu":
        activation = JumpReLU()
        # A threshold of zero or less lets every positive pre-activation pass, as the smallest positive number does.
        threshold = weights["threshold"].double().clamp_min(torch.finfo(torch.float32).tiny)
        state["activation.log_threshold"] = threshold.log()
    if cfg.architecture == "gated":
        activation = Gated()
        # Their magnitude exp(r) x W + b_mag is exp(r) (x W + b_gate) + ours.
        gain = weights["r_mag"].double()
        state["activation.log_gain"] = gain
        state["activation.b_mag"] = weights["b_mag"].double() - gain.exp() * bias
    unit = bool(((W_dec.norm(dim=1) - 1).abs() < 1e-4).all())
    # Terms have a home above this one: by name.
    terms = [{"kind": "gate_l1"}, {"kind": "gate_aux"}] if cfg.architecture == "gated" else []
    spec = _spec(cfg, where, activation=activation, decoder="unit_norm" if unit else "free", terms=terms)
    return spec, state | {"W_enc": W_enc, "W_dec": W_dec, "b_enc": bias + shift, "b_dec": b_dec}


def _temporal(cfg: SAELensCfg, weights: Weights, where: str) -> tuple[Spec, Weights]:
    state = {{"W_enc": "W_enc_untied"}.get(name, name): weight for name, weight in weights.items()}
    if not cfg.apply_b_dec_to_input:
        if not cfg.tied_weights:
            raise UserError(f"{where}: untied temporal weights with apply_b_dec_to_input false can't be reproduced")
        # Then SAELens adds it to no output either.
        state["b_dec"] = torch.zeros_like(state["b_dec"])
    topk = cfg.sae_diff_type == "topk" and cfg.kval_topk is not None
    body = Predictive(
        n_heads=cfg.n_heads,
        n_attn_layers=cfg.n_attn_layers,
        bottleneck_factor=cfg.bottleneck_factor,
        tied=cfg.tied_weights,
    )
    activation = TopK(k=cfg.kval_topk or 1) if topk else ReLU()
    return _spec(cfg, where, body=body, activation=activation, decoder="free"), state


def _spec(cfg: SAELensCfg, where: str, **parts: Any) -> Spec:
    """`UserError` in one line for parts that can't go together."""
    sizes = {"preset": PRESETS[cfg.architecture], "d_in": cfg.d_in, "d_sae": cfg.d_sae}
    try:
        return Spec(**sizes, normalisation=_normalisation(cfg, where), **parts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{where}: {first.get('ctx', {}).get('error', first['msg'])}") from None
