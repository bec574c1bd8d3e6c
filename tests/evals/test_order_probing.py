"""Order-sensitive probing: pairs that a bag can't tell apart, probes with known answers, controls at chance."""

import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from chronosae.autoencoders import Autoencoder
from chronosae.config import SubjectConfig, UserError
from chronosae.evals.data import LabelledTexts
from chronosae.evals.evaluation import Setting
from chronosae.evals.order_probing import OrderProbing
from chronosae.evals.order_probing.data import TokenItems, drawn, labelled_items, n_back_items, window
from chronosae.evals.order_probing.measure import Split, full_probe, sparse_probe
from chronosae.evals.workbench import Workbench
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder
from chronosae.world.evaluation_data import register
from chronosae.world.lexicon import WOMEN
from chronosae.world.probing import ORDER_TASKS, ordered_texts

register()
# Token embeddings: each activation knows its own token alone, neither its place nor its neighbours.
SITE = "blocks.0.hook_resid_pre"
# One token each.
WORDS = WOMEN[:12]


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world"), SITE)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random words: labels that nobody uses, and many n-back pairs."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("order") / "words.jsonl"
    rows = [{"text": " ".join(rng.choices(WORDS, k=40)), "label": i % 2} for i in range(250)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def kernel_oracle(bench: Workbench, lag: int) -> Autoencoder:
    """One feature a word; it fires where its word stands now and stood `lag` tokens ago."""
    ids = bench.subject.tokenizer("".join(f" {word}" for word in WORDS), add_special_tokens=False)["input_ids"]
    assert len(ids) == len(WORDS)
    embeddings = bench.subject.activations(torch.tensor([ids]), [SITE])[SITE][0].float()
    sae = build("multiscale", d_in=embeddings.shape[1], d_sae=len(ids), k=4, rates=[lag], kernel_size=2)
    with torch.no_grad():
        sae.W_enc.copy_(torch.linalg.pinv(embeddings))
        sae.b_enc.fill_(-1.5)
        sae.b_dec.zero_()
        sae.kernel.taps.fill_(1.0)
    return sae


def dead(bench: Workbench) -> Autoencoder:
    sae = build("relu_l1", d_in=bench.subject.info.d_model, d_sae=16)
    torch.nn.init.constant_(sae.b_enc, -1e6)
    return sae


@pytest.mark.parametrize("task", ORDER_TASKS)
def test_the_items_of_a_pair_are_one_token_of_one_bag_with_both_labels(bench: Workbench, task: str) -> None:
    items = ordered_texts(task, "train", 40)
    rows = bench.read([item.text for item in items], 512)
    found: dict[tuple, list] = defaultdict(list)
    for row, item in enumerate(items):
        pos = rows.span(row, item.start, item.end)[-1]
        bag = tuple(sorted(rows.tokens[row][rows.real[row]].tolist()))
        found[item.pair, int(rows.tokens[row, pos]), bag].append((item.label, pos))
    assert all(len(set(labels)) == 2 for labels in ([label for label, _ in v] for v in found.values()))
    assert all(len(values) % 2 == 0 for values in found.values())
    if task in ("order_who_paid", "order_mention"):
        assert all(len({pos for _, pos in values}) == 1 for values in found.values())


def test_the_parts_of_the_minimal_pairs_share_no_scene() -> None:
    train, test = (ordered_texts("order_bracket", part, 60) for part in ("train", "test"))
    assert not {item.text for item in train} & {item.text for item in test}


@pytest.mark.parametrize("n", [1, 3])
def test_n_back_pairs_are_one_token_of_one_text_seen_once_lately(bench: Workbench, n: int) -> None:
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS[:6], k=40)) for _ in range(12)]
    items = n_back_items(bench, texts, n, 40, 64, torch.Generator().manual_seed(0))
    assert len(items) >= 40 and int(items.label.sum()) * 2 == len(items)
    for i in range(len(items)):
        row, pos = items.rows.tokens[items.row[i]].tolist(), int(items.pos[i])
        distances = [d for d in range(1, window(n) + 1) if row[pos - d] == row[pos]]
        assert len(distances) == 1 and (distances[0] == n) == bool(items.label[i])
    pairs = items.tokens.view(-1, 2), items.row.view(-1, 2), items.label.view(-1, 2)
    assert (pairs[0][:, 0] == pairs[0][:, 1]).all() and (pairs[1][:, 0] == pairs[1][:, 1]).all()
    assert (pairs[2][:, 0] != pairs[2][:, 1]).all()


