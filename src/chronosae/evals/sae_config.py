"""An autoencoder in the fields of SAEBench's `CustomSAEConfig`, which its notebooks and leaderboards read."""

from typing import Any

from chronosae.autoencoders import Autoencoder
from chronosae.evals.envelope import Provenance

# Our kinds of normalisation by SAELens' names for the same operations. Autoencoders take and give raw activations.
NORMALISATIONS = {"dataset": "expected_average_only_in", "token": "constant_norm_rescale", "none": "none"}


def sae_cfg_dict(sae: Autoencoder, site: str, context: int, provenance: Provenance) -> dict[str, Any]:
    """The fields; `context` is the length of the contexts it was evaluated on, 0 where they differ."""
    return {
        "model_name": provenance.subject,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "hook_layer": next((int(part) for part in site.split(".") if part.isdigit()), 0),
        "hook_name": site,
        "hook_head_index": None,
        "context_size": context,
        "architecture": sae.cfg.preset,
        "activation_fn_str": sae.cfg.activation.kind,
        "apply_b_dec_to_input": True,
        "normalize_activations": NORMALISATIONS[sae.cfg.normalisation.kind],
        "prepend_bos": provenance.prepend_bos,
        "dtype": str(sae.b_dec.dtype).removeprefix("torch."),
        "device": provenance.device,
        "dataset_path": provenance.dataset,
        "seqpos_slice": [None],
        "training_tokens": provenance.training_tokens,
        **(provenance.training or {}),
    }
