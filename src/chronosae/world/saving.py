"""Where a trained model goes: a folder that was new or empty when training began, so nothing of the user's is lost."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronosae.world.model import HASH_FILE, write_hashes

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PARTIAL = ".partial"
"""Folder inside the model's folder in which a checkpoint is written; it also marks the folder as taken."""


@contextmanager
def new_folder(out_dir: Path) -> Iterator[Path]:
    """The resolved ``out_dir``, created if need be and held while the model is trained.

    Raises:
        UserError: it exists and isn't an empty folder, or it can't be written.
    """
    from chronosae.config.errors import UserError

    folder = out_dir.resolve()
    taken = UserError(f"world train: --out-dir {out_dir} isn't an empty folder; name a new one")
    try:
        made = not folder.exists()
        if not made and (not folder.is_dir() or any(folder.iterdir())):
            raise taken
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PARTIAL).mkdir()  # fails when another process got there first
    except FileExistsError:
        raise taken from None
    except OSError as error:
        raise UserError(f"world train: --out-dir {out_dir} can't be written ({error.strerror})") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        if made:
            with suppress(OSError):  # a model lies in it
                folder.rmdir()


def save_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, record: dict[str, Any], folder: Path
) -> None:
    """Write the model in bf16 with its tokenizer, record and hashes into a ``folder`` held by :func:`new_folder`.

    The hashes go first and come last, so a folder that holds them is whole.
    """
    import torch

    partial = folder / PARTIAL
    half = copy.deepcopy(model).to(device="cpu", dtype=torch.bfloat16)  # pyright: ignore[reportCallIssue]
    half.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    # Under the class name that transformers 4 and 5 both know.
    config = partial / "tokenizer_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n"
    )
    (partial / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    write_hashes(partial)
    (folder / HASH_FILE).unlink(missing_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == HASH_FILE):
        path.replace(folder / path.name)
