"""How often each feature fires on the forget text and on the retain text, and which features that chooses."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.config import SourceConfig, UserError
from chronosae.corpora import open_source
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

# Shorter texts are left out, as in SAEBench.
MIN_CHARACTERS = 50
CHUNK = 64


def text_rows(bench: Workbench, source: SourceConfig, key: str, tokens: int, context: int) -> TokenRows:
    """The first texts of a source, one a row, until they have `tokens` tokens that an autoencoder sees.

    Raises:
        UserError: the source can't be read or holds no such text.
    """
    texts: list[str] = []
    found = 0
    long = (text for text in open_source(source, f"{key}.path").documents() if len(text) > MIN_CHARACTERS)
    for chunk in _chunks(long):
        texts += chunk
        found += int(bench.read(chunk, context).mask.sum())
        if found >= tokens:
            break
    if not found:
        raise UserError(f"{key}.path: {source.path!r} holds no text of more than {MIN_CHARACTERS} characters")
    return bench.read(texts, context)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        yield chunk


def firing_frequencies(
    bench: Workbench, rows: TokenRows, saes: Mapping[str, Autoencoder], what: str
) -> dict[str, np.ndarray]:
    """Share of the unmasked tokens on which each feature fires (code > 0): float64 `[d_sae]` by autoencoder.

    Of codes that a context foretells (TFA) the novel part counts.
    """
    counts = {name: torch.zeros(sae.d_sae, dtype=torch.long) for name, sae in saes.items()}
    for _, codes in bench.encoded(rows, saes, what):
        for name, code in codes.items():
            counts[name] += _positive(code.chosen()).cpu()
    total = int(rows.mask.sum())
    return {name: (count.double() / total).numpy() for name, count in counts.items()}


def _positive(codes: Codes) -> Int[Tensor, " d_sae"]:
    if isinstance(codes, SparseCodes):
        return torch.bincount(codes.indices[codes.values > 0], minlength=codes.d_sae)
    return (codes.values > 0).flatten(0, -2).sum(0)


def ranked_features(forget: np.ndarray, retain: np.ndarray, threshold: float, protocol: str) -> list[int]:
    """Features that fire on the forget text and on less than `threshold` of the retain text, most frequent first.

    Arguments:
        protocol: `chronosae`, or `saebench`: frequencies in float32 pass through a text file of six decimals, and
            equals stand as numpy's default sort leaves them, reversed.
    """
    if protocol == "saebench":
        forget, retain = _six_decimals(forget), _six_decimals(retain)
    score = np.where(retain >= threshold, 0.0, forget)
    order = np.argsort(score)[::-1] if protocol == "saebench" else np.argsort(-score, kind="stable")
    return order[: np.count_nonzero(score)].tolist()


def _six_decimals(frequencies: np.ndarray) -> np.ndarray:
    return np.array([float(f"{value:f}") for value in frequencies.astype(np.float32)])
