"""Unlearning equals SAEBench 0.6.0's own functions: frequencies, choice of features, clamp, prompts and score.

SAEBench's functions get the tensors that ours get; it runs in the environment of `tests/parity/requirements.txt`.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sae_bench", reason="needs SAEBench (tests/parity/requirements.txt)")

import pandas as pd
from pydantic import TypeAdapter
from sae_bench.evals.unlearning import main as saebench
from sae_bench.evals.unlearning.eval_output import UnlearningEvalOutput
from sae_bench.evals.unlearning.utils import feature_activation, metrics
from sae_bench.evals.unlearning.utils.intervention import anthropic_clamp_resid_SAE_features
from sae_bench.sae_bench_utils.activation_collection import get_feature_activation_sparsity
from test_core_saebench import Adapted, _violations

from chronosae.autoencoders import Autoencoder
from chronosae.config import SubjectConfig
from chronosae.evals.data import Question
from chronosae.evals.envelope import Provenance, result_envelope, write_envelope
from chronosae.evals.multiple_choice import ORDERS, ask_by_letters
from chronosae.evals.unlearning import Unlearning
from chronosae.evals.unlearning.data import text_rows
from chronosae.evals.unlearning.measure import firing_frequencies, ranked_features
from chronosae.evals.unlearning.report import Outcome
from chronosae.evals.workbench import Workbench
from chronosae.interventions import Clamp, edited, read
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder
from chronosae.world import register as register_world
from chronosae.world.evaluation_data import register

register()
register_world()

SITE = "blocks.1.hook_resid_post"
OPTIONS = Unlearning(text_tokens=1500, max_questions=8, kept_questions=("world/history",), multipliers=(25,))
# Gemma's template, as far as one message of the user goes.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world"), SITE)


def autoencoder(preset: str, d_in: int, d_sae: int = 200) -> Autoencoder:
    """Static, untrained, with biases."""
    sae = build(preset, d_in=d_in, d_sae=d_sae, **({"k": 6} if preset == "topk" else {}))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        sae.b_enc.copy_(torch.randn(d_sae, generator=g) - (0 if preset == "topk" else 5))
        sae.b_dec.copy_(torch.randn(d_in, generator=g))
    return sae.eval()


def test_firing_frequencies_equal_saebenchs(bench: Workbench) -> None:
    sae = autoencoder("relu_l1", bench.subject.info.d_model)
    rows = text_rows(bench, OPTIONS.forget_text, "k", 1500, 64)
    rows = rows.rows((rows.lengths == 64).nonzero().squeeze(1))  # SAEBench's rows are all full
    assert len(rows) > 5

    def run_with_cache(tokens: torch.Tensor, stop_at_layer: int, names_filter: str) -> tuple[None, dict[str, Any]]:
        return None, bench.subject.activations(tokens, [names_filter])

    model: Any = SimpleNamespace(run_with_cache=run_with_cache, tokenizer=bench.subject.tokenizer)
    adapted: Any = Adapted(sae)
    theirs = get_feature_activation_sparsity(rows.tokens, model, adapted, 4, 1, SITE, mask_bos_pad_eos_tokens=True)
    ours = firing_frequencies(bench, rows, {"sae": sae}, "k")["sae"]
    assert float(theirs.max()) > 0 and np.array_equal(ours.astype(np.float32), theirs.numpy())


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_of_features_is_saebenchs_with_its_rounding_and_its_order_of_ties(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    # Few tokens: many frequencies are equal; many tokens: some round to zero.
    tokens = (200, 5000, 3_000_000)[seed % 3]
    forget, retain = (rng.binomial(tokens, rng.beta(0.05, 5, 4096)) / tokens for _ in range(2))
    feature_activation.save_results(str(tmp_path), "sae", forget.astype(np.float32), retain.astype(np.float32))
    read_forget, read_retain = feature_activation.load_sparsity_data(str(tmp_path), "sae")
    for threshold in (0.001, 0.01):
        theirs = feature_activation.get_top_features(read_forget, read_retain, retain_threshold=threshold)
        assert len(theirs) > 20
        assert ranked_features(forget, retain, threshold, "saebench") == theirs.tolist()


@pytest.mark.parametrize("preset", ["topk", "relu_l1"])
@pytest.mark.parametrize("multiplier", [0, 25, 200])
def test_the_clamp_equals_saebenchs_hook(preset: str, multiplier: int) -> None:
    sae = autoencoder(preset, 16, 40)
    if preset == "relu_l1":
        with torch.no_grad():
            sae.b_enc.add_(4)
    acts = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(0)) * 3
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[:, 0] = False  # SAEBench spares the first position, and nothing else
    features = [3, 17, 20, 31]
    adapted: Any = Adapted(sae)
    hook: Any = None
    theirs = anthropic_clamp_resid_SAE_features(acts, hook, adapted, features, multiplier)
    with torch.no_grad():
        ours = edited(sae, read(sae, acts, mask), Clamp().edit(features, float(multiplier)))
    assert theirs is not None and not torch.allclose(ours, acts, atol=0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("chat", [False, True])
def test_lettered_prompts_are_saebenchs_in_every_order(bench: Workbench, chat: bool) -> None:
    question = Question("Which one?", ("this", "that", "neither", "both of them"), 2, "f")
    tokenizer = bench.subject.tokenizer
    before, tokenizer.chat_template = tokenizer.chat_template, TEMPLATE
    try:
        for order in ORDERS[::5]:
            asked = ask_by_letters(bench, [question], ["human aging"], order, chat)
            ours = tokenizer.decode(asked.rows.tokens[0, asked.rows.real[0]]).removeprefix(tokenizer.bos_token)
            theirs = metrics.convert_wmdp_data_to_prompt(
                question.stem,
                list(question.options),
                prompt_format="GEMMA_INST_FORMAT" if chat else None,
                pre_question=metrics.PRE_QUESTION_FORMAT.format(subject="human aging"),
                permute_choices=order,
            )
            assert ours.strip() == theirs.removeprefix("<bos>").strip()
            assert asked.answers.tolist() == [order.index(2)]
    finally:
        tokenizer.chat_template = before


@pytest.mark.parametrize("seed", range(5))
def test_the_score_is_saebenchs(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    forget, kept = torch.rand(16, 40, generator=g) < 0.7, torch.rand(16, 200, generator=g) < 0.985 + seed / 500
    outcome = Outcome(forget, kept, torch.arange(40), 40 + torch.arange(200), 240, 0.99)
    table = pd.DataFrame(
        {"wmdp-bio": forget.double().mean(1).numpy(), "all_side_effects_mcq": kept.double().mean(1).numpy()}
    )
    assert float(outcome.scores(outcome.all_facts)) == pytest.approx(saebench.get_unlearning_scores(table), abs=1e-12)


def test_our_file_is_valid_for_saebench(bench: Workbench, tmp_path: Path) -> None:
    sae = autoencoder("topk", bench.subject.info.d_model)
    result = OPTIONS.run(bench, {"sae": sae})["sae"]
    where = Provenance("world", "f" * 64, "float32", "world", "c" * 64, seed=0, device="cpu")
    write_envelope(result_envelope(OPTIONS, "sae", sae, SITE, result, where), tmp_path / "x.json")
    read_back = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    folder = Path(saebench.__file__).parent
    schema = json.loads((folder / "eval_output_schema_unlearning.json").read_text(encoding="utf-8"))
    assert list(_violations(read_back, schema, schema["$defs"], "")) == []
    TypeAdapter(UnlearningEvalOutput).validate_python(read_back)
