"""Parts written outside the package, from `--plugin FILE` to a finished run and back.

Each command runs in a process of its own, as a user's does: what one has registered, the next doesn't know.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ACTIVATION, TERM = str(HERE / "my_activation.py"), str(HERE / "my_term.py")
BOTH = ("--plugin", ACTIVATION, "--plugin", TERM)
RUN = """
subject: {model: world, sites: [blocks.1.hook_resid_post], device: cpu}
corpus: {path: world}
activations: {context: 32, shuffle_buffer: 8, harvest_sequences: 4, normalise_tokens: 256}
training: {tokens: 256, batch_tokens: 128}
saes:
  mine: {preset: topk, d_sae: 64, activation: {kind: margin, k: 4}, extra_terms: [{kind: slowness, weight: 0.5}]}
evals: {core: {tokens: 128, behaviour_tokens: 64, batch_sequences: 4}}
"""


def chronosae(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys, torch; torch.set_num_threads(1); from chronosae.cli import main; sys.exit(main(sys.argv[1:]))"
    command, wide = [sys.executable, "-c", code, *arguments], os.environ | {"COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=wide)


def refusal(*arguments: str) -> str:
    """The one line that a refused command says."""
    done = chronosae(*arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugins") / "mine.yaml"
    path.write_text(RUN)
    return path


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    folder = config.parent / "out"
    done = chronosae("run", str(config), "--out-dir", str(folder), *BOTH)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_trains_and_keeps_parts_of_ones_own(finished: Path) -> None:
    spec = json.loads((finished / "saes" / "mine" / "cfg.json").read_text())["spec"]
    assert spec["activation"] == {"kind": "margin", "k": 4}
    assert [(term["kind"], term["weight"]) for term in spec["terms"]] == [("slowness", 0.5)]
    core = json.loads((finished / "final_info.json").read_text())["saes"]["mine"]["metrics"]["core"]
    assert 0 < core["l0"] <= 4


def test_the_run_is_evaluated_again_with_the_plugins_and_without_them_told_what_is_missing(finished: Path) -> None:
    evaluate = ("eval", str(finished), "--evals", "core")
    kept = (finished / "final_info.json").read_bytes()
    for known, unknown in ((TERM, "activation kind 'margin'"), (ACTIVATION, "term kind 'slowness'")):
        said = refusal(*evaluate, "--plugin", known)
        assert unknown in said and "--plugin FILE" in said
    without = refusal(*evaluate)
    assert "unknown term kind 'slowness'" in without and "--plugin FILE" in without and "1 more" in without
    assert (finished / "final_info.json").read_bytes() == kept
    done = chronosae(*evaluate, *BOTH)
    assert done.returncode == 0, done.stderr


def test_a_run_without_the_plugin_is_refused_and_leaves_nothing(config: Path) -> None:
    folder = config.parent / "never"
    said = refusal("run", str(config), "--out-dir", str(folder))
    assert "unknown term kind 'slowness'" in said and "--plugin FILE" in said
    assert not folder.exists()


def test_the_parts_are_listed(config: Path) -> None:
    found = json.loads(chronosae("list", "--json", *BOTH).stdout)
    assert "margin" in [row["name"] for row in found["activation"]]
    assert found["term"][-1]["name"] == "slowness" and found["term"][-1]["summary"].startswith("Mean squared")
    assert chronosae("list", "slowness", "--plugin", TERM).stdout.startswith("slowness (term): Mean squared change")
    assert "'margin'" in refusal("list", "margin")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "mine.py: no such file"),
        ("1 / 0", "mine.py: ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_plugin_that_is_not_there_or_breaks_is_one_line(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    said = refusal("list", "--plugin", str(path))
    assert "--plugin" in said and says in said
