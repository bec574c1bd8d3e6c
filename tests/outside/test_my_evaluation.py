"""An evaluation written outside the package, used by name in a YAML file, and the page that teaches it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from chronosae.cli import main
from chronosae.config import UserError, load_config
from chronosae.config.registry import load_plugin
from chronosae.evals import EVALUATIONS, result_schema
from chronosae.pipeline import run
from chronosae.pipeline.evaluations import choose

MINE = Path(__file__).parent / "my_evaluation.py"
PAGE = Path(__file__).parents[2] / "docs" / "extend" / "evaluation.md"
RUN = """
subject: {model: world, sites: [blocks.1.hook_resid_post], device: cpu}
corpus: {path: world}
activations: {context: 32, shuffle_buffer: 8, harvest_sequences: 4, normalise_tokens: 256}
training: {tokens: 1280, batch_tokens: 128}
saes: {topk: {d_sae: 64, k: 4}, wide: {preset: topk, d_sae: 64, k: 16}}
evals: {core: null, breadth: {context: 16}}
"""


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    load_plugin(str(MINE))
    yield
    EVALUATIONS.remove("breadth")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.yaml").write_text(RUN)
    run(load_config(folder / "run.yaml"), folder / "out")
    return folder / "out"


def written(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "evals" / "breadth" / f"{name}_eval_results.json").read_text(encoding="utf-8"))


def test_it_is_thirty_lines_and_the_page_holds_it_as_it_stands() -> None:
    text = MINE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 30
    assert f"```python\n{text}```" in PAGE.read_text(encoding="utf-8")


def test_a_run_does_it_by_its_name_in_a_yaml_file(finished: Path) -> None:
    found = {name: written(finished, name) for name in ("topk", "wide")}
    for result in found.values():
        jsonschema.validate(result, result_schema())
        assert result["chronosae"]["config"] == {"data": "world/subject", "context": 16}
    value = {name: result["eval_result_metrics"]["breadth"]["features_a_text"] for name, result in found.items()}
    assert 0 < value["topk"] < value["wide"] <= 64
    interval = found["topk"]["chronosae"]["intervals"]["metrics"]["features_a_text"]
    assert interval["low"] < value["topk"] < interval["high"]
    info = json.loads((finished / "final_info.json").read_text(encoding="utf-8"))
    assert info["saes"]["topk"]["metrics"] == {"breadth": {"features_a_text": value["topk"]}}
    assert load_config(finished / "config.yaml").evals.options["breadth"] == {"context": 16}


def test_a_finished_run_is_evaluated_by_it_and_its_options_are_told(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(finished), "--evals", "breadth", "--set", "evals.breadth.context=8"]) == 0
    assert written(finished, "topk")["chronosae"]["config"]["context"] == 8
    assert main(["eval", "--options", "breadth"]) == 0
    assert "evals.breadth.context" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("{breath: {}}", r"evals\.breath: unknown evaluation 'breath'; legal: core, .*breadth"),
        ("{breadth: {contxt: 8}}", r"evals\.breadth\.contxt; did you mean context\? Legal here: context, data"),
        ("{breadth: {context: many}}", r"evals\.breadth\.context"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_computed(tmp_path: Path, wrong: str, says: str) -> None:
    (tmp_path / "run.yaml").write_text(RUN.replace("{core: null, breadth: {context: 16}}", wrong))
    with pytest.raises(UserError, match=says) as error:
        choose(load_config(tmp_path / "run.yaml"))
    assert "\n" not in str(error.value)


def test_headlines_are_metrics_that_it_has(finished: Path) -> None:
    assert set(EVALUATIONS["breadth"].headline) <= set(written(finished, "topk")["chronosae"]["metrics"])
