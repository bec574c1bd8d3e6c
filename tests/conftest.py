"""Shape checks are on in every test: a wrong `jaxtyping` shape is an error, not a surprise later."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

from jaxtyping import install_import_hook

# The world writes its texts by millions of small calls without a tensor, which checks would slow down a hundredfold.
_SOURCE = Path(__file__).resolve().parents[1] / "src" / "chronosae"
_CHECKED = [path.stem for path in _SOURCE.iterdir() if path.suffix in ("", ".py") and path.stem != "world"]
install_import_hook([f"chronosae.{name}" for name in _CHECKED], "beartype.beartype")

import pytest
import torch
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("default")
# Two pytest workers share two cores; more threads each would only make them wait for one another.
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real text and models beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of shared data and models is not beside this checkout")
    return SHARED
