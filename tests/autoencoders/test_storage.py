"""Folders from strangers: whatever is wrong is said in one line, and nothing in them is ever run."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chronosae.config import UserError
from chronosae.presets import build, load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build("topk", d_in=4, d_sae=8, k=2).save(tmp_path / "sae")
    return tmp_path / "sae"


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_truncated_weights_are_named(folder: Path) -> None:
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "sae_weights.safetensors: not a readable safetensors file (truncated or damaged)" in refused(folder)


class _Bomb:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickle was executed",))


def test_a_pickle_in_disguise_is_never_run(folder: Path) -> None:
    (folder / "sae_weights.safetensors").write_bytes(pickle.dumps(_Bomb()))
    assert "pickle" in refused(folder)


def test_weights_that_do_not_fit_the_configuration_are_named(folder: Path) -> None:
    path = folder / "sae_weights.safetensors"
    weights = load_file(path)
    weights["W_enc"] = torch.zeros(5, 8)
    save_file(weights, path)
    assert "W_enc should have shape (4, 8), found (5, 8)" in refused(folder)


def test_nan_weights_are_named(folder: Path) -> None:
    path = folder / "sae_weights.safetensors"
    weights = load_file(path)
    weights["b_dec"][0] = float("nan")
    save_file(weights, path)
    assert "b_dec holds NaN or Inf" in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cfg: cfg.pop("spec"), "no `spec`"),
        (lambda cfg: cfg.update(format=99), "upgrade chronosae"),
        (lambda cfg: cfg["spec"]["activation"].update(k=0), "spec.activation"),
        (lambda cfg: cfg["spec"]["activation"].update(k=9), "k (9) must be at most d_sae (8)"),
        (lambda cfg: cfg["spec"].update(surprise=1), "unknown key spec.surprise"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(folder: Path, change: object, message: str) -> None:
    path = folder / "cfg.json"
    cfg = json.loads(path.read_text())
    change(cfg)  # type: ignore[operator]
    path.write_text(json.dumps(cfg))
    assert message in refused(folder)


def test_weights_of_a_type_that_cannot_be_weights_are_named(folder: Path) -> None:
    path = folder / "sae_weights.safetensors"
    weights = load_file(path)
    save_file({**weights, "b_dec": weights["b_dec"].to(torch.int64)}, path)
    assert "must share one floating-point type, found float32, int64" in refused(folder)


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load(folder)
    assert torch.equal(torch.rand(1), expected)


def test_a_folder_without_an_autoencoder_says_so(tmp_path: Path) -> None:
    assert "not an autoencoder's folder" in refused(tmp_path)


def test_configuration_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "cfg.json").write_text("{")
    assert "cfg.json: not valid JSON" in refused(folder)
