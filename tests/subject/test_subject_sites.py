"""Site names: TransformerLens' own, checked against what the architecture has."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from subject_families import FAMILY_CONFIGS, LAYERS, WIDTH, family_config, tiny_model
from transformers import StableLmConfig, StableLmForCausalLM

from chronosae.config import UserError
from chronosae.subject import SITE_KINDS, Site, Subject, check_sites
from chronosae.subject.info import describe

ALL_LEGAL = r"blocks\.0\.\.2\.hook_resid_\{pre,mid,post\}, blocks\.0\.\.2\.hook_\{attn,mlp\}_out"


@given(layer=st.integers(0, LAYERS - 1), kind=st.sampled_from(SITE_KINDS))
def test_a_site_is_written_as_it_is_read(layer: int, kind: str) -> None:
    info = describe(family_config("llama"), 0)
    (site,) = check_sites(info, [f"blocks.{layer}.hook_{kind}"])
    assert site == (layer, kind) and str(site) == f"blocks.{layer}.hook_{kind}"


@pytest.mark.parametrize(
    "name",
    [
        "hook_embed",
        "blocks.1.hook_resid",
        "blocks.-1.hook_resid_pre",
        "blocks.01.hook_resid_pre",
        "blocks.1.attn.hook_z",
        "",
    ],
)
def test_a_name_that_is_no_site_lists_the_legal_ones(name: str) -> None:
    with pytest.raises(UserError, match=f"is not a site; legal: {ALL_LEGAL}"):
        check_sites(describe(family_config("llama"), 0), [name])


def test_a_layer_that_does_not_exist_lists_the_legal_names() -> None:
    with pytest.raises(UserError, match=f"'blocks.3.hook_resid_pre': the model has 3 layers; legal: {ALL_LEGAL}"):
        check_sites(describe(family_config("llama"), 0), ["blocks.0.hook_resid_pre", "blocks.3.hook_resid_pre"])


def test_pythia_has_no_resid_mid_because_its_branches_are_parallel(subject: Subject) -> None:
    name = "blocks.1.hook_resid_mid"
    if subject.name == "pythia":
        with pytest.raises(UserError, match=r"gpt_neox has no resid_mid.*hook_resid_\{pre,post\}"):
            subject.check_sites([name])
        with pytest.raises(UserError, match="gpt_neox has no resid_mid"):
            subject.d_in(name)
    else:
        subject.check_sites([name])
        assert subject.d_in(name) == WIDTH


def test_no_site_and_the_same_site_twice_are_errors() -> None:
    info = describe(family_config("gpt2"), 0)
    with pytest.raises(UserError, match="no site given"):
        check_sites(info, [])
    with pytest.raises(UserError, match="given twice"):
        check_sites(info, ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_pre"])


def test_what_the_configuration_tells_equals_what_the_loaded_model_has(subject: Subject) -> None:
    assert set(FAMILY_CONFIGS) >= {subject.name}
    n_parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    assert subject.info == describe(family_config(subject.name), n_parameters)


def test_an_architecture_outside_the_table_offers_the_stream_between_layers() -> None:
    config = StableLmConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    subject = Subject(StableLmForCausalLM(config), tokenizer=None, name="stablelm")
    assert subject.info.kinds == ("resid_pre", "resid_post")
    with pytest.raises(UserError, match="stablelm isn't in our table"):
        subject.check_sites(["blocks.0.hook_mlp_out"])
    tokens = torch.arange(6)[None]
    acts = subject.activations(tokens, ["blocks.0.hook_resid_post"])["blocks.0.hook_resid_post"]
    torch.testing.assert_close(subject.run_from("blocks.0.hook_resid_post", acts), subject.logits(tokens))


def test_two_models_of_one_shape_have_different_fingerprints() -> None:
    model = tiny_model("llama")
    same, other = (Subject(model, None, name="a").fingerprint, Subject(model, None, name="b").fingerprint)
    assert same == other
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert Subject(model, None, name="a").fingerprint != same


def test_sites_sort_in_the_order_of_the_forward_pass() -> None:
    sites = [Site(1, "resid_pre"), Site(0, "resid_post"), Site(0, "resid_mid"), Site(0, "attn_out")]
    assert sorted(sites, key=lambda site: site.order) == sites[::-1]
