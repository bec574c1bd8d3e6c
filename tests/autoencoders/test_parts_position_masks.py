"""Position masks: capacity, what is closed stays closed, what lies beyond, and who learns where."""

import pytest
import torch
from autoencoder_cases import D_IN, D_SAE, inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from chronosae.autoencoders import Autoencoder
from chronosae.autoencoders.parts.activations import ACTIVATIONS
from chronosae.autoencoders.parts.position_masks import (
    POSITION_MASKS,
    GroupMask,
    HardMask,
    ImportanceMask,
    SliceMask,
    SoftMask,
)
from chronosae.objectives import reconstruction_error
from chronosae.presets import build

CONTEXT = 16


def positional(activation: str = "topk", **mask: object) -> Autoencoder:
    options = {"k": 4} if "topk" in activation else {}
    terms = [{"kind": "gate_aux"}] if activation == "gated" else []
    sae = build(
        "positional",
        d_in=D_IN,
        d_sae=D_SAE,
        aux_weight=0,
        activation={"kind": activation, **options},
        position_mask={"context": CONTEXT, **mask},
        extra_terms=terms,
    )
    return sae.double()


def test_every_feature_of_a_hard_mask_is_open_at_its_share_of_the_positions() -> None:
    for layout in ("random", "structured"):
        M = HardMask(context=64, layout=layout).make(1, 40).weights()
        assert (M.sum(0) == 8).all() and set(M.unique().tolist()) == {0.0, 1.0}
    assert (M.sum(1) == 5).all(), "structured: as many features at every position"
    opens = M.argmax(0)
    assert all(M[start : start + 8, f].all() for f, start in enumerate(opens.tolist())), "structured: one block each"


def test_random_hard_masks_are_the_same_for_the_same_seed_only() -> None:
    masks = [build("positional", d_in=4, d_sae=9, k=2, seed=s, mask="hard").position_mask for s in (1, 1, 2)]
    first, same, other = (mask.weights() for mask in masks if mask is not None)
    assert torch.equal(first, same) and not torch.equal(first, other)


