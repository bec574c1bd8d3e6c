"""The benchmarks of harvest and cache run end to end, and their exit codes are their verdicts."""

import json
import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def reading(monkeypatch):
    """`reading`, imported as a script is."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import reading

    yield reading
    for name in ("reading", "harvest_peers", "turns"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("target", "code"), [(0.0, 0), (1000.0, 1)])
def test_the_exit_code_is_1_below_the_target_and_the_json_says_so_too(reading, monkeypatch, capsys, target, code):
    assert reading.TARGET["harvest"] == 0.9
    monkeypatch.setitem(reading.TARGET, "harvest", target)
    write = reading.write_corpus
    monkeypatch.setattr(reading, "write_corpus", lambda path: write(path, documents=200))
    assert reading.harvest(["--json", "--chunks", "1", "--context", "16", "--harvest-sequences", "2"]) == code
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ok"] is (code == 0) and result["ratio"] > 0


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system can't be asked to forget a file")
@pytest.mark.parametrize(("target", "code"), [(0.0, 0), (1000.0, 1)])
def test_the_exit_code_is_1_where_the_cache_is_slower_than_the_disk(
    reading, monkeypatch, capsys, tmp_path, target, code
):
    assert reading.TARGET["cache_read"] == 0.9
    monkeypatch.setitem(reading.TARGET, "cache_read", target)
    monkeypatch.setattr(reading, "SIZE", {"d_in": 8, "context": 4, "batch_sequences": 2})
    assert reading.cache_read(["--json", "--repeats", "1", "--megabytes", "0", "--folder", str(tmp_path)]) == code
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ok"] is (code == 0) and result["ratio"] == result["cases"]["bfloat16"]["ratio"]["cold in order"]
    assert set(result["cases"]) == {"bfloat16", "float32", "int8"} and not list(tmp_path.iterdir())
