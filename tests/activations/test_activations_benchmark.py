"""The harvest benchmark runs end to end, and its exit code is its verdict."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "harvest.py"


@pytest.mark.parametrize(("target", "code"), [(0.0, 0), (1000.0, 1)])
def test_the_exit_code_is_1_below_the_target_and_the_json_says_so_too(monkeypatch, capsys, target, code):
    spec = importlib.util.spec_from_file_location("harvest_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    harvest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harvest)
    assert harvest.TARGET == 0.9
    monkeypatch.setattr(harvest, "TARGET", target)
    write = harvest.write_corpus
    monkeypatch.setattr(harvest, "write_corpus", lambda path: write(path, documents=200))
    assert harvest.main(["--json", "--chunks", "1", "--context", "16", "--harvest-sequences", "2"]) == code
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ok"] is (code == 0) and result["ratio"] > 0
