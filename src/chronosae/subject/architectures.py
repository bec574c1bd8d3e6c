"""Where each family of models keeps its parts: one table entry a family.

A site's value is read at a module's border, so that all families share one mechanism (`hooks.py`):

| site       | read at                                                        |
|------------|----------------------------------------------------------------|
| resid_pre  | input of the decoder layer                                     |
| attn_out   | output of the attention, or of the norm that follows it        |
| resid_mid  | input of the norm before the MLP                               |
| mlp_out    | output of the MLP, or of the norm that follows it              |
| resid_post | output of the decoder layer                                    |

TransformerLens' `hook_attn_out` and `hook_mlp_out` are what is added to the residual stream; in Gemma 2 and 3 that is
behind the post-norms (its `TransformerBlock.forward`), so the table names those norms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from chronosae.config import UserError
from chronosae.subject.sites import SITE_KINDS, SiteKind


@dataclass(frozen=True)
class Family:
    """Attribute names inside a decoder layer."""

    attn_norm: str
    """The norm in front of attention."""
    attn_out: str
    """The module whose output attention adds to the residual stream."""
    mlp_norm: str
    """The norm in front of the MLP; its input is resid_mid where the two branches run one after the other."""
    mlp_out: str
    """The module whose output the MLP adds to the residual stream."""


_LLAMA = Family("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
_POST_NORMS = Family(
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)

# By `model_type` of the (text) configuration.
FAMILIES: Final[dict[str, Family]] = {
    "gpt2": Family("ln_1", "attn", "ln_2", "mlp"),
    "gpt_neox": Family("input_layernorm", "attention", "post_attention_layernorm", "mlp"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _POST_NORMS,
    "gemma3_text": _POST_NORMS,
}

_BETWEEN_LAYERS: Final[tuple[SiteKind, ...]] = ("resid_pre", "resid_post")


def text_config(config: Any) -> Any:
    """The configuration of the text decoder: `config` itself unless the model has other modalities too."""
    return config.get_text_config(decoder=True)


def site_kinds(config: Any) -> tuple[SiteKind, ...]:
    """The kinds of site a model with this Hugging Face configuration has.

    Architectures outside the table offer the residual stream between layers only: a layer's input and output mean the
    same in every decoder, the inside of a layer doesn't.
    """
    config = text_config(config)
    if config.model_type not in FAMILIES:
        return _BETWEEN_LAYERS
    if config.model_type == "gpt_neox" and config.use_parallel_residual:
        return tuple(kind for kind in SITE_KINDS if kind != "resid_mid")
    return SITE_KINDS


@dataclass(frozen=True)
class Anatomy:
    """The parts of one loaded model."""

    layers: Sequence[nn.Module]
    family: Family | None

    def attn_norm(self, layer: int) -> nn.Module:
        """The norm in front of attention."""
        return self._part(layer, "attn_norm")

    def attn_out(self, layer: int) -> nn.Module:
        """The module whose output attention adds to the residual stream."""
        return self._part(layer, "attn_out")

    def mlp_norm(self, layer: int) -> nn.Module:
        """The norm in front of the MLP."""
        return self._part(layer, "mlp_norm")

    def mlp_out(self, layer: int) -> nn.Module:
        """The module whose output the MLP adds to the residual stream."""
        return self._part(layer, "mlp_out")

    def _part(self, layer: int, role: str) -> nn.Module:
        assert self.family is not None, "site_kinds offers no site inside a layer of an unknown architecture"
        return getattr(self.layers[layer], getattr(self.family, role))


def dissect(model: Any) -> Anatomy:
    """Find the decoder layers of a Hugging Face causal language model.

    Raises:
        UserError: the model keeps its layers where we don't look.
    """
    # transformers 4.56's get_decoder answers with the whole model for GPT-2 and GPT-NeoX.
    places = [
        getattr(trunk, name, None) for trunk in (model.get_decoder(), model.base_model) for name in ("layers", "h")
    ]
    layers = next((place for place in places if isinstance(place, nn.ModuleList)), None)
    if layers is None or len(layers) == 0:
        raise UserError(
            f"subject.model: can't find the decoder layers of {type(model).__name__}; supported: {', '.join(FAMILIES)},"
            " and others whose decoder keeps a list called layers or h"
        )
    return Anatomy(list(layers), FAMILIES.get(text_config(model.config).model_type))