@given(context=st.integers(1, 40), d_sae=st.integers(1, 40), slices=st.integers(1, 8))
def test_slices_divide_features_and_positions_alike(context: int, d_sae: int, slices: int) -> None:
    slices = min(slices, context)
    M = SliceMask(context=context, slices=slices).make(1, d_sae).weights()
    assert M.sum(0).max() <= -(-context // slices) and M.sum(1).max() <= -(-d_sae // slices)
    assert (M.sum(0) >= 1).all(), "every feature is open somewhere"
    starts = M.argmax(0)
    assert (starts.diff() >= 0).all(), "features in order of their slice"
    assert all(M[:, f].nonzero().flatten().diff().le(1).all() for f in range(d_sae)), "contiguous"


def test_groups_are_early_middle_late_and_everywhere() -> None:
    M = GroupMask(context=30, everywhere=0.25).make(1, 40).weights()
    assert M[:, :10].all()
    for group, features in enumerate(M[:, 10:].split(10, 1)):
        assert torch.equal(features.all(1), torch.arange(30) // 10 == group)
        assert torch.equal(features.any(1), torch.arange(30) // 10 == group)


def test_learned_masks_start_where_they_say() -> None:
    soft = SoftMask(context=50, initial=(0.1, 0.2)).make(1, 30).weights()
    assert 0.1 <= soft.min() < 0.11 and 0.19 < soft.max() <= 0.2
    importance = ImportanceMask(context=50).make(1, 30)
    torch.testing.assert_close(importance.weights(), torch.ones(50, 30))
    with torch.no_grad():
        importance.logits.normal_()  # type: ignore[operator]
    torch.testing.assert_close(importance.weights().mean(0), torch.ones(30))


@pytest.mark.parametrize("activation", ACTIVATIONS.kinds)
@pytest.mark.parametrize("kind", ["hard", "slices", "groups"])
@pytest.mark.parametrize("training", [True, False])
def test_closed_features_never_fire(activation: str, kind: str, training: bool) -> None:
    sae = positional(activation, kind=kind)
    with torch.no_grad():
        sae.b_enc.add_(5.0)  # everything would fire
    data = inputs(4, CONTEXT, 0)
    forward = sae.training_pass(data.acts, data.mask)
    codes = forward.codes.dense() if training else data.encode(sae, doc_ids=None)
    assert sae.position_mask is not None and forward.layout is not None
    closed = sae.position_mask.weights()[forward.layout.positions.clamp_min(0)] == 0
    assert not codes[closed].any() and codes.any()


def test_l0_is_what_the_position_has_room_for() -> None:
    sae, data = positional(kind="hard", layout="structured", share=8), inputs(4, CONTEXT, 0)
    with torch.no_grad():
        sae.b_enc.add_(5.0)
    everywhere = torch.ones_like(data.mask)
    assert (sae.encode(data.acts, everywhere).l0() == 3).all(), "24 features, an eighth open: 3 < k"


@pytest.mark.parametrize("kind", POSITION_MASKS.kinds)
def test_positions_beyond_the_mask(kind: str) -> None:
    data = inputs(2, CONTEXT + 3, 0)
    everywhere = torch.ones_like(data.mask)
    error = positional(kind=kind)
    for refused in (error.encode, error.training_pass):
        with pytest.raises(ValueError, match=r"position 18 is beyond the position mask, which knows 0 to 15; build"):
            refused(data.acts, everywhere)
    at = torch.arange(CONTEXT + 3).expand(2, -1)
    for beyond, same in (("last", at.clamp(max=15)), ("wrap", at % 16)):
        sae = positional(kind=kind, beyond=beyond)
        assert torch.equal(
            sae.encode(data.acts, everywhere).dense(), sae.encode(data.acts, everywhere, positions=same).dense()
        )
        assert sae.encode(data.acts, everywhere).values.any()


def test_a_masked_token_may_stand_anywhere() -> None:
    sae, data = positional(kind="soft"), inputs(2, CONTEXT, 0)
    at = torch.arange(CONTEXT).expand(2, -1)
    elsewhere = torch.where(data.mask, at, 1000)
    assert torch.equal(data.encode(sae, positions=elsewhere), data.encode(sae, positions=at))


@settings(max_examples=8)
@given(activation=st.sampled_from(list(ACTIVATIONS.kinds)), seed=st.integers(0, 1000))
def test_masked_gradients_reach_weights_only_where_the_mask_is_open_and_logits_everywhere(
    activation: str, seed: int
) -> None:
    sae, data = positional(activation, kind="soft", masked_gradients=True), inputs(3, CONTEXT, seed)
    M = sae.position_mask
    assert M is not None
    low, high = torch.arange(0, D_SAE, 2), torch.arange(1, D_SAE, 2)
    with torch.no_grad():
        M.logits[:, low] = -0.5  # type: ignore[index]
        M.logits[:, high] = 0.5  # type: ignore[index]
    reconstruction_error(sae.training_pass(data.acts, data.mask)).backward()
    for gradient in (sae.W_enc.grad.T, sae.W_dec.grad, sae.b_enc.grad.unsqueeze(1)):  # type: ignore[union-attr]
        assert not gradient[low].any() and gradient[high].any()
    assert M.logits.grad[:, low].any() and M.logits.grad[:, high].any()  # type: ignore[union-attr,index]


def test_masked_gradients_change_gradients_only() -> None:
    data, results = inputs(3, CONTEXT, 0), []
    for masked in (False, True):
        sae = positional(kind="soft", masked_gradients=masked)
        results.append(reconstruction_error(sae.training_pass(data.acts, data.mask)))
    torch.testing.assert_close(results[0], results[1])


def test_terms_see_pre_activations_under_the_mask() -> None:
    """AuxK must not teach a dead feature from positions where it can't fire."""
    sae, data = positional(kind="slices"), inputs(2, CONTEXT, 0)
    forward = sae.training_pass(data.acts, torch.ones_like(data.mask))
    assert sae.position_mask is not None
    M = sae.position_mask.weights()[torch.arange(CONTEXT)]
    assert not forward.pre[:, M == 0].any() and forward.pre.any()


def test_the_mask_has_its_own_learning_rate_and_schedule() -> None:
    sae = build("positional", d_in=D_IN, d_sae=D_SAE, k=4, mask_lr_multiplier=3.0, mask_lr_schedule="cosine")
    groups = {(g.lr_multiplier, g.lr_schedule): g.parameters for g in sae.parameter_groups()}
    assert sae.position_mask is not None
    assert [id(p) for p in groups[3.0, "cosine"]] == [id(sae.position_mask.logits)]
    assert sum(len(p) for p in groups.values()) == len(list(sae.parameters()))
