"""Measured scale and mean, over unmasked tokens only, without moving the training stream."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae.activations import SequenceBatch, measure, measure_normalisation, open_stream, unit_rms
from chronosae.config import UserError


class Fixed:
    """A stream that repeats one batch."""

    epochs = 0.0

    def __init__(self, acts, mask):
        long = torch.zeros(mask.shape, dtype=torch.long)
        source = ("x",) * len(mask)
        self.batch = SequenceBatch(acts=acts, mask=mask, tokens=long, positions=long, doc_ids=long, source=source)

    def next(self):
        return {"site": self.batch}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def as_trained(acts, measured):
    return unit_rms(acts) if measured.kind == "token" else acts * measured.factor


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_the_factor_brings_the_mean_norm_to_the_root_of_the_width(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    acts = scale * (torch.randn(3, 7, 5, generator=generator) + 1)
    mask = torch.rand(3, 7, generator=generator) > 0.4
    mask[0, 0] = True
    measured = measure(Fixed(acts, mask), "dataset", 1)["site"]
    kept = acts[mask]
    assert measured.n_tokens == int(mask.sum())
    assert (kept * measured.factor).norm(dim=-1).mean() == pytest.approx(math.sqrt(5), rel=1e-5)
    torch.testing.assert_close(measured.mean, kept.mean(0))
    torch.testing.assert_close(measured.normalised_mean, as_trained(kept, measured).mean(0))


@pytest.mark.parametrize("kind", ["dataset", "token", "none"])
def test_the_normalised_mean_is_the_mean_of_what_training_sees(kind):
    acts = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    measured = measure(Fixed(acts, torch.ones(2, 9, dtype=torch.bool)), kind, 1)["site"]
    torch.testing.assert_close(measured.normalised_mean, as_trained(acts, measured).mean((0, 1)))
    assert kind == "dataset" or measured.factor == 1.0


def test_a_zero_vector_stays_zero_and_every_other_gets_norm_root_width():
    acts = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1e-5, 0.0]])
    torch.testing.assert_close(unit_rms(acts).norm(dim=-1), torch.tensor([0.0, 2**0.5, 2**0.5]))


@pytest.mark.parametrize(("value", "word"), [(0.0, "all zero"), (float("nan"), "not finite")])
def test_dead_activations_name_the_site(value, word):
    acts = torch.full((1, 3, 2), value)
    with pytest.raises(UserError, match=f"activations at site are {word}"):
        measure(Fixed(acts, torch.ones(1, 3, dtype=torch.bool)), "dataset", 1)


def test_a_corpus_of_masked_tokens_alone_ends_in_an_error():
    with pytest.raises(UserError, match="special and masked"):
        measure(Fixed(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)), "dataset", 1)


def test_measuring_leaves_the_training_stream_at_its_beginning(tiny, run_config):
    cfg = run_config()
    fresh = open_stream(cfg, tiny)
    measured, stream = measure_normalisation(cfg, tiny)
    assert set(measured) == set(cfg.subject.sites)
    assert all(each.n_tokens >= 200 for each in measured.values())
    site = cfg.subject.sites[0]
    for _ in range(2 + 200 // 64):
        assert torch.equal(stream.next()[site].acts, fresh.next()[site].acts)


def test_a_cache_gives_the_same_factor_as_the_live_stream_up_to_rounding_and_sampling(shared, tmp_path):
    from chronosae.config import RunConfig
    from chronosae.subject import Subject

    site = "blocks.2.hook_resid_post"
    cfg = RunConfig.model_validate(
        {
            "subject": {"model": str(shared / "models/stories260k"), "sites": [site], "device": "cpu"},
            "corpus": {"path": str(shared / "data/stories/tinystories_sample.txt")},
            "activations": {"shuffle_buffer": 64, "normalise_tokens": 8192, "store": "cache"},
            "training": {"tokens": 16384},
            "saes": {"topk": {}},
        }
    )
    subject = Subject.load(cfg.subject)
    live = cfg.model_copy(update={"activations": cfg.activations.model_copy(update={"store": "stream"})})
    cached = measure_normalisation(cfg, subject, tmp_path / "cache")[0][site]
    assert cached.factor == pytest.approx(measure_normalisation(live, subject)[0][site].factor, rel=0.02)
