"""Positions, histograms, geometry and novel L0 of the core evaluation, against loops over tokens."""

import pytest
import torch
from evals_tiny import CONTEXT, VOCAB, evaluate, tiny_sae

from chronosae.activations import SequenceBatch
from chronosae.evals.core.data import document_positions
from chronosae.evals.core.measure import PositionSums
from chronosae.objectives.separation import welch_floor
from chronosae.presets import build
from chronosae.subject import Subject


def test_each_position_has_its_own_explained_variance_and_l0(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae()
    table = evaluate(subject, {"sae": sae}, batch, sizes=(3, 4))["sae"].by_position
    with torch.no_grad():
        codes = sae.encode(batch.acts, batch.mask)
        recon, l0 = sae.decode(codes), codes.l0()
    mean = batch.unmasked().mean(0)
    assert len(table["tokens"]) == CONTEXT
    for p in range(CONTEXT):
        rows = batch.mask[:, p]
        assert table["tokens"][p] == int(rows.sum())
        if not rows.any():
            assert table["explained_variance"][p] is None and table["l0"][p] is None
            continue
        x, y = batch.acts[rows, p], recon[rows, p]
        expected = 1 - float((x - y).square().sum() / (x - mean).square().sum())
        assert table["explained_variance"][p] == pytest.approx(expected, rel=1e-9)
        assert table["l0"][p] == pytest.approx(float(l0[rows, p].double().mean()))


def test_places_in_a_document_count_its_unmasked_tokens_in_this_context() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 1], [1, 1, 0, 0, 1, 0, 1]], dtype=torch.bool)
    documents = torch.tensor([[5, 5, 5, 5, 5, 6, 6], [6, 6, 7, 7, 7, 8, 8]])
    places = document_positions(mask, documents)
    assert [row[m].tolist() for row, m in zip(places, mask, strict=True)] == [[0, 1, 2, 0, 1], [0, 1, 0, 0]]


def test_a_failure_at_the_start_of_documents_shows_by_document_position(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae()
    result = evaluate(subject, {"sae": sae}, batch, sizes=(3, 4))["sae"]
    with torch.no_grad():
        codes = sae.encode(batch.acts, batch.mask)
        recon, l0 = sae.decode(codes), codes.l0()
    mean, where = batch.unmasked().mean(0), {}
    for s in range(batch.n_sequences):
        seen: dict[int, int] = {}
        for p in batch.mask[s].nonzero()[:, 0].tolist():
            document = int(batch.doc_ids[s, p])
            where.setdefault(seen.get(document, 0), []).append((s, p))
            seen[document] = seen.get(document, 0) + 1
    table = result.by_document_position
    assert [n for n in table["tokens"] if n] == [len(where[i]) for i in range(len(where))]
    assert len(table["tokens"]) == CONTEXT and sum(table["tokens"]) == result.features.n_tokens
    assert table["tokens"] != result.by_position["tokens"]
    for i, tokens in where.items():
        error = sum(float((batch.acts[t] - recon[t]).square().sum()) for t in tokens)
        spread = sum(float((batch.acts[t] - mean).square().sum()) for t in tokens)
        assert table["explained_variance"][i] == pytest.approx(1 - error / spread, rel=1e-9)
        assert table["l0"][i] == pytest.approx(sum(float(l0[t]) for t in tokens) / len(tokens))


def test_the_positions_together_give_the_whole(subject: Subject, batch: SequenceBatch) -> None:
    result = evaluate(subject, {"sae": tiny_sae()}, batch)["sae"]
    tokens, l0 = result.by_position["tokens"], result.by_position["l0"]
    assert sum(tokens) == result.features.n_tokens
    assert sum(n * v for n, v in zip(tokens, l0, strict=True) if n) / sum(tokens) == pytest.approx(result.metrics.l0)


def test_contexts_may_grow_from_batch_to_batch() -> None:
    sums = PositionSums()
    for context in (2, 5, 3):
        x = torch.randn(context, 4, dtype=torch.float64)
        sums.add(x, x, torch.ones(context, dtype=torch.long), torch.arange(context), context)
    table = sums.table(torch.zeros(4))
    assert table["tokens"] == [3, 3, 2, 1, 1] and all(v == pytest.approx(1) for v in table["explained_variance"])


def test_histograms_count_every_token_and_every_feature(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae()
    result = evaluate(subject, {"sae": sae}, batch)["sae"]
    density = result.histograms["density"]
    assert sum(density["features"]) + density["never_fired"] == sae.d_sae
    assert len(density["log10_edges"]) == len(density["features"]) + 1
    for i, n in enumerate(density["features"]):
        low, high = density["log10_edges"][i : i + 2]
        logs = result.features.density[result.features.density > 0].log10()
        last = high == 0.0
        assert n == int(((logs >= low) & ((logs < high) | (last & (logs <= high)))).sum())
    with torch.no_grad():
        l0 = sae.encode(batch.acts, batch.mask).l0()[batch.mask]
    assert result.histograms["l0"]["0.0"] == int(l0.min()) and result.histograms["l0"]["1.0"] == int(l0.max())


def test_the_decoder_is_compared_with_the_least_overlap_there_can_be(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae()
    metrics = evaluate(subject, {"sae": sae}, batch)["sae"].metrics
    assert metrics.decoder_welch_floor == welch_floor(sae.d_sae, sae.d_in)
    assert metrics.decoder_cosine_separation is not None
    assert metrics.decoder_cosine_separation >= metrics.decoder_welch_floor


def test_novel_l0_leaves_out_what_the_past_predicts(subject: Subject, batch: SequenceBatch) -> None:
    tfa = build("tfa", d_in=batch.acts.shape[2], d_sae=24, k=3, n_heads=2, bottleneck_factor=2).double()
    found = evaluate(subject, {"tfa": tfa, "topk": tiny_sae()}, batch)
    assert found["tfa"].metrics.novel_l0 is not None and found["tfa"].metrics.novel_l0 <= 3
    assert found["tfa"].metrics.l0 is not None and found["tfa"].metrics.l0 > 3
    assert found["topk"].metrics.novel_l0 == found["topk"].metrics.l0


def test_however_few_sequences_logits_are_held_of_at_once_the_numbers_are_the_same(
    subject: Subject, batch: SequenceBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    saes = {"topk": tiny_sae()}
    expected = evaluate(subject, saes, batch, sizes=(4,))["topk"]
    held: list[int] = []
    run_from = subject.run_from

    def watched(site: str, acts: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        held.append(len(acts))
        return run_from(site, acts, tokens)

    monkeypatch.setattr(subject, "run_from", watched)
    for most, at_once in ((3 * CONTEXT * VOCAB, 3), (1, 1)):
        held.clear()
        monkeypatch.setattr("chronosae.evals.core.measure.MOST_LOGITS", most)
        found = evaluate(subject, saes, batch, sizes=(4,))["topk"]
        assert max(held) == at_once
        assert found.metrics.defined() == pytest.approx(expected.metrics.defined(), rel=1e-12)
        assert found.intervals["ce_loss_score"].se == pytest.approx(expected.intervals["ce_loss_score"].se)
        assert found.data == expected.data and found.flags == expected.flags
