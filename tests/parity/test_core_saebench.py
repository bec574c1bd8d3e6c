"""Our core metrics equal SAEBench 0.6.0's own on the same model, tokens and autoencoder; its readers take our file.

SAEBench is no dependency of ours: this runs in a separate environment (`tests/parity/requirements.txt`) with
`JAXTYPING_DISABLE=1` and is skipped everywhere else. SAEBench runs on TransformerLens' copy of a tiny GPT-2, we on the
Hugging Face one; its `run_evals` gets our tokens from an object that stands in for SAELens' ActivationsStore.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("sae_bench", reason="needs SAEBench (tests/parity/requirements.txt)")
sys.path.insert(0, str(Path(__file__).parents[1] / "evals"))
sys.path.insert(0, str(Path(__file__).parents[1] / "subject"))

from evals_tiny import Seen, evaluate_core, likely_tokens, make_batch, split, write_core
from pydantic import TypeAdapter
from sae_bench.custom_saes.base_sae import BaseSAE
from sae_bench.evals.core import main as saebench
from sae_bench.evals.core.eval_config import CoreEvalConfig as SAEBenchConfig
from sae_bench.evals.core.eval_output import CoreEvalOutput
from sae_bench.sae_bench_utils import graphing_utils
from subject_families import CONTEXT, WIDTH, tiny_model
from test_subject_transformerlens import tl_model

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.config import CoreEvalConfig
from chronosae.evals import Provenance
from chronosae.presets import build
from chronosae.subject import Subject

SITE = "blocks.1.hook_resid_post"
SPECIAL = {0, 1, 2}
SEQUENCES, PROMPTS, RECON_BATCHES, VARIANCE_BATCHES = 30, 5, 4, 6
PRESETS = ["topk", "relu_l1"]

# SAEBench's name -> ours, where they differ: its formulas under these names are wrong (docs/evaluations/core.md).
RENAMED = {"explained_variance": "explained_variance_saebench_060", "mse": "mse_saebench"}


class Adapted(BaseSAE):
    """Our autoencoder under SAEBench's contract: dense codes, no mask."""

    def __init__(self, sae: Autoencoder) -> None:
        super().__init__(sae.d_in, sae.d_sae, "tiny", 1, torch.device("cpu"), torch.float32, SITE)
        self.inner = sae
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            getattr(self, name).data = getattr(sae, name).data
        self.cfg.architecture = self.cfg.architecture_str = sae.cfg.preset

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.encode(x).dense()

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return feature_acts @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


class Store:
    """The part of an ActivationsStore that `run_evals` uses: the next tokens, from the start again on reset."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens, self.start = tokens, 0
        self.context_size, self.store_batch_size_prompts = tokens.shape[1], PROMPTS

    def get_batch_tokens(self, n: int) -> torch.Tensor:
        self.start += n
        return self.tokens[self.start - n : self.start]

    def reset_input_dataset(self) -> None:
        self.start = 0


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    model = tiny_model("gpt2", architectures=["GPT2LMHeadModel"], n_ctx=CONTEXT)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(4)  # sharp logits: ablation costs much, which conditions the scores
    subject = Subject(model, tokenizer=None, name="tiny")
    tokens = likely_tokens(subject, SEQUENCES, context=24)
    tokens[:, 0] = 1
    mask = torch.tensor([[int(token) not in SPECIAL for token in row] for row in tokens])
    assert not mask[:, 1:].all()  # special tokens inside contexts too
    hooked = tl_model("gpt2", model, tmp_path_factory.mktemp("tiny"))
    return SimpleNamespace(subject=subject, hooked=hooked, batch=make_batch(subject, tokens, mask, SITE))


def autoencoder(preset: str) -> Autoencoder:
    """Untrained, with biases, and a decoder that shrinks: every term of every formula matters."""
    options: dict[str, Any] = {"topk": {"k": 6}, "relu_l1": {"form": "decoder_weighted"}}[preset]
    sae = build(preset, d_in=WIDTH, d_sae=80, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        sae.b_enc.copy_(torch.randn(80, generator=generator) * 0.5 - 0.5)
        sae.b_dec.copy_(torch.randn(WIDTH, generator=generator) * 0.1)
        sae.W_enc.add_(torch.randn(WIDTH, 80, generator=generator) * 0.05)
        sae.W_dec.mul_(0.5)
    return sae


def theirs(setting: SimpleNamespace, sae: Autoencoder) -> tuple[dict[str, float], dict[str, list[float]]]:
    """SAEBench's scalars, flat, and its per-feature lists."""
    names = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
    names += ("featurewise_density_statistics", "featurewise_weight_based_metrics")
    config = SAEBenchConfig(
        batch_size_prompts=PROMPTS,
        n_eval_reconstruction_batches=RECON_BATCHES,
        n_eval_sparsity_variance_batches=VARIANCE_BATCHES,
        exclude_special_tokens_from_reconstruction=True,
        **{f"compute_{name}": True for name in names},
    )
    store: Any = Store(setting.batch.tokens)
    adapted: Any = Adapted(sae)
    metrics, features = saebench.run_evals(adapted, store, setting.hooked, config, ignore_tokens=set(SPECIAL))
    flat = {name: value for category in metrics.values() for name, value in category.items()}
    return flat | saebench.calculate_misc_metrics(features), features


def ours(setting: SimpleNamespace, sae: Autoencoder) -> tuple[Seen, CoreEvalConfig]:
    batch: SequenceBatch = setting.batch
    context = batch.tokens.shape[1]
    cfg = CoreEvalConfig(
        tokens=VARIANCE_BATCHES * PROMPTS * context,
        behaviour_tokens=RECON_BATCHES * PROMPTS * context,
        batch_sequences=PROMPTS,
    )
    return evaluate_core({"sae": sae}, setting.subject, SITE, split(batch, (PROMPTS,)), cfg)["sae"], cfg


