"""SAELens folders written by hand: every architecture and option that we read, of old versions too."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

D, F, K, HEADS, BOTTLENECK = 8, 32, 5, 2, 4

# name -> (architecture, keys that differ from the defaults)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {}),
    "standard_input_not_centred": ("standard", {"apply_b_dec_to_input": False}),
    "standard_norm_rescale": ("standard", {"normalize_activations": "constant_norm_rescale"}),
    "standard_average": ("standard", {"normalize_activations": "expected_average_only_in"}),
    "topk": ("topk", {"k": K}),
    "topk_rescaled": ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    "topk_rescaled_not_centred": (
        "topk",
        {"k": K, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False},
    ),
    "jumprelu": ("jumprelu", {}),
    "jumprelu_not_centred": ("jumprelu", {"apply_b_dec_to_input": False}),
    "gated": ("gated", {}),
    "gated_not_centred": ("gated", {"apply_b_dec_to_input": False}),
    "gated_norm_rescale": ("gated", {"normalize_activations": "constant_norm_rescale"}),
    "temporal": ("temporal", {"sae_diff_type": "topk", "kval_topk": K}),
    "temporal_relu_two_layers": ("temporal", {"sae_diff_type": "relu", "n_attn_layers": 2}),
    "temporal_untied": ("temporal", {"sae_diff_type": "topk", "kval_topk": K, "tied_weights": False}),
    "temporal_no_bias": ("temporal", {"sae_diff_type": "topk", "kval_topk": K, "apply_b_dec_to_input": False}),
    "temporal_scaled": (
        "temporal",
        {
            "sae_diff_type": "topk",
            "kval_topk": K,
            "normalize_activations": "constant_scalar_rescale",
            "activation_normalization_factor": 0.3,
        },
    ),
}

# Flat keys, as versions before 6 wrote them.
OLD: dict[str, tuple[str, dict[str, Any]]] = {
    "standard_without_architecture": (
        "standard",
        {"activation_fn_str": "relu", "hook_point": "blocks.3.hook_resid_pre", "normalize_activations": False},
    ),
    "topk_as_activation_function": (
        "topk",
        {
            "architecture": "standard",
            "activation_fn_str": "topk",
            "activation_fn_kwargs": {"k": K},
            "hook_name": "blocks.3.hook_resid_pre",
        },
    ),
    "gated": ("gated", {"architecture": "gated", "apply_b_dec_to_input": True, "normalize_activations": "none"}),
    "jumprelu": ("jumprelu", {"architecture": "jumprelu", "activation_fn_str": "relu", "normalize_activations": None}),
}


def write(folder: Path, architecture: str, old: dict[str, Any] | None = None, **options: Any) -> None:
    """A folder with random weights: non-unit decoder rows, biases, thresholds of every sign."""
    sizes = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu"}
    cfg: dict[str, Any] = {
        **sizes,
        "architecture": architecture,
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": "gpt2",
            "hook_name": "blocks.8.hook_resid_pre",
            "context_size": 128,
        },
    }
    if architecture == "temporal":
        cfg |= {"n_heads": HEADS, "n_attn_layers": 1, "bottleneck_factor": BOTTLENECK, "tied_weights": True}
    cfg |= options
    if old is not None:
        cfg = {**sizes, "model_name": "gpt2", "context_size": 64, "finetuning_scaling_factor": False, **old}
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file(weights(architecture, cfg), folder / "sae_weights.safetensors")


def weights(architecture: str, cfg: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors under SAELens' names."""
    g = torch.Generator().manual_seed(1)

    def normal(*shape: int, std: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * std

    if architecture == "temporal":
        out = {"W_dec": normal(F, D, std=1.5), "b_dec": normal(D, std=0.3)}
        if not cfg["tied_weights"]:
            out["W_enc"] = normal(D, F)
        for layer in range(cfg["n_attn_layers"]):
            for name in ("k_ctx", "q_target", "v_ctx", "c_proj"):
                width = F // BOTTLENECK if name in ("k_ctx", "q_target") else F
                out[f"attn_layers.{layer}.{name}.weight"] = normal(width, F, std=1.0)
                out[f"attn_layers.{layer}.{name}.bias"] = normal(width, std=0.1)
        return out
    out = {"W_enc": normal(D, F), "W_dec": normal(F, D), "b_dec": normal(D, std=0.3)}
    if architecture == "gated":
        return out | {"b_gate": normal(F), "b_mag": normal(F), "r_mag": normal(F, std=0.3)}
    out["b_enc"] = normal(F, std=0.5)
    if architecture == "jumprelu":
        out["threshold"] = normal(F) + 0.5
        out["threshold"][0] = 0.0
    return out
