"""Edits of codes: what is clamped, what stays to the bit, for every kind of autoencoder."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "autoencoders"))

from autoencoder_cases import CASES, D_IN, D_SAE, make

from chronosae.autoencoders import Autoencoder, DenseCodes, Normalisation, SparseCodes
from chronosae.interventions import Change, Clamp, CodeEdit, Reading, SiteEdit, edited, read
from chronosae.presets import build

FEATURES = tuple(range(0, D_SAE, 2))


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, a mask with holes, two documents a row."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(3, 10, D_IN, generator=generator, dtype=torch.float64) * 2
    mask = torch.rand(3, 10, generator=generator) > 0.2
    mask[:, 0] = False
    docs = (torch.arange(10) >= 6).long().expand(3, 10)
    return acts, mask, docs


def reading(sae: Autoencoder, seed: int = 0) -> Reading:
    acts, mask, docs = inputs(seed)
    with torch.no_grad():
        return read(sae, acts, mask, doc_ids=docs)


def reference(sae: Autoencoder, seen: Reading, features: tuple[int, ...], multiplier: float) -> Tensor:
    """The formula as it is written, on dense codes of all tokens."""
    f = seen.codes.dense()
    fires = seen.codes.chosen().dense() > 0
    chosen = torch.isin(torch.arange(sae.d_sae), torch.tensor(features))
    new = torch.where(fires & chosen, (-multiplier * seen.unit).unsqueeze(-1), f)
    error = seen.acts - sae.decode(DenseCodes(f, seen.codes.scale))
    return torch.where(seen.mask.unsqueeze(-1), sae.decode(DenseCodes(new, seen.codes.scale)) + error, seen.acts)


@pytest.mark.parametrize("name", CASES)
def test_a_clamp_is_its_formula_and_masked_and_untouched_tokens_keep_their_bits(name: str) -> None:
    sae = make(name).double().eval()
    seen = reading(sae)
    with torch.no_grad():
        out = edited(sae, seen, Clamp().edit(FEATURES, 7.0))
        torch.testing.assert_close(out, reference(sae, seen, FEATURES, 7.0), rtol=1e-9, atol=1e-9)
    fires = (seen.codes.chosen().dense()[..., list(FEATURES)] > 0).any(-1)
    assert torch.equal(out[~fires], seen.acts[~fires]) and torch.equal(out[~seen.mask], seen.acts[~seen.mask])


@pytest.mark.parametrize("kind", ["none", "dataset", "token"])
@pytest.mark.parametrize("preset", ["topk", "relu_l1"])
def test_the_multiplier_is_in_units_of_the_raw_activation(preset: str, kind: str) -> None:
    options = {"k": 4} if preset == "topk" else {}
    normalisation = Normalisation(kind=kind, factor=3.0 if kind == "dataset" else 1.0)
    sae = build(preset, d_in=D_IN, d_sae=D_SAE, normalisation=normalisation, **options).double()
    seen = reading(sae)
    codes = seen.codes.dense()
    feature = int((codes > 0).sum((0, 1)).argmax())
    with torch.no_grad():
        out, zero = (edited(sae, seen, Clamp().edit([feature], m)) for m in (5.0, 0.0))
    fires = codes[..., feature] > 0
    assert fires.any()
    torch.testing.assert_close((out - zero)[fires], (-5 * sae.W_dec[feature]).detach().expand(int(fires.sum()), D_IN))


def test_ablation_removes_what_the_feature_wrote() -> None:
    sae = build("topk", d_in=D_IN, d_sae=D_SAE, k=4).double()
    seen = reading(sae)
    with torch.no_grad():
        out = edited(sae, seen, Clamp().edit([3], 0.0))
    torch.testing.assert_close(seen.acts - out, (seen.codes.at(3).unsqueeze(-1) * sae.W_dec[3]).detach())


def test_no_feature_changes_nothing_and_costs_no_copy() -> None:
    sae = build("relu_l1", d_in=D_IN, d_sae=D_SAE).double()
    seen = reading(sae)
    assert edited(sae, seen, Clamp().edit([], 100.0)) is seen.acts


def test_the_same_edit_inside_the_subject_reads_whole_contexts() -> None:
    sae = make("chrono").double().eval()
    acts, mask, docs = inputs(1)
    edit = SiteEdit(sae, Clamp().edit(FEATURES, 3.0), mask, doc_ids=docs)
    with torch.no_grad():
        expected = edited(sae, reading(sae, 1), Clamp().edit(FEATURES, 3.0))
    assert torch.equal(edit(acts), expected) and not torch.equal(expected, acts)
    assert edit(acts.to(torch.bfloat16)).dtype == torch.bfloat16


class Everywhere(CodeEdit):
    """Sets one feature at every token, masked ones too."""

    def __call__(self, reading: Reading) -> Change:
        where = torch.ones_like(reading.mask)
        n = where.sum()
        indices = torch.full((int(n), 1), 2)
        return Change(where, SparseCodes(torch.full((int(n), 1), 4.0).double(), None, indices, reading.codes.d_sae))


def test_any_edit_leaves_masked_tokens_alone_and_may_have_slots_of_its_own() -> None:
    sae = build("topk", d_in=D_IN, d_sae=D_SAE, k=4).double()
    seen = reading(sae)
    with torch.no_grad():
        out = edited(sae, seen, Everywhere())
        expected = seen.acts - sae.decode(seen.codes) + 4 * sae.W_dec[2] + sae.b_dec
    assert torch.equal(out[~seen.mask], seen.acts[~seen.mask])
    torch.testing.assert_close(out[seen.mask], expected[seen.mask])


@pytest.mark.parametrize(
    ("features", "multiplier", "says"),
    [([1, 1], 5.0, "twice"), ([1], -5.0, "0 or more"), ([D_SAE], 5.0, "features must be")],
)
def test_impossible_clamps_are_refused(features: list[int], multiplier: float, says: str) -> None:
    sae = build("topk", d_in=D_IN, d_sae=D_SAE, k=4).double()
    with pytest.raises(ValueError, match=says):
        Clamp().edit(features, multiplier)(reading(sae))
