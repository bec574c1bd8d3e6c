"""Our activations equal TransformerLens' `from_pretrained_no_processing`, site by site.

TransformerLens is no dependency of ours: this runs in a separate environment (`tests/parity/requirements.txt`) and is
skipped everywhere else. A tiny random model is handed to both sides. TransformerLens derives its configuration from the
model's own where it can; for Gemma it keeps tables by name, whose sizes are replaced by the tiny ones.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformer_lens", reason="needs TransformerLens (tests/parity/requirements.txt)")
sys.path.insert(0, str(Path(__file__).parents[1] / "subject"))

from subject_families import CONTEXT, LAYERS, VOCAB, WIDTH, tiny_model
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens import loading_from_pretrained as tl_loading

from chronosae.subject import Site, Subject

_TINY = {"d_model": WIDTH, "d_head": 8, "n_heads": 4, "n_key_value_heads": 2, "d_mlp": 48, "n_layers": LAYERS}
_TINY |= {"n_ctx": CONTEXT, "d_vocab": VOCAB, "d_vocab_out": VOCAB, "rotary_dim": 8, "attn_scale": 8**0.5}
# Family -> (name in TransformerLens' tables, what the tiny model has otherwise).
_BY_NAME: dict[str, tuple[str, dict[str, Any]]] = {
    # transformers runs Gemma 1 with tanh-GELU whatever `hidden_act` says; TransformerLens' table says exact GELU.
    "gemma": ("google/gemma-2b", {"act_fn": "gelu_pytorch_tanh"}),
    "gemma2": ("google/gemma-2-2b", {"window_size": 4, "attn_types": ["local", "global", "local"]}),
    "gemma3": ("google/gemma-3-1b-pt", {"window_size": 4, "attn_types": ["local", "global", "local"]}),
}


def tl_model(family: str, model: Any, folder: Path) -> HookedTransformer:
    """What `HookedTransformer.from_pretrained_no_processing` builds, step by step, without a tokenizer."""
    if family in _BY_NAME:
        name, changes = _BY_NAME[family]
        config = tl_loading.get_pretrained_model_config(name, device="cpu", dtype=torch.float32)
        config = HookedTransformerConfig.from_dict(asdict(config) | _TINY | changes)
    else:
        # The name of the folder mustn't hold the family's: TransformerLens looks for it there.
        model.config.save_pretrained(folder)
        name = str(folder)
        config = tl_loading.get_pretrained_model_config(name, device="cpu", dtype=torch.float32)
    config.tokenizer_name = None
    hooked = HookedTransformer(config)
    hooked.load_and_process_state_dict(
        tl_loading.get_pretrained_state_dict(name, config, model, dtype=torch.float32),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
        refactor_factored_attn_matrices=False,
    )
    return hooked.eval()


@pytest.mark.parametrize(
    "family", ["gpt2", "pythia", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"]
)
def test_every_site_holds_transformerlens_values(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    # n_ctx: GPT-2's published config.json has it, and TransformerLens reads it.
    model = tiny_model(family, architectures=[type(tiny_model(family)).__name__], n_ctx=CONTEXT)
    subject = Subject(model, tokenizer=None, name=family)
    tokens = torch.randint(3, VOCAB, (2, 13), generator=torch.Generator().manual_seed(0))
    hooked = tl_model(family, model, tmp_path_factory.mktemp("tiny"))
    sites = [str(Site(layer, kind)) for layer in range(LAYERS) for kind in subject.info.kinds]
    with torch.no_grad():
        tl_logits, cache = hooked.run_with_cache(tokens, names_filter=sites)
    ours = subject.activations(tokens, sites)
    for site in sites:
        torch.testing.assert_close(
            ours[site], cache[site], atol=1e-4, rtol=0.0, msg=lambda text, s=site: f"{s}: {text}"
        )
    torch.testing.assert_close(subject.logits(tokens), tl_logits, atol=1e-4, rtol=0.0)


def test_transformerlens_has_no_resid_mid_in_pythia_either(tmp_path: Path) -> None:
    model = tiny_model("pythia", architectures=["GPTNeoXForCausalLM"])
    _, cache = tl_model("pythia", model, tmp_path).run_with_cache(torch.zeros(1, 2, dtype=torch.long))
    assert "blocks.0.hook_resid_pre" in cache and "blocks.0.hook_resid_mid" not in cache
    assert "resid_mid" not in Subject(model, tokenizer=None, name="pythia").info.kinds
