"""Planted data is what its spec says, and the same however it is drawn."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from chronosae.planted import PLANTED, EdgeGroup, FeatureGroup, Planted, PlantedSpec, generate

each_preset = pytest.mark.parametrize("name", PLANTED)


def small(*groups: FeatureGroup, pos: int = 64, doc_length: float | None = None, **options: object) -> PlantedSpec:
    groups = groups or (FeatureGroup(kind="iid", n=8, rate=0.2),)
    return PlantedSpec.model_validate({"d_in": 6, "groups": groups, "pos": pos, "doc_length": doc_length, **options})


def firing(data: Planted) -> np.ndarray:
    return (data.codes.dense() != 0).numpy()


def state_autocorrelation(on: np.ndarray) -> float:
    """Over all features of a group at once: they share rate and rho."""
    return float(np.corrcoef(on[:, :-1].ravel(), on[:, 1:].ravel())[0, 1])


@each_preset
def test_activations_are_the_codes_times_a_dictionary_of_unit_rows(name: str) -> None:
    data = generate(PLANTED[name], 4, seed=0)
    torch.testing.assert_close(data.acts, data.codes.dense() @ data.dictionary, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(data.dictionary.norm(dim=1), torch.ones(PLANTED[name].n_features))
    assert data.dictionary.shape[0] > data.dictionary.shape[1]
    assert (data.codes.values >= 0).all() and data.codes.values[data.codes.values != 0].min() >= 1


@each_preset
def test_as_many_features_fire_at_a_token_as_the_page_says(name: str) -> None:
    expected = 9.5 if name == "crowded" or name.startswith("causal") else 5 if name == "lagged" else 7
    assert generate(PLANTED[name], 100, seed=0).mean_l0() == pytest.approx(expected, rel=0.15)


@each_preset
def test_codes_are_sparse_with_ascending_indices_and_empty_slots_zero(name: str) -> None:
    codes = generate(PLANTED[name], 3, seed=1).codes
    used = codes.values != 0
    assert (codes.indices[~used] == 0).all()
    both = used[..., :-1] & used[..., 1:]
    assert (codes.indices[..., 1:] > codes.indices[..., :-1])[both].all()
    assert (used[..., :-1] | ~used[..., 1:]).all()


@settings(max_examples=10)
@given(name=st.sampled_from(sorted(PLANTED)), first=st.integers(0, 60), n=st.integers(1, 40))
def test_a_sequence_is_the_same_whatever_batch_it_is_drawn_in(name: str, first: int, n: int) -> None:
    spec = PLANTED[name].model_copy(update={"noise": 0.1, "doc_length": 20.0})
    alone, together = generate(spec, 1, seed=2, first=first + n - 1), generate(spec, n, seed=2, first=first)
    assert torch.equal(alone.acts[0], together.acts[-1])
    assert torch.equal(alone.codes.dense()[0], together.codes.dense()[-1])
    assert torch.equal(alone.doc_ids[0], together.doc_ids[-1])


def test_samples_depend_on_the_seed_and_the_dictionary_on_its_own() -> None:
    spec = PLANTED["causal"]
    data, other_sample = generate(spec, 2, seed=0), generate(spec, 2, seed=1)
    other_world = generate(spec.model_copy(update={"dictionary_seed": 1}), 2, seed=0)
    assert torch.equal(data.dictionary, other_sample.dictionary) and data.edges == other_sample.edges
    assert not torch.equal(data.acts, other_sample.acts)
    assert not torch.equal(data.dictionary, other_world.dictionary) and data.edges != other_world.edges
    assert torch.equal(data.dictionary, generate(PLANTED["causal_no_edges"], 2, seed=0).dictionary)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.85])
def test_a_group_has_the_rate_and_the_autocorrelation_it_was_given(rho: float) -> None:
    on = firing(generate(small(FeatureGroup(kind="a", n=30, rate=0.2, rho=rho)), 200, seed=0))
    assert on.mean() == pytest.approx(0.2, abs=0.01)
    assert state_autocorrelation(on) == pytest.approx(rho, abs=0.02)


def test_a_persistent_magnitude_varies_slowly_and_an_iid_one_does_not() -> None:
    def correlation(magnitude_rho: float) -> float:
        group = FeatureGroup(kind="a", n=10, rate=1.0, magnitude_rho=magnitude_rho)
        z = generate(small(group), 100, seed=0).codes.dense().numpy()
        return float(np.corrcoef(z[:, :-1].ravel(), z[:, 1:].ravel())[0, 1])

    assert correlation(0.95) > 0.8
    assert abs(correlation(0.0)) < 0.02


def test_persistent_and_iid_presets_have_the_same_marginals() -> None:
    one, other = (generate(PLANTED[name], 300, seed=0).codes for name in ("persistent", "iid"))
    assert one.l0().double().mean().item() == pytest.approx(other.l0().double().mean().item(), rel=0.03)
    one_size, other_size = (codes.values[codes.values != 0].double().numpy() for codes in (one, other))
    assert one_size.mean() == pytest.approx(other_size.mean(), rel=0.02)
    assert one_size.std() == pytest.approx(other_size.std(), rel=0.03)


def test_state_restarts_where_a_document_starts() -> None:
    group = FeatureGroup(kind="a", n=20, rate=0.3, rho=1.0, magnitude_rho=1.0)
    data = generate(small(group, doc_length=10.0), 40, seed=0)
    z, doc_ids = data.codes.dense().numpy(), data.doc_ids.numpy()
    assert (doc_ids[:, 0] == 0).all() and set(np.diff(doc_ids).ravel()) == {0, 1}
    inside = np.diff(doc_ids) == 0
    assert (z[:, 1:] == z[:, :-1])[inside].all()
    on = z != 0
    assert np.corrcoef(on[:, 1:][~inside].ravel(), on[:, :-1][~inside].ravel())[0, 1] < 0.1


def test_features_of_a_topic_fire_together() -> None:
    group = FeatureGroup(kind="topic", n=8, rate=0.5, rate_outside=0.01, topics=4, topic_dwell=30.0)
    on = firing(generate(small(group), 200, seed=0)).reshape(-1, 8)
    together = np.corrcoef(on.T)
    assert together[0, 1] > 0.3 and together[6, 7] > 0.3
    assert together[0, 2] < 0.05
    assert on.mean() == pytest.approx(0.25 * 0.5 + 0.75 * 0.01, abs=0.02)


def test_an_edge_adds_its_probability_as_a_noisy_or() -> None:
    groups = (FeatureGroup(kind="s", n=4, rate=0.2), FeatureGroup(kind="t", n=4, rate=0.1))
    edges = (EdgeGroup(shape="pair", count=4, among=("s", "t"), lags=(1, 3), probability=0.6),)
    data = generate(small(*groups, edges=edges), 300, seed=0)
    on = firing(data)
    for source, target, lag in data.edges:
        cause, effect = on[:, :-lag, source], on[:, lag:, target]
        assert effect[cause].mean() == pytest.approx(1 - 0.9 * 0.4, abs=0.03)
        assert effect[~cause].mean() == pytest.approx(0.1, abs=0.02)


def test_edges_do_not_act_across_documents() -> None:
    edges = (EdgeGroup(shape="echo", count=8, lags=(1,), probability=1.0),)
    on = firing(generate(small(edges=edges, doc_length=1.0), 200, seed=0))
    assert on.mean() == pytest.approx(0.2, abs=0.01)


def test_what_an_edge_causes_causes_more_and_copies_the_magnitude() -> None:
    silent = 1e-9
    groups = (FeatureGroup(kind="s", n=1, rate=0.02), FeatureGroup(kind="m", n=1, rate=silent))
    groups = (*groups, FeatureGroup(kind="t", n=1, rate=silent))
    edges = tuple(
        EdgeGroup(shape="pair", count=1, among=among, lags=(2,), probability=1.0, copy_magnitude=True)
        for among in (("s", "m"), ("m", "t"))
    )
    z = generate(small(*groups, edges=edges), 50, seed=0).codes.dense()
    assert torch.equal(z[:, 4:, 2], z[:, :-4, 0]) and z[..., 2].any()


def test_positional_features_fire_only_in_their_band() -> None:
    data = generate(PLANTED["positional"], 200, seed=0)
    chosen = data.features("positional")
    on = torch.from_numpy(firing(data))
    assert not (on & ~data.profile.T).any()
    assert (data.profile[chosen].sum(1) == 8).all() and data.profile[data.features("iid")].all()
    assert on.any(0).T[chosen].double().sum(1).min() > 6


def test_slow_features_stay_on_for_about_a_document() -> None:
    data = generate(PLANTED["slow"], 200, seed=0)
    on = firing(data)[..., data.features("slow").numpy()]
    share = on.mean(1)[on.any(1)]
    assert np.median(share) > 0.5


def test_the_causal_preset_has_eight_disjoint_chains_and_forty_random_edges_without_cycles() -> None:
    data = generate(PLANTED["causal"], 1, seed=0)
    assert len(data.edges) == len(set(data.edges)) == 64
    chains, chain_members = data.edges[:24], data.features("chain").tolist()
    assert len({end for edge in chains for end in edge[:2]}) == 32
    assert all(end in chain_members for edge in chains for end in edge[:2])
    assert all(chains[i][1] == chains[i + 1][0] for i in range(23) if i % 3 != 2)
    assert {lag for *_, lag in data.edges} == {1, 2, 3, 4}
    arrows = torch.zeros(256, 256)
    for source, target, _ in data.edges:
        arrows[source, target] = 1
    assert not torch.matrix_power(arrows, 64).any()


def test_shortcuts_skip_a_link_at_the_summed_lag() -> None:
    edges = generate(PLANTED["causal_shortcuts"], 1, seed=0).edges
    for source, target, lag in edges[-8:]:
        paths = itertools.product(edges[:24], edges[:24])
        assert any(a[0] == source and a[1] == b[0] and b[1] == target and a[2] + b[2] == lag <= 4 for a, b in paths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [{"shape": "echo", "count": 9}]}, "9 of shape 'echo' need 9 features"),
        ({"edges": [{"shape": "echo", "count": 1, "among": ["nobody"]}]}, "no group 'nobody'"),
        ({"edges": [{"shape": "echo", "count": 1, "lags": [64]}]}, "does not fit in sequences of 64"),
        ({"edges": [{"shape": "pair", "count": 1, "among": ["iid"]}]}, "pairs need two groups"),
        ({"groups": [{"kind": "a", "n": 1, "rate": 0.1}] * 2}, "each kind must be given once"),
        ({"groups": [{"kind": "a", "n": 1, "rate": 0.1, "topics": 2}]}, "2 topics for 1 features"),
        ({"groups": [{"kind": "a", "n": 1, "rate": 1.1}]}, "less than or equal to 1"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_with_a_reason(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PlantedSpec.model_validate({**small().model_dump(), **change})


def test_generate_refuses_what_it_cannot_make() -> None:
    with pytest.raises(ValueError, match="n_sequences"):
        generate(small(), 0, seed=0)
    with pytest.raises(ValueError, match="seed"):
        generate(small(), 1, seed=-1)
    with pytest.raises(ValueError, match="too many for 8 features"):
        generate(small(edges=(EdgeGroup(shape="random", count=30),)), 1, seed=0)
    with pytest.raises(ValueError, match="shortcuts need"):
        generate(small(edges=(EdgeGroup(shape="shortcut", count=1),)), 1, seed=0)
    with pytest.raises(ValueError, match="kinds: iid"):
        generate(small(), 1, seed=0).features("slow")
