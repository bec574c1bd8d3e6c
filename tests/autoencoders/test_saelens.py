"""SAELens folders: read with their own formulas' codes, refused in one line when they can't be; temporal ones written.

That the codes equal SAELens' own is tested where SAELens is installed (tests/parity).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saelens_folders import OLD, VARIANTS, D, F, K, weights, write
from safetensors.torch import load_file, save_file

import chronosae
from chronosae.autoencoders import export_temporal, read_metadata
from chronosae.config import UserError
from chronosae.presets import build


def acts() -> torch.Tensor:
    return torch.randn(2, 7, D, generator=torch.Generator().manual_seed(0)) * 2 + 0.3


def codes_by_the_book(architecture: str, cfg: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """Codes of the static architectures, as SAELens defines them."""
    w = weights(architecture, cfg)
    if cfg.get("normalize_activations") == "constant_norm_rescale":
        x = x * D**0.5 / x.norm(dim=-1, keepdim=True)
    pre = (x - w["b_dec"] if cfg.get("apply_b_dec_to_input", True) else x) @ w["W_enc"]
    if architecture == "gated":
        return (pre + w["b_gate"] > 0) * torch.relu(pre * w["r_mag"].exp() + w["b_mag"])
    pre = pre + w["b_enc"]
    if architecture == "jumprelu":
        return torch.relu(pre) * (pre > w["threshold"])
    if architecture == "topk":
        if cfg.get("rescale_acts_by_decoder_norm"):
            pre = pre * w["W_dec"].norm(dim=1)
        return torch.relu(torch.where(pre >= pre.topk(K, dim=-1).values[..., -1:], pre, 0))
    return torch.relu(pre)


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("temporal")])
def test_codes_are_those_of_the_architecture(name: str, tmp_path: Path) -> None:
    architecture, options = VARIANTS[name]
    write(tmp_path, architecture, **options)
    sae = chronosae.load(tmp_path)
    expected = codes_by_the_book(architecture, options, acts())
    torch.testing.assert_close(sae.encode(acts()).dense(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OLD)
def test_keys_from_before_version_6_are_understood(name: str, tmp_path: Path) -> None:
    architecture, cfg = OLD[name]
    write(tmp_path, architecture, old=cfg)
    codes = chronosae.load(tmp_path).encode(acts()).dense()
    torch.testing.assert_close(codes, codes_by_the_book(architecture, cfg, acts()), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_was_read_can_be_saved_as_ours(name: str, tmp_path: Path) -> None:
    architecture, options = VARIANTS[name]
    write(tmp_path / "theirs", architecture, **options)
    sae = chronosae.load(tmp_path / "theirs")
    sae.save(tmp_path / "ours", read_metadata(tmp_path / "theirs"))
    again = chronosae.load(tmp_path / "ours")
    assert again.cfg == sae.cfg and torch.equal(again(acts()), sae(acts()))
    assert read_metadata(tmp_path / "ours")["site"] == "blocks.8.hook_resid_pre"


def test_metadata_is_found_under_our_names_and_theirs(tmp_path: Path) -> None:
    write(tmp_path / "new", "standard")
    found = read_metadata(tmp_path / "new")
    assert found["site"] == found["hook_name"] == "blocks.8.hook_resid_pre"
    assert found["subject"] == "gpt2" and found["context"] == 128
    write(tmp_path / "old", "standard", old=OLD["standard_without_architecture"][1])
    assert read_metadata(tmp_path / "old")["site"] == "blocks.3.hook_resid_pre"
    build("topk", d_in=D, d_sae=F, k=2).save(tmp_path / "ours", {"site": "here"})
    assert read_metadata(tmp_path / "ours") == {"site": "here"}


def test_narrow_weights_are_computed_with_in_float32(tmp_path: Path) -> None:
    write(tmp_path, "topk", k=K, dtype="bfloat16")
    path = tmp_path / "sae_weights.safetensors"
    save_file({name: weight.bfloat16() for name, weight in load_file(path).items()}, path)
    assert chronosae.load(tmp_path).W_dec.dtype == torch.float32


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    write(tmp_path, *VARIANTS["temporal"][:1], **VARIANTS["temporal"][1])
    before = torch.random.get_rng_state()
    chronosae.load(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda cfg, w: cfg.update(architecture="matching_pursuit"),
            "legal: standard, topk, jumprelu, gated, temporal",
        ),
        (lambda cfg, w: cfg.update(architecture=["topk"]), "legal: standard, topk, jumprelu, gated, temporal"),
        (lambda cfg, w: cfg.update(normalize_activations="layer_norm"), "normalize_activations 'layer_norm' can't be"),
        (lambda cfg, w: cfg.update(activation_fn="tanh-relu"), "activation_fn 'tanh-relu' can't be reproduced"),
        (lambda cfg, w: cfg.pop("d_in"), "d_in is missing"),
        (lambda cfg, w: cfg.update(d_sae="many"), "d_sae: input should be a valid integer"),
        (lambda cfg, w: cfg.update(dtype="int8"), "dtype: input should be"),
        (lambda cfg, w: cfg.pop("k"), "k is missing"),
        (lambda cfg, w: cfg.update(k=F + 1), r"k (33) must be at most d_sae (32)"),
        (lambda cfg, w: w.pop("b_enc"), "b_enc should have shape (32,) in a SAELens topk autoencoder, found nothing"),
        (lambda cfg, w: w.update(W_enc=torch.zeros(F, D)), "W_enc should have shape (8, 32)"),
        (lambda cfg, w: w.update(scaling_factor=torch.full((F,), 2.0)), "scaling_factor should have shape none"),
        (lambda cfg, w: w["W_dec"].fill_(torch.nan), "W_dec holds NaN or Inf"),
    ],
)
def test_a_folder_that_can_not_be_reproduced_is_one_clear_line(change: Change, message: str, tmp_path: Path) -> None:
    write(tmp_path, "topk", k=K)
    cfg, tensors = json.loads((tmp_path / "cfg.json").read_text()), load_file(tmp_path / "sae_weights.safetensors")
    change(cfg, tensors)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    with pytest.raises(UserError) as error:
        chronosae.load(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 5}, "d_sae (32) must be a multiple of n_heads x bottleneck_factor (5 x 4)"),
        ({"tied_weights": False, "apply_b_dec_to_input": False}, "apply_b_dec_to_input false can't be reproduced"),
    ],
)
def test_a_temporal_folder_that_makes_no_sense_is_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, "temporal", **options)
    with pytest.raises(UserError) as error:
        chronosae.load(tmp_path)
    assert message in str(error.value)


def test_a_factor_of_ones_that_does_nothing_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, "standard")
    path = tmp_path / "sae_weights.safetensors"
    save_file({**load_file(path), "scaling_factor": torch.ones(F)}, path)
    chronosae.load(tmp_path)


def test_an_exported_tfa_comes_back_as_it_was(tmp_path: Path) -> None:
    sae = build("tfa", d_in=D, d_sae=F, k=K, n_heads=2, bottleneck_factor=4, tied=False)
    export_temporal(sae, tmp_path, {"site": "blocks.1.hook_resid_post", "subject": "gpt2", "seed": 3})
    again = chronosae.load(tmp_path)
    assert again.cfg == sae.cfg and torch.equal(again(acts()), sae(acts()))
    found = read_metadata(tmp_path)
    assert found["hook_name"] == found["site"] == "blocks.1.hook_resid_post" and found["seed"] == 3


def test_what_the_temporal_format_can_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds tfa autoencoders; this is a topk"):
        export_temporal(build("topk", d_in=D, d_sae=F, k=K), tmp_path)
    sae = build("tfa", d_in=D, d_sae=F, n_heads=2, bottleneck_factor=4, activation={"kind": "batch_topk", "k": K})
    with pytest.raises(ValueError, match="knows topk and relu, not batch_topk"):
        export_temporal(sae, tmp_path)
