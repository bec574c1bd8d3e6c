"""Activations that the words of a text decide, and autoencoders that know, or don't know, which direction is which."""

import hashlib
from collections.abc import Iterator, Sequence

import torch

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LabelledTexts
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Rows, Workbench
from chronosae.presets import build

D_SAE = 64
# Word -> axis of the activations and signed strength: north and south are easier to read than red and blue.
WORDS = {
    "red": (0, 1.0),
    "blue": (0, -1.0),
    "north": (1, 2.0),
    "south": (1, -2.0),
    "cat": (2, 2.0),
    "dog": (3, 2.0),
    "fox": (4, 2.0),
    "hen": (5, 2.0),
}
# The texts about nothing are what a text looks like when its animal is taken out: no probe may take them for its own.
ANIMALS = ("cat", "dog", "fox", "hen", "nothing")


class PlantedBench(Workbench):
    """A workbench whose subject writes what it reads on axes of its own."""

    garbage = 0.0
    """What stands at masked positions, beside the rest."""

    def batches(self, rows: TokenRows, what: str) -> Iterator[Rows]:
        """The same rows in batches of 64."""
        for index in torch.arange(len(rows)).split(64):
            part = rows.rows(index)
            acts = torch.stack([self._acts(ids) for ids in part.tokens])
            acts = acts + self.garbage * (~part.mask).unsqueeze(-1)
            yield Rows(index, self._batch(part, acts))

    def _acts(self, ids: torch.Tensor) -> torch.Tensor:
        text = self.subject.tokenizer.decode(ids, skip_special_tokens=True)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
        acts = 0.1 * torch.randn(len(ids), self.subject.info.d_model, generator=torch.Generator().manual_seed(seed))
        for word, (axis, strength) in WORDS.items():
            if word in text.split():
                acts[:, axis] += strength
        return acts


def crossed(part: str, each: int = 60) -> LabelledTexts:
    """Colour and direction, as many of each combination."""
    rows = [
        (f"{part} {i} {a} {b}" + " so" * (i % 3), a, b)
        for i in range(each)
        for a in ("red", "blue")
        for b in ("north", "south")
    ]
    texts, first, second = zip(*rows, strict=True)
    return LabelledTexts("crossed", texts, first, second=second)


def animals(part: str, each: int = 40) -> LabelledTexts:
    """One class an animal."""
    rows = [(f"{part} {i} {word}" + " so" * (i % 3), word) for i in range(each) for word in ANIMALS]
    texts, labels = zip(*rows, strict=True)
    return LabelledTexts("animals", texts, labels)


def sae_of(d_in: int, axes: Sequence[tuple[int, float]], threshold: float = 0.5) -> Autoencoder:
    """One feature a signed axis, which fires above the threshold; all others are dead."""
    sae = build("relu_l1", d_in=d_in, d_sae=D_SAE)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.fill_(-100.0)
        for feature, (axis, sign) in enumerate(axes):
            sae.W_enc[axis, feature] = sign
            sae.W_dec[feature] = 0.0
            sae.W_dec[feature, axis] = sign
            sae.b_enc[feature] = -threshold if threshold else 0.0
    return sae


def oracle(d_in: int) -> Autoencoder:
    """One feature a word."""
    return sae_of(d_in, [(axis, 1.0 if strength > 0 else -1.0) for axis, strength in WORDS.values()], threshold=0.0)


def random_sae(d_in: int, preset: str = "relu_l1", seed: int = 0, **options: object) -> Autoencoder:
    """An untrained dictionary with biases."""
    sae = build(preset, d_in=d_in, **{"d_sae": D_SAE, "seed": seed, **options})
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        sae.b_dec.copy_(0.3 * torch.randn(d_in, generator=generator))
    return sae
