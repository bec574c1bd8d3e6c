"""A run from configuration to results: what it writes, how it resumes, what it never does."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import chronosae
from chronosae.cli import main
from chronosae.config import UserError, config_sha256, load_config
from chronosae.pipeline import Reporter, run
from chronosae.pipeline.results import l0_flags
from chronosae.subject import Subject
from chronosae.training import LogEvent, Trainer

WriteConfig = Callable[..., Path]


def numbers(data: Any) -> list[float]:
    if isinstance(data, dict):
        return [n for value in data.values() for n in numbers(value)]
    if isinstance(data, list):
        return [n for value in data for n in numbers(value)]
    return [data] if isinstance(data, float) else []


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "saes" / name / "sae_weights.safetensors")


def test_a_run_leaves_everything_a_reader_needs(write_config: WriteConfig, tmp_path: Path) -> None:
    cfg, out = (
        load_config(write_config(training={"tokens": 2560, "batch_tokens": 128, "seeds": [3, 4]})),
        tmp_path / "out",
    )
    info = run(cfg, out)
    assert info == json.loads((out / "final_info.json").read_text())
    assert list(info["saes"]) == ["topk", "topk@2", "relu_l1", "relu_l1@2"]
    for name, sae in info["saes"].items():
        assert sae["training_steps"] == 20 and sae["tokens"] == 2560 and sae["layer"] == 1 and sae["dict_size"] == 64
        assert sae["seed"] == (4 if name.endswith("@2") else 3)
        assert sae["final_loss"] > 0 and sae["learning_rate"] == 1e-3
        assert (sae["sparsity_penalty"] is None) == (sae["preset"] == "topk")
        core = sae["metrics"]["core"]
        assert {"explained_variance", "l0", "ce_loss_score", "frac_alive"} <= core.keys()
        assert all(math.isfinite(n) for n in numbers(sae))
        envelope = json.loads((out / "evals" / "core" / f"{name}_eval_results.json").read_text())
        assert envelope["eval_type_id"] == "core"
        assert envelope["eval_result_metrics"]["sparsity"]["l0"] == core["l0"]
        loaded = chronosae.load(out / "saes" / name)
        assert loaded.cfg.normalisation.factor != 1.0
    assert info["config_sha256"] == config_sha256(load_config(out / "config.yaml"))
    assert {"torch", "transformers", "chronosae"} <= info["versions"].keys()
    assert json.loads((out / "run.json").read_text())["status"] == "complete"
    assert "topk" in (out / "notes.md").read_text()
    assert not list(out.rglob("*.tmp"))


def test_topk_has_at_most_k_features_and_seeds_differ(write_config: WriteConfig, tmp_path: Path) -> None:
    run(load_config(write_config(training={"tokens": 1280, "batch_tokens": 128, "seeds": [0, 1]})), tmp_path / "out")
    info = json.loads((tmp_path / "out" / "final_info.json").read_text())
    assert info["saes"]["topk"]["metrics"]["core"]["l0"] <= 4
    first, second = weights(tmp_path / "out", "topk"), weights(tmp_path / "out", "topk@2")
    assert not torch.equal(first["W_dec"], second["W_dec"])


def test_the_same_configuration_gives_the_same_weights_and_numbers(write_config: WriteConfig, tmp_path: Path) -> None:
    cfg = load_config(write_config())
    first, second = run(cfg, tmp_path / "a"), run(cfg, tmp_path / "b")
    for name in first["saes"]:
        a, b = weights(tmp_path / "a", name), weights(tmp_path / "b", name)
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert first["saes"][name]["metrics"] == second["saes"][name]["metrics"]


class StopAt(Reporter):
    """Sends this process the signal that Ctrl-C sends, at a step of training."""

    def __init__(self, step: int) -> None:
        self.step = step

    def trained(self, event: LogEvent) -> None:
        if event.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("store", "ahead"), [("stream", "auto"), ("stream", "always"), ("cache", "auto")])
def test_an_interrupted_run_says_how_to_go_on_and_then_continues_bit_equally(
    write_config: WriteConfig, tmp_path: Path, store: str, ahead: str
) -> None:
    acts = {"context": 32, "shuffle_buffer": 8, "harvest_sequences": 4, "normalise_tokens": 256}
    acts |= {"store": store, "ahead": ahead}
    cfg = load_config(write_config(activations=acts))
    whole = run(cfg, tmp_path / "whole")
    part = tmp_path / "part"
    with pytest.raises(
        chronosae.pipeline.Interrupted,
        match=r"step 10 of 20.*continue with: chronosae run .*config\.yaml --out-dir .* --resume",
    ):
        run(cfg, part, reporter=StopAt(10))
    assert json.loads((part / "run.json").read_text())["status"] == "interrupted"
    assert not (part / "final_info.json").exists()
    resumed = run(cfg, part, resume=True)
    for name in whole["saes"]:
        a, b = weights(tmp_path / "whole", name), weights(part, name)
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert whole["saes"][name]["metrics"] == resumed["saes"][name]["metrics"]
    strip = lambda path: [  # noqa: E731 - speeds differ, numbers don't
        {k: v for k, v in json.loads(line).items() if k != "tokens_per_s"} for line in path.read_text().splitlines()
    ]
    assert strip(part / "metrics.jsonl") == strip(tmp_path / "whole" / "metrics.jsonl")


def test_resuming_a_complete_run_changes_nothing(write_config: WriteConfig, tmp_path: Path) -> None:
    cfg, out = load_config(write_config()), tmp_path / "out"
    info = run(cfg, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run(cfg, out, resume=True) == info
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_overwriting_removes_the_old_run_and_nothing_else(write_config: WriteConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(load_config(write_config()), out)
    (out / "my_analysis.txt").write_text("mine")
    run(load_config(write_config(saes={"only": {"preset": "topk", "d_sae": 64, "k": 4}})), out, overwrite=True)
    assert [path.name for path in (out / "saes").iterdir()] == ["only"]
    assert (out / "my_analysis.txt").read_text() == "mine"


def test_overwriting_with_a_mistake_keeps_the_old_run(
    write_config: WriteConfig, tmp_path: Path, text_file: Path
) -> None:
    out = tmp_path / "out"
    run(load_config(write_config()), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    wrong = load_config(write_config(corpus={"path": str(text_file), "eval_path": str(tmp_path / "typo.txt")}))
    with pytest.raises(UserError, match=r"typo\.txt"):
        run(wrong, out, overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_text_that_turns_bad_in_mid_training_costs_only_the_steps_since_the_checkpoint(
    write_config: WriteConfig, tmp_path: Path, text_file: Path
) -> None:
    # Long enough that the bad row lies beyond what is tokenised ahead of the first step.
    rows = [json.dumps({"text": f"The {i}th traveller paid the ferryman {i % 7} coins. " * 20}) for i in range(130)]
    text = tmp_path / "rows.jsonl"
    text.write_text("\n".join([*rows[:100], "{oops", *rows[100:]]))
    training = {"tokens": 30720, "batch_tokens": 128, "log_every": 5, "checkpoint_every": 5}
    cfg = load_config(write_config(corpus={"path": str(text), "eval_path": str(text_file)}, training=training))
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        run(cfg, out)
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert (out / "checkpoints" / "latest.pt").is_file()
    text.write_text("\n".join([*rows[:100], rows[0], *rows[100:]]))
    resumed, whole = run(cfg, out, resume=True), run(cfg, tmp_path / "whole")
    assert resumed["saes"]["topk"]["metrics"] == whole["saes"]["topk"]["metrics"]


def test_a_run_is_not_resumed_on_another_subject(write_config: WriteConfig, tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    site = "blocks.1.hook_resid_post"
    cfg, out = load_config(write_config(subject={"model": str(folder), "sites": [site]})), tmp_path / "out"
    with pytest.raises(chronosae.pipeline.Interrupted):
        run(cfg, out, reporter=StopAt(10))
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="started with other weights"):
        run(cfg, out, resume=True)


def test_a_site_whose_activations_are_not_finite_stops_only_its_own_autoencoders(
    write_config: WriteConfig, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = ["blocks.0.hook_resid_post", "blocks.2.hook_mlp_out"]
    saes = {
        "well": {"preset": "topk", "site": sites[0], "d_sae": 64, "k": 4},
        "ill": {"preset": "topk", "site": sites[1], "d_sae": 64, "k": 4},
    }
    original, calls = Subject.activations, 0

    def activations(self: Subject, tokens: Any, wanted: Any, *rest: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        acts = original(self, tokens, wanted, *rest, **more)
        if calls > 12 and sites[1] in acts:
            acts[sites[1]][:] = float("nan")
        return acts

    monkeypatch.setattr(Subject, "activations", activations)
    cfg = load_config(write_config(subject={"model": str(tiny_model), "sites": sites}, saes=saes))
    info = run(cfg, tmp_path / "out")
    assert info["saes"]["well"]["metrics"]["core"]["l0"] > 0 and info["saes"]["well"]["training_steps"] == 20
    assert info["saes"]["ill"]["metrics"] == {}
    assert any("hold NaN" in flag for flag in info["saes"]["ill"]["flags"])


def test_a_run_that_lands_off_its_target_l0_says_so(write_config: WriteConfig, tmp_path: Path) -> None:
    far = run(load_config(write_config()), tmp_path / "far")["saes"]["relu_l1"]
    l0 = far["metrics"]["core"]["l0"]
    assert abs(l0 / 4 - 1) > 0.05, "twenty steps are too few to get there"
    assert any(flag.startswith(f"target_l0_missed: L0 {l0:.2f} on held-out text, target 4") for flag in far["flags"])


@pytest.mark.parametrize(("l0", "flagged"), [(3.79, True), (3.81, False), (4.0, False), (4.19, False), (4.21, True)])
def test_five_percent_off_the_target_l0_is_the_limit(l0: float, flagged: bool) -> None:
    spec = chronosae.build("relu_l1", d_in=8, d_sae=64, target_l0=4).cfg
    assert bool(l0_flags(spec, l0)) is flagged


@pytest.mark.parametrize(("l0", "flagged"), [(4.0, False), (3.81, False), (3.79, True)])
def test_empty_slots_of_topk_are_flagged(l0: float, flagged: bool) -> None:
    spec = chronosae.build("topk", d_in=8, d_sae=64, k=4).cfg
    assert [flag.partition(":")[0] for flag in l0_flags(spec, l0)] == (["fewer_than_k_fire"] if flagged else [])


def test_a_site_that_cannot_be_evaluated_is_flagged_and_its_autoencoders_are_kept(
    write_config: WriteConfig, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = ["blocks.0.hook_resid_post", "blocks.2.hook_mlp_out"]
    saes = {
        "well": {"preset": "topk", "site": sites[0], "d_sae": 64, "k": 4},
        "ill": {"preset": "topk", "site": sites[1], "d_sae": 64, "k": 4},
    }
    original = Subject.activations

    def activations(self: Subject, tokens: Any, wanted: Any, *rest: Any, **more: Any) -> Any:
        acts = original(self, tokens, wanted, *rest, **more)
        if list(wanted) == [sites[1]]:  # training reads both sites at once, an evaluation only its own
            acts[sites[1]][:] = float("nan")
        return acts

    monkeypatch.setattr(Subject, "activations", activations)
    out = tmp_path / "out"
    cfg = load_config(write_config(subject={"model": str(tiny_model), "sites": sites}, saes=saes))
    info = run(cfg, out)
    assert info["saes"]["well"]["metrics"]["core"]["l0"] > 0
    assert info["saes"]["ill"]["metrics"] == {} and info["saes"]["ill"]["training_steps"] == 20
    assert any(flag.startswith(f"not_evaluated: {sites[1]}") for flag in info["flags"])
    assert chronosae.load(out / "saes" / "ill").d_sae == 64


def test_an_autoencoder_that_diverges_is_flagged_and_the_others_finish(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.train

    def poison_then_train(self: Trainer) -> None:
        with torch.no_grad():
            next(t for t in self.trainees if t.name == "relu_l1").sae.W_dec[0, 0] = float("inf")
        original(self)

    monkeypatch.setattr(Trainer, "train", poison_then_train)
    out = tmp_path / "out"
    info = run(load_config(write_config()), out)
    assert info["saes"]["relu_l1"]["metrics"] == {}
    assert any("stopped at step 0" in flag for flag in info["saes"]["relu_l1"]["flags"])
    assert info["saes"]["relu_l1"]["training_steps"] == 0
    assert info["saes"]["topk"]["metrics"]["core"]["l0"] > 0
    assert not (out / "saes" / "relu_l1").exists()
    assert "NaN" not in (out / "final_info.json").read_text()


def test_several_sites_are_harvested_in_one_pass(write_config: WriteConfig, tmp_path: Path, tiny_model: Path) -> None:
    sites = ["blocks.0.hook_resid_post", "blocks.2.hook_mlp_out"]
    saes = {
        "low": {"preset": "topk", "site": sites[0], "d_sae": 64, "k": 4},
        "high": {"preset": "topk", "site": sites[1], "d_sae": 64, "k": 4},
    }
    info = run(
        load_config(write_config(subject={"model": str(tiny_model), "sites": sites}, saes=saes)), tmp_path / "out"
    )
    assert [sae["layer"] for sae in info["saes"].values()] == [0, 2]
    assert info["saes"]["low"]["normalisation"] != info["saes"]["high"]["normalisation"]


def test_a_resumed_run_must_have_the_same_configuration(write_config: WriteConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(load_config(write_config()), out)
    other = load_config(write_config(), ["saes.topk.k=3"])
    with pytest.raises(UserError, match="started with another configuration"):
        run(other, out, resume=True)


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(write_config()), "--out-dir", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "2,560 tokens in 20 steps" in printed and "memory: about" in printed and "disk: about" in printed
    assert not (tmp_path / "out").exists()
    (tmp_path / "again.yaml").write_text(printed)
    assert load_config(tmp_path / "again.yaml") == load_config(write_config()), "what is printed is a configuration"


@pytest.mark.parametrize("name", ["demo", "quickstart", "gpt2-small", "pythia-160m", "gemma-2-2b"])
def test_every_recipe_can_be_checked_without_network(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    assert main(["run", str(config), "--dry-run"]) == 0
    assert "# plan" in capsys.readouterr().out


def test_the_gemma_recipe_is_the_original_work() -> None:
    cfg = load_config(Path(__file__).parents[2] / "configs" / "gemma-2-2b.yaml")
    assert (cfg.steps, cfg.training.batch_tokens, cfg.activations.context) == (2441, 2048, 128)
    assert cfg.subject.sites == ["blocks.12.hook_resid_post", "blocks.19.hook_resid_post"]
    assert cfg.saes["topk"]["k"] == 40 and cfg.saes["topk"]["d_sae"] == 16384


def test_the_front_door_takes_out_dir_and_asks_before_it_mixes_runs(write_config: WriteConfig, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    small = [
        "training.tokens=1024",
        "training.batch_tokens=512",
        "evals.core.tokens=512",
        "evals.core.behaviour_tokens=256",
    ]
    small += ["saes.topk.d_sae=64", "saes.relu_l1.d_sae=64", "activations.normalise_tokens=256"]
    small += ["activations.shuffle_buffer=16", "activations.harvest_sequences=4"]
    command = [sys.executable, str(root / "experiment.py"), "--out_dir=run_0", *[f"--set={s}" for s in small]]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "topk" in first.stdout and (tmp_path / "run_0" / "final_info.json").is_file()
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr == "error: --out-dir run_0: holds a run already; add --resume to continue it or --overwrite\n"


def test_help_answers_without_loading_torch() -> None:
    code = (
        "import sys; from chronosae.cli import main; code = main(['--help']);"
        "sys.exit(code or 'torch' in sys.modules or 'transformers' in sys.modules)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "compare" in done.stdout
    assert time.perf_counter() - started < 20, "only a hang is caught here; the absence of torch is what keeps it fast"
