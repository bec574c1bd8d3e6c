"""Every result that SAEBench has a schema for validates against it; `make schemas` fetches the schemas."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from evals_tiny import evaluate, tiny_sae
from every_evaluation import SITE, SMALL, options

from chronosae.activations.batch import SequenceBatch
from chronosae.autoencoders import build
from chronosae.config import CoreEvalConfig, SubjectConfig
from chronosae.evals import Workbench, core_envelope, find_evaluation
from chronosae.evals.envelope import Provenance
from chronosae.evals.output import result_envelope
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
    jsonschema.validate(json.loads(json.dumps(made)), schema("core"))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "order_probing"])
def test_every_saebench_evaluation_validates(name: str) -> None:
    evaluation = find_evaluation(name)
    wanted = schema(evaluation.eval_type_id)
    register()
    register_evaluation_data()
    world = Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")
    sae = build("topk", d_in=world.info.d_model, d_sae=48, k=4)
    result = evaluation.run(options(name), Workbench(world, SITE), {"topk": sae})["topk"]
    made = result_envelope(evaluation, "topk", sae, SITE, result, options(name), PROVENANCE)
    jsonschema.validate(json.loads(json.dumps(made, allow_nan=False)), wanted)


def test_a_missing_key_would_be_found(subject: Subject, batch: SequenceBatch) -> None:
    sae = tiny_sae()
    made = core_envelope("topk", sae, evaluate(subject, {"topk": sae}, batch)["topk"], CoreEvalConfig(), PROVENANCE)
    del made["eval_result_metrics"]["sparsity"]["l0"]
    with pytest.raises(jsonschema.ValidationError, match="l0"):
        jsonschema.validate(json.loads(json.dumps(made)), schema("core"))
