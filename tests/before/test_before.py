"""A run folder and a cache written before the package was rearranged (December 2026) read as they did."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import chronosae
from chronosae import report
from chronosae.activations import build_cache, open_stream
from chronosae.activations.store import training_sequences
from chronosae.autoencoders import read_metadata
from chronosae.cli import main
from chronosae.config import RunConfig, load_config
from chronosae.pipeline.evaluations import plan_job
from chronosae.subject import Subject
from chronosae.world import model_folder, register

HERE = Path(__file__).parent
RUN = HERE / "run"
NAMES = ["topk", "topk@2", "relu_l1", "relu_l1@2"]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_an_old_run_is_read_with_its_metrics_and_its_training() -> None:
    run, written = report.read_run(RUN), read(RUN / "final_info.json")["saes"]
    assert [sae.name for sae in run.saes] == list(run.training()) == NAMES
    for sae in run.saes:
        assert sae.metrics == written[sae.name]["metrics"]["core"]
        assert sae.flags == written[sae.name]["flags"]
        assert [line.step for line in run.training()[sae.name]] == [5, 10]
    assert run.details("topk") is not None and run.intervals("relu_l1")
    assert run.info.as_json() == read(RUN / "final_info.json")


def test_compare_shows_an_old_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(RUN), "--json"]) == 0
    rows = {row["sae"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(rows) == ["topk", "relu_l1"]
    old = [read(RUN / "final_info.json")["saes"][name]["metrics"]["core"]["l0"] for name in ("topk", "topk@2")]
    assert rows["topk"]["metrics"]["l0"]["n"] == 2
    assert rows["topk"]["metrics"]["l0"]["mean"] == pytest.approx(sum(old) / 2)


def test_notes_of_an_old_run_are_written_again_as_they_were(old_run: Path) -> None:
    (old_run / "notes.md").unlink()
    report.write_notes(old_run)
    assert (old_run / "notes.md").read_text(encoding="utf-8") == (RUN / "notes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_autoencoders_of_an_old_run_load_and_are_saved_as_they_were(name: str, tmp_path: Path) -> None:
    sae, metadata = chronosae.load(RUN / "saes" / name), read_metadata(RUN / "saes" / name)
    sae.save(tmp_path, metadata)
    for file in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / file).read_bytes() == (RUN / "saes" / name / file).read_bytes()


def test_an_old_run_is_evaluated_again_with_the_same_numbers(old_run: Path) -> None:
    before = read(RUN / "final_info.json")
    job = plan_job(old_run, ["core"], ["evals.core.tokens=64"], only=["topk"])
    assert list(job.planned) == ["topk"] and job.chosen[0].model_dump()["tokens"] == 64 and not job.lacking
    (old_run / "notes.md").unlink()
    shutil.rmtree(old_run / "evals")
    assert main(["eval", str(old_run), "--evals", "core"]) == 0
    after = read(old_run / "final_info.json")
    for name in NAMES:
        # Equal on one machine; another one may sum in another order.
        found, expected = (info["saes"][name]["metrics"]["core"] for info in (after, before))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert after["saes"][name]["flags"] == before["saes"][name]["flags"]
        assert (old_run / "evals" / "core" / f"{name}_eval_results.json").is_file()
    assert "relu_l1@2" in (old_run / "notes.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def world() -> Subject:
    register()
    cfg = load_config(HERE / "cache.yaml").subject.model_copy(update={"model": str(model_folder())})
    return Subject.load(cfg, name="world")


@pytest.fixture
def cached(tmp_path: Path) -> RunConfig:
    folder = shutil.copytree(HERE / "cache", tmp_path / "cache")
    return load_config(HERE / "cache.yaml", [f"activations.cache_dir={folder}"])


def test_an_old_cache_has_todays_key_and_yields_the_same_batches(cached: RunConfig, world: Subject) -> None:
    stream, site = open_stream(cached, world), cached.subject.sites[0]
    for hashes in read(HERE / "cache_batches.json"):  # three epochs
        batch = stream.next()[site]
        found = {name: hashlib.sha256(getattr(batch, name).numpy().tobytes()).hexdigest() for name in hashes}
        assert found == hashes
    kept = HERE / "cache"
    for file in kept.rglob("*.*"):
        if file.is_file():
            assert (Path(cached.activations.cache_dir or "") / file.relative_to(kept)).read_bytes() == file.read_bytes()


def test_an_old_cache_knows_its_place_in_the_text(cached: RunConfig, world: Subject) -> None:
    """A build that was stopped goes on there."""
    behind, fresh = (training_sequences(cached, world, for_cache=True) for _ in range(2))
    behind.load_state_dict(build_cache(cached, world).state(0))
    first = fresh.take(6)
    assert first.doc_ids[0, 0] == 0
    for n in (3, 4):
        assert torch.equal(behind.take(n).tokens, fresh.take(n).tokens)
