"""Words with known letter directions, and autoencoders of which it is known where they absorb."""

from collections.abc import Callable
from functools import cache

import torch

from chronosae.autoencoders import Autoencoder
from chronosae.evals.absorption import AbsorptionOptions
from chronosae.evals.absorption.data import AtWords, Read, codes_at
from chronosae.evals.absorption.measure import LetterScores, find_splits, know, score_letters
from chronosae.presets import build

LETTERS, A_LETTER, WIDTH = 6, 20, 24
SIZE, SPECIAL = 5.0, 3.0
"""Length of the letter's direction, and of the special word's own."""
OPTIONS = AbsorptionOptions(min_letters=3, probe_steps=100, max_k=4)


def directions() -> torch.Tensor:
    """Orthonormal: one a letter, one a letter's special word, the rest for noise."""
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(7))).Q


def words(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Letters, activations, and which words are special: the first of each letter."""
    basis, g = directions(), torch.Generator().manual_seed(seed)
    letters = torch.arange(LETTERS).repeat_interleave(A_LETTER)
    special = torch.arange(len(letters)) % A_LETTER == 0
    acts = SIZE * basis[letters]
    acts[special] += SPECIAL * basis[LETTERS + letters[special]]
    noise = 0.3 * torch.randn(len(letters), WIDTH - 2 * LETTERS, generator=g)
    return letters, acts + noise @ basis[2 * LETTERS :], special


def letter_features() -> Autoencoder:
    """One feature a letter, and one for each other direction."""
    sae, basis = build("relu_l1", d_in=WIDTH, d_sae=WIDTH), directions()
    with torch.no_grad():
        sae.W_dec.copy_(basis)
        sae.W_enc.copy_(basis.T)
        sae.b_enc.fill_(-0.1)
        sae.b_dec.zero_()
    return sae


def absorbing_features() -> Autoencoder:
    """The same, but a special word's feature writes the whole word, and the letter's feature is silent there."""
    sae, basis = letter_features(), directions()
    letter, special = basis[:LETTERS], basis[LETTERS : 2 * LETTERS]
    whole = SIZE * letter + SPECIAL * special
    with torch.no_grad():
        sae.W_enc[:, :LETTERS] = (letter - 2 * SIZE / SPECIAL * special).T
        sae.W_enc[:, LETTERS : 2 * LETTERS] = (special * whole.norm(dim=1, keepdim=True) / SPECIAL).T
        sae.W_dec[LETTERS : 2 * LETTERS] = whole / whole.norm(dim=1, keepdim=True)
    return sae


def read(saes: dict[str, Autoencoder]) -> Read:
    """Train and test words as if read from a subject."""
    parts = []
    for seed in (0, 1):
        letters, acts, _ = words(seed)
        sequences = acts.unsqueeze(1)
        here = torch.zeros(len(letters), dtype=torch.long)
        codes = {name: codes_at(sae, sae.encode(sequences), here) for name, sae in saes.items()}
        parts.append(AtWords(letters, torch.arange(len(letters)) + 1000 * seed, acts, codes))
    return Read(parts[0], parts[1], parts[1])


@cache
def scored(make: Callable[[], Autoencoder], options: AbsorptionOptions = OPTIONS) -> LetterScores:
    """The scores of one planted autoencoder."""
    sae = make()
    found = read({"sae": sae})
    known = know(found, LETTERS, options, torch.Generator().manual_seed(0))
    splits = find_splits(found, "sae", LETTERS, options, torch.Generator().manual_seed(1))
    assert splits is not None and len(known.kept) == LETTERS
    return score_letters(known, splits, found, "sae", sae, options)
