"""An intervention written outside the package, used by name in a YAML file, and the page that teaches it."""

from pathlib import Path

import pytest
import torch

from chronosae.autoencoders import Autoencoder
from chronosae.config import SubjectConfig, UserError, load_config
from chronosae.config.registry import load_plugin
from chronosae.evals import EVALUATIONS, Evaluation, Provenance, Workbench, result_envelope
from chronosae.interventions import INTERVENTIONS, edited, read
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder, register, register_evaluation_data

MINE = Path(__file__).parent / "my_intervention.py"
PAGE = Path(__file__).parents[2] / "docs" / "extend" / "intervention.md"
SITE = "blocks.1.hook_resid_post"
RUN = """
subject: {model: world}
corpus: {path: world}
saes:
  topk: {preset: topk, site: blocks.1.hook_resid_post, d_sae: 64, k: 4}
evals:
  unlearning:
    intervention: {kind: fade, half: 10}
    text_tokens: 600
    context: 32
    max_questions: 12
    kept_questions: [world/history]
    retain_thresholds: [0.9]
    n_features: [20]
    multipliers: [90]
"""


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    load_plugin(str(MINE))


@pytest.fixture(scope="module")
def bench() -> Workbench:
    register()
    register_evaluation_data()
    return Workbench(Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world"), SITE)


@pytest.fixture
def sae(bench: Workbench) -> Autoencoder:
    return build("topk", d_in=bench.subject.info.d_model, d_sae=64, k=4)


def configured(folder: Path, text: str = RUN) -> Evaluation:
    (folder / "run.yaml").write_text(text)
    return EVALUATIONS["unlearning"].read(load_config(folder / "run.yaml").evals.unlearning or {})


def test_it_is_thirty_lines_and_the_page_holds_it_as_it_stands() -> None:
    text = MINE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 30
    assert f"```python\n{text}```" in PAGE.read_text(encoding="utf-8")


def test_an_evaluation_runs_it_by_its_name_in_a_yaml_file(tmp_path: Path, bench: Workbench, sae: Autoencoder) -> None:
    evaluation = configured(tmp_path)
    mine = evaluation.run(bench, {"topk": sae})["topk"]
    clamped = configured(tmp_path, RUN.replace("{kind: fade, half: 10}", "{kind: clamp}")).run(bench, {"topk": sae})
    (row,), (other,) = mine.details, clamped["topk"].details
    assert row["questions_touched"] == other["questions_touched"] > 0
    assert row["features_clamped"] == other["features_clamped"] == 20
    assert row["all_side_effects_mcq"] > other["all_side_effects_mcq"]  # to fade does less than to turn over
    where = Provenance("world", "f" * 64, "float32", "world", "c" * 64, seed=0, device="cpu")
    written = result_envelope(evaluation, "topk", sae, SITE, mine, where)
    assert written["chronosae"]["config"]["intervention"] == {"kind": "fade", "half": 10.0}
    assert written["eval_config"]["intervention_method"] == "fade"


def test_a_share_of_the_chosen_codes_stays(bench: Workbench, sae: Autoencoder) -> None:
    acts = torch.randn(2, 6, sae.d_in, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = read(sae, acts, torch.ones(2, 6, dtype=torch.bool))
        feature = int(seen.codes.dense().sum((0, 1)).argmax())
        out = edited(sae, seen, INTERVENTIONS["fade"](half=10.0).edit([feature], 30.0))
    taken = 0.75 * seen.codes.at(feature).clamp(min=0).unsqueeze(-1) * sae.W_dec[feature].detach()
    torch.testing.assert_close(acts - out, taken, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("{kind: faed}", r"evals\.unlearning\.intervention.*faed.*legal: clamp.*fade"),
        ("{kind: fade, halv: 1}", "halv"),
        ("{kind: fade, half: 10}\n    protocol: saebench", "saebench clamps"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, wrong: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        configured(tmp_path, RUN.replace("{kind: fade, half: 10}", wrong))
    assert "\n" not in str(error.value)