@pytest.mark.parametrize("preset", PRESETS)
def test_every_metric_saebench_has_equals_ours(setting: SimpleNamespace, preset: str) -> None:
    sae = autoencoder(preset)
    expected, _ = theirs(setting, sae)
    result, _ = ours(setting, sae)
    data = result.data
    found = result.metrics.defined() | {
        "total_tokens_eval_reconstruction": data.behaviour_sequences * data.context,
        "total_tokens_eval_sparsity_variance": data.sequences * data.context,
    }
    assert len(expected) == 26
    worst = max((abs(found[RENAMED.get(name, name)] / value - 1), name) for name, value in expected.items() if value)
    print(f"{preset}: {len(expected)} metrics, largest relative difference {worst[0]:.1e} ({worst[1]})")
    assert {name: found[RENAMED.get(name, name)] for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_number_saebench_has_a_feature_equals_ours(setting: SimpleNamespace, preset: str, tmp_path: Path) -> None:
    sae = autoencoder(preset)
    _, features = theirs(setting, sae)
    rows = saebench.replace_nans_with_negative_one(features)
    details = json.loads(written(setting, sae, tmp_path).read_text(encoding="utf-8"))["eval_result_details"]
    assert set(details[0]) == {"index", *rows}
    for name, values in rows.items():
        assert [row[name] for row in details] == pytest.approx(values, rel=1e-5, abs=1e-6), name


def test_a_zero_autoencoder_gets_numbers_where_saebench_has_nan(setting: SimpleNamespace) -> None:
    sae = autoencoder("relu_l1")
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
    expected, _ = theirs(setting, sae)
    nan = {name for name, value in expected.items() if value != value}
    assert nan == {"cossim", "relative_reconstruction_bias"}
    result, _ = ours(setting, sae)
    assert result.metrics.undefined() == []
    shared = {RENAMED.get(name, name): value for name, value in expected.items() if name not in nan}
    found = {name: value for name, value in result.metrics.defined().items() if name in shared}
    shared = {name: value for name, value in shared.items() if name in found}
    assert len(shared) == 22
    # The scores are differences of nearly equal float32 losses here, hence the absolute tolerance.
    assert found == pytest.approx(shared, rel=1e-5, abs=1e-5)


def written(setting: SimpleNamespace, sae: Autoencoder, folder: Path) -> Path:
    result, cfg = ours(setting, sae)
    path = folder / "core" / "ours_custom_sae_eval_results.json"
    provenance = Provenance("tiny", "f" * 64, "float32", "made up", "c" * 64, seed=0, device="cpu", training_tokens=9)
    write_core(path, "ours", sae, result, cfg, provenance)
    return path


@pytest.mark.parametrize("break_it", [False, True])
def test_our_file_is_valid_for_saebench_also_where_metrics_are_undefined(
    setting: SimpleNamespace, tmp_path: Path, break_it: bool
) -> None:
    sae = autoencoder("topk")
    if break_it:
        with torch.no_grad():
            sae.W_dec.fill_(torch.nan)
    read = json.loads(written(setting, sae, tmp_path).read_text(encoding="utf-8"))
    assert list(schema_errors(read)) == []
    TypeAdapter(CoreEvalOutput).validate_python(read)


def test_the_schema_check_finds_what_is_missing_or_null(setting: SimpleNamespace, tmp_path: Path) -> None:
    read = json.loads(written(setting, autoencoder("topk"), tmp_path).read_text(encoding="utf-8"))
    read["eval_result_metrics"]["sparsity"]["l0"] = None
    del read["sae_cfg_dict"]
    assert sorted(schema_errors(read)) == ["/: sae_cfg_dict missing", "/eval_result_metrics/sparsity/l0: not number"]


def test_saebenchs_own_readers_read_our_file(setting: SimpleNamespace, tmp_path: Path) -> None:
    sae = autoencoder("topk")
    path = written(setting, sae, tmp_path)
    (found,) = graphing_utils.get_eval_results([str(path)]).values()
    result, _ = ours(setting, sae)
    assert found["explained_variance"] == result.metrics.explained_variance
    assert (found["sae_class"], found["train_tokens"]) == ("topk", 9)
    (core,) = graphing_utils.get_core_results([str(path)]).values()
    assert core == {"l0": result.metrics.l0, "ce_loss_score": result.metrics.ce_loss_score}


def schema_errors(value: Any) -> Iterator[str]:
    """Violations of the JSON schema that SAEBench publishes for this evaluation."""
    schema = json.loads((Path(saebench.__file__).parent / "eval_output_schema_core.json").read_text(encoding="utf-8"))
    yield from _violations(value, schema, schema["$defs"], "")


def _violations(value: Any, schema: dict[str, Any], definitions: dict[str, Any], where: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:
        found = [list(_violations(value, option, definitions, where)) for option in schema["anyOf"]]
        yield from [] if [] in found else found[0]
    types: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    types |= {"number": (int, float), "null": type(None)}
    expected = schema.get("type")
    if expected and (not isinstance(value, types[expected]) or (isinstance(value, bool) and expected != "boolean")):
        yield f"{where or '/'}: not {expected}"
        return
    if isinstance(value, dict):
        yield from (f"{where or '/'}: {name} missing" for name in schema.get("required", ()) if name not in value)
        for name, part in schema.get("properties", {}).items():
            if name in value:
                yield from _violations(value[name], part, definitions, f"{where}/{name}")
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from _violations(item, schema["items"], definitions, f"{where}/{i}")
