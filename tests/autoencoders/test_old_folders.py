"""Folders written before the package was rearranged (December 2026, one of every preset) load, and compute the same."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import chronosae
from chronosae.autoencoders import read_metadata
from chronosae.presets import load_trackers

FOLDERS = Path(__file__).parent / "saes_before"
NAMES = sorted(path.parent.name for path in FOLDERS.glob("*/cfg.json"))


def test_there_is_one_of_every_preset() -> None:
    assert len(NAMES) == 17


@pytest.mark.parametrize("name", NAMES)
def test_an_old_folder_loads_and_computes_what_it_did(name: str) -> None:
    given = load_file(FOLDERS / "expected.safetensors")
    acts, mask, doc_ids = given["acts"], given["mask"], given["doc_ids"]
    sae = chronosae.load(FOLDERS / name)
    with torch.no_grad():
        codes, recon = sae.encode(acts, mask, doc_ids=doc_ids).dense(), sae(acts, mask, doc_ids=doc_ids)
    # Equal on one machine; another one may sum in another order.
    torch.testing.assert_close(codes, given[f"{name}/codes"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(recon, given[f"{name}/recon"], rtol=1e-5, atol=1e-5)
    assert read_metadata(FOLDERS / name)["site"] == "x"
    assert set(load_trackers(FOLDERS / name)) == {tracker.kind for tracker in sae.cfg.trackers}


@pytest.mark.parametrize("name", NAMES)
def test_an_old_folder_is_written_again_as_it_was(name: str, tmp_path: Path) -> None:
    old = FOLDERS / name
    chronosae.load(old).save(tmp_path, read_metadata(old))
    for file in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / file).read_bytes() == (old / file).read_bytes()
