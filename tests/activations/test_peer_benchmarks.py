"""The benchmarks against other libraries, as far as they run without these."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

from chronosae.config import SubjectConfig, load_config
from chronosae.subject import Subject

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = {"d_in": 64, "layer": 0, "layers": 2, "vocabulary": 300, "context": 16, "harvest_sequences": 4}
SMALL |= {"batch_tokens": 64, "batches": 2, "d_sae": 128, "k": 4, "lr": 1e-3, "tokens": 256}


@pytest.fixture
def scripts(monkeypatch):
    """`harvest_peers`, its worker, and `whole_run`, imported as scripts are."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import harvest_peers
    import harvest_peers_worker
    import whole_run

    yield SimpleNamespace(harvest=harvest_peers, worker=harvest_peers_worker, run=whole_run)
    for name in ("harvest_peers", "harvest_peers_worker", "whole_run"):
        sys.modules.pop(name, None)


@pytest.fixture
def size(scripts, tmp_path):
    """A small model and text, as the benchmarks write them."""
    corpus = scripts.harvest.write_corpus(tmp_path / "corpus.txt", documents=60)
    scripts.harvest.write_model(tmp_path / "lm", corpus, SMALL)
    return SMALL | {"corpus": str(corpus), "model": str(tmp_path / "lm"), "out": str(tmp_path / "out")}


def test_the_model_is_a_whole_local_one_whose_tokenizer_fits(size):
    subject = Subject.load(SubjectConfig(model=size["model"], device="cpu"))
    assert (subject.n_layers, subject.d_in("blocks.0.hook_resid_post")) == (2, 64)
    text = "etaoin shrdlu."
    assert AutoTokenizer.from_pretrained(size["model"]).decode(subject.tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("name", ["chronosae", "chronosae_bfloat16"])
def test_a_turn_of_ours_reads_whole_batches_and_tells_both_clocks(scripts, size, name):
    turns = scripts.worker.measured(scripts.worker.LIBRARIES[name](size), size["batches"])
    tokens, seconds, cpu = next(turns)
    assert tokens == 2 * 64 and seconds > 0 and cpu > 0


def test_every_library_reads_the_documents_that_our_reader_makes(scripts, size):
    documents = scripts.worker.documents(size["corpus"])
    lines = scripts.run.as_jsonl(Path(size["corpus"])).read_text(encoding="utf-8").splitlines()
    assert len(documents) == 60 and [json.loads(line)["text"] for line in lines] == documents


def test_our_whole_run_is_configured_as_the_others_are(scripts, size):
    cfg = load_config(scripts.run.write_config(size))
    assert cfg.saes == {"topk": {"d_sae": 128, "k": 4}} and cfg.evals.core is None
    assert (cfg.training.tokens, cfg.training.batch_tokens, cfg.training.lr) == (256, 64, 1e-3)


def test_ratios_are_medians_over_rounds_of_theirs_to_ours(scripts):
    rounds = [{"chronosae": {"seconds": 2.0}, "saelens": {"seconds": s}} for s in (4.0, 10.0, 6.0)]
    found = scripts.run.compare(rounds, "seconds")
    assert found["ratio"] == {"saelens": 3.0} and found["spread"] == {"saelens": [2.0, 5.0]}
    assert found["median"] == {"chronosae": 2.0, "saelens": 6.0}


@pytest.mark.parametrize(("slower", "code"), [(3.5, 0), (2.5, 1)])
def test_the_exit_code_says_whether_the_bar_holds(scripts, monkeypatch, capsys, tmp_path, slower, code):
    def run(name, size, threads):
        seconds = 1.0 if name == "chronosae" else slower
        return {"seconds": seconds, "training": seconds, "cpu": seconds}

    monkeypatch.setattr(scripts.run, "run", run)
    monkeypatch.setattr(scripts.run, "write_model", lambda *_: None)
    monkeypatch.setattr(scripts.run, "require_peers", lambda: None)
    monkeypatch.setattr(scripts.run, "SIZE", SMALL)
    monkeypatch.setattr(sys, "argv", ["whole_run.py", "--json", "--tokens", "1000"])
    with pytest.raises(SystemExit) as ended:
        scripts.run.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ended.value.code == code and result["ok"] is (code == 0) and result["ratio"]["saelens"] == slower
    assert result["threads"] == torch.get_num_threads()
