"""Autointerp beside SAEBench 0.6.0's own code: examples, answers, scores; its schema takes our file."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sae_bench", reason="needs SAEBench (tests/parity/requirements.txt)")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "evals"))

from autointerp_tools import ChatServer, options, planted, rule_judge, words, world_bench
from pydantic import TypeAdapter
from sae_bench.evals.autointerp import main as saebench
from sae_bench.evals.autointerp.eval_output import AutoInterpEvalOutput
from sae_bench.sae_bench_utils.indexing_utils import get_k_largest_indices
from test_core_saebench import _violations

from chronosae import world
from chronosae.evals.autointerp.examples import Best, Events, Example, Examples
from chronosae.evals.autointerp.measure import Scored, Verdict, read_numbers
from chronosae.evals.envelope import Provenance, result_envelope, write_envelope

ANSWERS = ["1, 2, 5", "None", "3", "3.", "1,2 and 4", "", "the first", "1, x"]


def peer(name: str, *arguments: Any) -> Any:
    """A method of SAEBench's that uses nothing of its object."""
    return getattr(saebench.AutoInterp, name)(None, *arguments)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_both_read_are_read_alike(answer: str) -> None:
    ours, theirs = read_numbers(answer, 14), peer("parse_predictions", answer)
    if ours is not None:
        assert ours == set(theirs)
    else:
        assert theirs is None or answer == ""  # they take silence for "None"


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_the_same_answers_are_equal(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    active = (torch.rand(14, generator=g) < 0.4).tolist()
    predicted = (torch.rand(14, generator=g) < 0.5).nonzero().squeeze(1).add(1).tolist()

    class TheirExample:
        def __init__(self, is_active: bool) -> None:
            self.is_active = is_active

    theirs = peer("score_predictions", predicted, [TheirExample(a) for a in active])
    judged = tuple(Example("x", (), a, 1.0, random=False) for a in active)
    one = Scored(0, 20, Examples((), judged), Verdict("x", frozenset(predicted), None, False))
    assert one.score == pytest.approx(theirs, abs=1e-12) == one.score_saebench


def test_top_examples_are_theirs_where_a_latent_fires_once_a_context() -> None:
    g = torch.Generator().manual_seed(0)
    n, length, buffer, k = 60, 40, 5, 12
    codes = torch.zeros(n, length)
    position = torch.randint(buffer, length - buffer, (n,), generator=g)
    value = torch.rand(n, generator=g) + 0.1
    codes[torch.arange(n), position] = value
    theirs = get_k_largest_indices(codes, k, buffer=buffer, no_overlap=True)
    best = Best(1, k, 2 * buffer + 1, torch.zeros(n, dtype=torch.long), torch.full((n,), length))
    for start in range(0, n, 16):
        rows = torch.arange(start, min(n, start + 16))
        some = Events(rows, position[rows], torch.zeros_like(rows), value[rows], rows, 1)
        best.offer(some.value, some)
    ours = torch.stack([best.rows[0], best.starts[0] + buffer], 1)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("chosen", ["drawn", "named", "dead"])
def test_our_file_is_valid_for_saebench(tmp_path: Path, chosen: str) -> None:
    bench = world_bench(tmp_path / "acts")
    texts = [world.make_document("test", i).text for i in range(36)]
    more: dict[str, Any] = {
        "drawn": {"n_latents": 3},
        "named": {"override_latents": words(bench.subject, texts, 7)[:3]},
        "dead": {"dead_latent_threshold": 10**6},
    }[chosen]
    sae = planted(bench.subject)
    with ChatServer(rule_judge) as server:
        asked = options(server, **more)
        result = asked.run(bench, {"a": sae})["a"]
    provenance = Provenance("world", "f", "float32", "world", "c", 0, "cpu")
    write_envelope(result_envelope(asked, "a", sae, bench.site, result, provenance), tmp_path / "a.json")
    read = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    schema = json.loads((Path(saebench.__file__).parent / "eval_output_schema_autointerp.json").read_text("utf-8"))
    assert list(_violations(read, schema, schema["$defs"], "")) == []
    TypeAdapter(AutoInterpEvalOutput).validate_python(read)
    assert (read["eval_result_metrics"]["autointerp"]["autointerp_score"] == -1) == (chosen == "dead")
