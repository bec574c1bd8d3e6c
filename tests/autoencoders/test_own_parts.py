"""Parts that do something of their own find their place: a body's class, a position mask that isn't entry by entry."""

from typing import Literal

import pytest
import torch
from autoencoder_cases import D_IN, close, inputs, make
from torch import Tensor

from chronosae.autoencoders import Autoencoder, build_from_spec, computes_body
from chronosae.autoencoders.parts.position_masks import FixedMask
from chronosae.autoencoders.spec import BODIES, BodySpec
from chronosae.presets import load


class Doubled(BodySpec):
    """A linear body whose reconstruction is twice as large."""

    kind: Literal["doubled"] = "doubled"


@computes_body(Doubled)
class DoubledAutoencoder(Autoencoder):
    def reconstruct(self, codes) -> Tensor:
        return 2 * super().reconstruct(codes)


def test_a_body_of_ones_own_is_built_saved_and_loaded_as_its_class(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BODIES, "_known", {**BODIES._known, "doubled": Doubled})
    spec = make("topk").cfg.model_copy(update={"body": Doubled()})
    sae = build_from_spec(spec, seed=1)
    assert isinstance(sae, DoubledAutoencoder)
    sae.save(tmp_path)
    again, x = load(tmp_path), inputs(1, 5, 0, torch.float32).acts
    assert isinstance(again, DoubledAutoencoder) and torch.equal(again(x), sae(x))


class Blurred(FixedMask):
    """Half of what each token is left with comes from the sequence's mean: no entry stands for itself."""

    by_entry = False

    def forward(self, pre: Tensor, positions: Tensor, training: bool) -> Tensor:
        masked = super().forward(pre, positions, training)
        return (masked + masked.mean(1, keepdim=True)) / 2


def test_a_mask_that_is_not_entry_by_entry_is_computed_in_full() -> None:
    sae, acts = make("hard_mask"), inputs(2, 7, 0).acts
    assert sae.position_mask is not None
    plain = sae.training_pass(acts, torch.ones(2, 7, dtype=torch.bool)).pre
    sae.position_mask = Blurred(sae.position_mask.cfg, sae.position_mask.weights())
    forward = sae.training_pass(acts, torch.ones(2, 7, dtype=torch.bool))
    close(forward.pre, (plain + plain.mean(1, keepdim=True)) / 2)
    close(forward.codes.dense().sum(-1), forward.pre.topk(4, -1).values.clamp_min(0).sum(-1))
    assert forward.recon.shape == (2, 7, D_IN)
