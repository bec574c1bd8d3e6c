"""The benchmarks of harvest and cache run end to end, and their exit codes are their verdicts."""

import importlib.util
import json
import os
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


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system can't be asked to forget a file")
@pytest.mark.parametrize(("target", "code"), [(0.0, 0), (1000.0, 1)])
def test_the_exit_code_is_1_where_the_cache_is_slower_than_the_disk(monkeypatch, capsys, tmp_path, target, code):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    cache_read = importlib.import_module("cache_read")
    assert cache_read.TARGET == 0.9
    monkeypatch.setattr(cache_read, "TARGET", target)
    monkeypatch.setattr(cache_read, "SIZE", {"d_in": 8, "context": 4, "batch_sequences": 2})
    assert cache_read.main(["--json", "--repeats", "1", "--megabytes", "0", "--folder", str(tmp_path)]) == code
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ok"] is (code == 0) and result["ratio"] == result["cases"]["bfloat16"]["ratio"]["cold in order"]
    assert set(result["cases"]) == {"bfloat16", "float32", "int8"} and not list(tmp_path.iterdir())
