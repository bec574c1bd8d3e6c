"""The JSON file: SAEBench's keys and names, valid numbers only, written whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evals_tiny import CONTEXT, SITE, Seen, core_envelope, evaluate, tiny_sae, write_core

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder, Normalisation
from chronosae.config import CoreEvalConfig
from chronosae.evals import Provenance, write_envelope
from chronosae.evals.core.report import CATEGORIES
from chronosae.evals.envelope import INDENTED_ROWS, KEYS
from chronosae.presets import build
from chronosae.subject import Subject

PROVENANCE = Provenance(
    subject="tiny",
    subject_fingerprint="f" * 64,
    subject_dtype="float64",
    dataset="made up",
    config_sha256="c" * 64,
    seed=7,
    device="cpu",
    training_tokens=1234,
    training={"lr": 1e-3},
)

# What SAEBench 0.6.0's schema requires in each category; the parity tests check against the schema itself.
SAEBENCH = {
    "model_behavior_preservation": {"kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"},
    "model_performance_preservation": {
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    },
    "reconstruction_quality": {"explained_variance", "explained_variance_legacy", "mse", "cossim"},
    "shrinkage": {"l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"},
    "sparsity": {"l0", "l1"},
    "token_stats": {"total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"},
    "misc_metrics": {
        "freq_over_1_percent",
        "freq_over_10_percent",
        "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim",
        "frac_alive",
    },
}


@pytest.fixture(scope="module")
def evaluated(subject: Subject, batch: SequenceBatch) -> tuple[Autoencoder, Seen]:
    sae = tiny_sae("topk")
    return sae, evaluate(subject, {"topk": sae}, batch)["topk"]


def test_the_file_has_saebenchs_keys_in_order_and_ours_last(evaluated: tuple, tmp_path: Path) -> None:
    path = tmp_path / "evals" / "core" / "topk_eval_results.json"
    write_core(path, "topk", *evaluated, CoreEvalConfig(), PROVENANCE)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert tuple(read) == KEYS and KEYS[-1] == "chronosae" and len(KEYS) == 13
    assert read["eval_type_id"] == "core"
    assert (read["sae_lens_id"], read["sae_lens_release_id"]) == ("custom_sae", "topk")
    assert 0 < read["datetime_epoch_millis"] < 9999999999999
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_every_category_has_what_saebench_requires(evaluated: tuple) -> None:
    found = core_envelope("topk", *evaluated, CoreEvalConfig(), PROVENANCE)["eval_result_metrics"]
    assert set(found) == set(SAEBENCH)
    assert {name: SAEBENCH[name] - set(flat) for name, flat in found.items() if SAEBENCH[name] - set(flat)} == {}


def test_every_metric_stands_in_exactly_one_category(evaluated: tuple) -> None:
    placed = [name for names in CATEGORIES.values() for name in names]
    assert len(placed) == len(set(placed))
    assert set(placed) | {"n_tokens"} == set(evaluated[1].metrics.model_dump())


def test_the_block_says_what_a_reader_needs_to_trust_the_numbers(evaluated: tuple) -> None:
    block = core_envelope("topk", *evaluated, CoreEvalConfig(), PROVENANCE)["chronosae"]
    result = evaluated[1]
    assert block["seed"] == 7 and block["config_sha256"] == "c" * 64 and block["data_sha256"] == result.data.sha256
    assert block["matched_l0"] == result.metrics.l0 and block["wall_seconds"] >= 0
    assert block["subject"] == {"model": "tiny", "fingerprint": "f" * 64}
    assert {"chronosae", "python", "torch", "transformers"} <= set(block["versions"])
    assert block["metrics"] == result.metrics.model_dump()
    assert block["tokens"]["sequences"] == 10 and block["tokens"]["context"] == CONTEXT
    assert block["by_position"] == result.by_position != {}
    assert block["by_document_position"] == result.by_document_position != result.by_position


def test_the_configuration_saebenchs_readers_use_is_there(evaluated: tuple) -> None:
    envelope = core_envelope("topk", *evaluated, CoreEvalConfig(batch_sequences=4), PROVENANCE)
    cfg = envelope["sae_cfg_dict"]
    assert (cfg["architecture"], cfg["d_sae"], cfg["training_tokens"], cfg["lr"]) == ("topk", 24, 1234, 1e-3)
    assert (cfg["hook_name"], cfg["hook_layer"]) == (SITE, 1)
    assert envelope["eval_config"]["n_eval_sparsity_variance_batches"] == 3
    assert envelope["eval_config"]["batch_size_prompts"] == 4


@pytest.mark.parametrize("kind", ["dataset", "token", "none"])
def test_the_configuration_in_the_file_is_the_one_that_ran(subject: Subject, batch: SequenceBatch, kind: str) -> None:
    sae = build("topk", d_in=16, d_sae=24, k=5, normalisation=Normalisation.model_validate({"kind": kind}))
    provenance = replace(PROVENANCE, exclude_special=False, prepend_bos=kind == "none")
    seen = evaluate(subject, {"topk": sae.double()}, batch, exclude_special=False)["topk"]
    found = core_envelope("topk", sae, seen, CoreEvalConfig(), provenance)
    assert (found["eval_config"]["llm_dtype"], found["eval_config"]["dataset"]) == ("float64", "made up")
    assert found["eval_config"]["exclude_special_tokens_from_reconstruction"] is False
    assert found["sae_cfg_dict"]["prepend_bos"] is (kind == "none")
    saelens = {"dataset": "expected_average_only_in", "token": "constant_norm_rescale", "none": "none"}
    assert found["sae_cfg_dict"]["normalize_activations"] == saelens[kind]


def test_files_of_many_features_are_written_compactly_and_read_the_same(tmp_path: Path) -> None:
    for n, compact in ((INDENTED_ROWS + 1, True), (3, False)):
        result = {"eval_result_details": [{"index": i} for i in range(n)]}
        write_envelope(result, tmp_path / "a.json")
        text = (tmp_path / "a.json").read_text(encoding="utf-8")
        assert json.loads(text) == result and (text.count("\n") == 1) is compact


def test_details_hold_one_row_a_feature_that_agrees_with_the_codes(evaluated: tuple, batch: SequenceBatch) -> None:
    sae, result = evaluated
    rows = core_envelope("topk", sae, result, CoreEvalConfig(), PROVENANCE)["eval_result_details"]
    assert [row["index"] for row in rows] == list(range(24))
    active = (sae.encode(batch.acts, batch.mask).dense() > 0) & batch.mask.unsqueeze(-1)
    n = int(batch.mask.sum())
    for row in rows:
        fired = active[..., row["index"]]
        prompts = int(fired.any(1).sum())
        assert row["feature_density"] == pytest.approx(int(fired.sum()) / n, abs=1e-9)
        expected = int(fired.sum()) / prompts if prompts else -1
        assert row["consistent_activation_heuristic"] == pytest.approx(expected, abs=1e-9)
        assert row["encoder_norm"] == pytest.approx(float(sae.W_enc[:, row["index"]].detach().norm()), rel=1e-6)


def test_undefined_metrics_are_minus_one_for_saebench_and_null_for_us(
    subject: Subject, batch: SequenceBatch, tmp_path: Path
) -> None:
    sae = tiny_sae("topk")
    with torch.no_grad():
        sae.W_enc.fill_(torch.nan)
    result = evaluate(subject, {"broken": sae}, batch)["broken"]
    path = tmp_path / "broken_eval_results.json"
    write_core(path, "broken", sae, result, CoreEvalConfig(), PROVENANCE)
    text = path.read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text
    read = json.loads(text)
    assert read["eval_result_metrics"]["sparsity"] == {"l0": -1, "l1": -1, "novel_l0": -1}
    assert set(read["chronosae"]["metrics"].values()) == {None}
    assert read["chronosae"]["undefined"] == list(read["chronosae"]["metrics"])
    assert read["chronosae"]["flags"] == ["non_finite_output"]


def test_nan_never_reaches_a_file_and_the_old_file_survives(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_envelope({"fine": 1.0}, path)
    with pytest.raises(ValueError, match="JSON"):
        write_envelope({"broken": float("nan")}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"fine": 1.0}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