def test_groups_stay_whole_and_labels_are_balanced(bench: Workbench) -> None:
    rows = bench.read(["one two three four"] * 60, 16)
    label = torch.arange(120) % 2 == 0
    items = TokenItems(rows, torch.arange(120) // 2, torch.full((120,), 2), label, torch.arange(120) // 4)
    some = drawn(items, 50, torch.Generator().manual_seed(0))
    assert len(some) == 48 and (some.group.bincount()[some.group] == 4).all()
    uneven = TokenItems(rows, items.row, items.pos, torch.arange(120) % 3 == 0, torch.arange(120))
    some = drawn(uneven, 60, torch.Generator().manual_seed(0))
    assert int(some.label.sum()) * 2 == len(some)


def test_probes_find_a_planted_feature_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    y, held = rng.random(900) < 0.5, np.arange(900) % 4 == 0
    split = Split(y[:600], held[:600], y[600:])
    noise = rng.random((900, 30)) * (rng.random((900, 30)) < 0.3)
    planted = noise.copy()
    planted[:, 7] = y * (1 + rng.random(900))
    leak = noise.copy()
    leak[:, 3] = 50 * y * (np.arange(900) >= 600)  # only the test part holds it: nothing may be chosen there
    for x, low, high in ((planted, 0.99, 1.0), (noise, 0.4, 0.6), (leak, 0.3, 0.7), (noise * 0, 0.3, 0.7)):
        for make in (np.asarray, csr_array):
            train, test = make(x[:600]), make(x[600:])
            for right in (sparse_probe(train, test, split, 1), full_probe(train, test, split)):
                assert low <= right.mean() <= high
    dense = full_probe(noise[:600], noise[600:], split).mean()
    assert dense == pytest.approx(full_probe(csr_array(noise[:600]), csr_array(noise[600:]), split).mean(), abs=0.02)


def test_a_kernel_solves_n_back_where_whoever_sees_one_token_is_at_chance(bench: Workbench, words: str) -> None:
    evaluation = OrderProbing(
        data=("world/order_mention",), n_back=(3,), n_back_data=words, k=(1, 20), train=120, test=120, context=64
    )
    saes = {
        "kernel": kernel_oracle(bench, 3),
        "wrong lag": kernel_oracle(bench, 2),
        "static": build("topk", d_in=bench.subject.info.d_model, d_sae=64, k=8),
        "dead": dead(bench),
    }
    shapes = []
    for sae in saes.values():
        encode = sae.encode
        sae.encode = lambda acts, *a, f=encode, **k: (shapes.append(acts.dim()), f(acts, *a, **k))[1]
    found = evaluation.run(bench, saes)
    assert set(shapes) == {3}
    kernel, static = found["kernel"], found["static"]
    assert kernel.metrics["n_back_3"]["n_back_3_sae_test_accuracy"] > 0.95
    assert kernel.metrics["n_back_3"]["n_back_3_sae_top_20_test_accuracy"] > 0.95
    row = next(row for row in kernel.details if row["task"] == "n_back_3")
    assert row["beats_llm"] and row["beats_controls"] and row["sae_gain_over_llm"] > 0.4
    assert kernel.intervals["n_back_3_sae_gain_over_llm"].low > 0.3
    assert found["wrong lag"].metrics["n_back_3"]["n_back_3_sae_test_accuracy"] < 0.7
    for task in ("n_back_3", "order_mention"):
        values = static.metrics[task]
        for who in ("sae", "llm", "identity", "bag"):
            assert values[f"{task}_{who}_test_accuracy"] == pytest.approx(0.5, abs=0.02)
        assert values[f"{task}_shuffled_test_accuracy"] == pytest.approx(0.5, abs=0.1)
        assert not next(row for row in static.details if row["task"] == task)["beats_controls"]
    assert values["order_mention_position_test_accuracy"] == values["order_mention_bag_so_far_test_accuracy"] == 0.5
    assert found["dead"].metrics["sae"]["sae_test_accuracy"] == pytest.approx(0.5)
    assert "no_feature_fires: order_mention, n_back_3" in found["dead"].flags
    assert any(flag.startswith("raw_at_chance") for flag in static.flags)
    json.dumps([static.metrics, static.details], allow_nan=False)
    alone = evaluation.run(bench, {"static": saes["static"]})["static"]
    assert alone.metrics == static.metrics and alone.intervals == static.intervals


def test_nan_codes_and_too_few_items_are_flags_and_no_numbers(bench: Workbench, words: str) -> None:
    broken = dead(bench)
    torch.nn.init.constant_(broken.W_enc, float("nan"))
    torch.nn.init.constant_(broken.b_enc, float("nan"))
    evaluation = OrderProbing(data=(), n_back=(3, 39), n_back_data=words, k=(1,), train=60, test=60, context=64)
    (result,) = evaluation.run(bench, {"broken": broken}).values()
    assert "too_few_items: n_back_39" in result.flags and "non_finite_codes: n_back_3" in result.flags
    assert result.metrics["sae"]["sae_test_accuracy"] is None
    assert all(value is None for value in result.metrics["n_back_39"].values())


def test_what_a_context_cuts_goes_with_its_whole_group(bench: Workbench) -> None:
    texts = ("a short one", "x " * 40 + "end", "another short one", "and one more")
    spans = ((2, 7), (80, 83), (0, 7), (4, 7))
    data = LabelledTexts("d", texts, ("a", "b", "a", "b"), spans, groups=("1", "1", "2", "2"))
    items, left_out = labelled_items(bench, data, 16, "k")
    assert left_out == 2 and len(items) == len(items.rows) == 2


def test_data_that_cannot_be_probed_are_one_clear_line(bench: Workbench, words: str, tmp_path: Path) -> None:
    evaluation = OrderProbing(data=(words,), n_back=())
    with pytest.raises(UserError, match="start and end"):
        evaluation.run(bench, {})
    three = LabelledTexts("d", ("a b", "c d", "e f"), ("x", "y", "z"), ((0, 1),) * 3)
    with pytest.raises(UserError, match="x, y, z"):
        labelled_items(bench, three, 16, "k")
    setting = Setting("world", None)
    missing = OrderProbing(data=("no/such.jsonl",), n_back_data="nor/this").preflight(setting)
    assert [m.what.split()[-1] for m in missing] == ["no/such.jsonl", "nor/this"]
    with pytest.raises(UserError, match="would both be called"):
        OrderProbing(data=("a/x.jsonl", "b/x.jsonl")).preflight(setting)


def test_preflight_reads_whether_local_texts_have_spans(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]
    path = tmp_path / "whole.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    setting = Setting("world", None)
    (missing,) = OrderProbing(data=(str(path),)).preflight(setting)
    assert "needs start and end" in missing.line()
    assert OrderProbing(data=(), n_back_data=str(path)).preflight(setting) == []
