"""Every result validates against our schema, and against SAEBench's where it has one (`make schemas` fetches those)."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from evals_tiny import core_envelope, evaluate, tiny_sae
from every_evaluation import SITE, SMALL, options, workbench

from chronosae.activations import SequenceBatch
from chronosae.config import CoreEvalConfig, SubjectConfig
from chronosae.evals import EVALUATIONS, result_schema
from chronosae.evals.envelope import Provenance, envelope, result_envelope
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder, register, register_evaluation_data

FOLDER = Path(__file__).parents[2] / ".schemas"
PROVENANCE = Provenance("world", "f" * 64, "float32", "text", "c" * 64, 0, "cpu")


def schema(eval_type_id: str) -> dict[str, Any]:
    path = FOLDER / f"eval_output_schema_{eval_type_id}.json"
    if not FOLDER.is_dir():
        pytest.skip("SAEBench's schemas aren't here; make schemas fetches them")
    return json.loads(path.read_text(encoding="utf-8"))


def test_core_validates(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae()
    made = core_envelope("topk", sae, evaluate(subject, {"topk": sae}, batch)["topk"], CoreEvalConfig(), PROVENANCE)
    read = json.loads(json.dumps(made))
    jsonschema.validate(read, result_schema())
    jsonschema.validate(read, schema("core"))


@pytest.mark.parametrize("name", SMALL)
def test_every_evaluation_validates(name: str) -> None:
    evaluation = options(name)
    register()
    register_evaluation_data()
    world = Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")
    sae = build("topk", d_in=world.info.d_model, d_sae=48, k=4)
    result = evaluation.run(workbench(world), {"topk": sae})["topk"]
    made = result_envelope(evaluation, "topk", sae, SITE, result, PROVENANCE)
    read = json.loads(json.dumps(made, allow_nan=False))
    jsonschema.validate(read, result_schema())
    assert set(read["chronosae"]["undefined"]) == {n for n, v in read["chronosae"]["metrics"].items() if v is None}
    if name != "order_probing":  # SAEBench doesn't have it
        jsonschema.validate(read, schema(evaluation.eval_type_id))


def test_the_published_schema_is_ours() -> None:
    path = Path(__file__).parents[2] / "docs" / "evaluations" / "result.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == result_schema()


def test_undefined_is_null_where_saebenchs_schema_has_null_and_else_minus_one() -> None:
    for name, undefined in (("scr", None), ("tpp", None), ("sparse_probing", None), ("absorption", -1)):
        made = envelope(
            eval_type_id=name, eval_config={}, metrics={"mean": {"a": None, "b": 0.5}}, details=[{"a": None}],
            sae_name="sae", sae_cfg_dict={}, block={}, undefined=EVALUATIONS[name].undefined,
        )  # fmt: skip
        assert made["eval_result_metrics"] == {"mean": {"a": undefined, "b": 0.5}}
        assert made["eval_result_details"] == [{"a": undefined}]


def test_a_missing_key_would_be_found(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae()
    made = core_envelope("topk", sae, evaluate(subject, {"topk": sae}, batch)["topk"], CoreEvalConfig(), PROVENANCE)
    del made["eval_result_metrics"]["sparsity"]["l0"]
    with pytest.raises(jsonschema.ValidationError, match="l0"):
        jsonschema.validate(json.loads(json.dumps(made)), schema("core"))
