"""Every setting on every known question: features clamped at the site, the rest of the subject run from there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.evals.multiple_choice import scores
from chronosae.evals.unlearning.knows import Known
from chronosae.evals.workbench import Rows, Workbench
from chronosae.interventions import Clamp, Reading, applied, code_unit


@dataclass(frozen=True)
class Tried:
    """One setting: how features are chosen and how hard they are clamped."""

    retain_threshold: float
    n_features: int
    multiplier: int
    features: tuple[int, ...]
    """At most `n_features`: fewer where no more qualify."""

    @property
    def edit(self) -> Clamp:
        """What is done at the site."""
        return Clamp(self.features, float(self.multiplier))


@dataclass(frozen=True)
class Answers:
    """What each setting left of the known questions."""

    right: Bool[Tensor, "settings known"]
    touched: Int[Tensor, " settings"]
    """Questions in which a clamped feature fired."""


def sweep(
    bench: Workbench, known: Known, saes: Mapping[str, Autoencoder], tried: Mapping[str, Sequence[Tried]]
) -> dict[str, Answers]:
    """All settings of all autoencoders in one pass over the questions.

    The activations at the site and the codes are computed once. A row in which no clamped feature fires is the
    unedited subject's own and isn't run again; settings that clamp the same features alike are run once.
    """
    asked = known.asked
    found = {name: known.scores.repeat(len(tried[name]), 1, 1) for name in saes}
    touched = {name: torch.zeros(len(tried[name]), len(asked.rows), dtype=torch.bool) for name in saes}
    for part, codes in bench.encoded(asked.rows, saes, "questions, features clamped"):
        for name, sae in saes.items():
            batch = part.batch.to(sae.b_dec.device)
            unit = code_unit(sae, codes[name])
            reading = Reading(batch.acts, batch.mask, codes[name], unit, batch.positions, batch.doc_ids)
            for edit, settings in _alike(tried[name]):
                rows, values = _edited_scores(bench, known, part, sae, reading, edit)
                for i in settings:
                    found[name][i, part.index[rows]] = values
                    touched[name][i, part.index[rows]] = True
    per = 4 // asked.width
    return {
        name: Answers(asked.right(found[name]), touched[name].view(len(tried[name]), len(asked), per).any(-1).sum(-1))
        for name in saes
    }


def _alike(tried: Sequence[Tried]) -> list[tuple[Clamp, list[int]]]:
    """Each different clamp with the settings that it serves."""
    served: dict[tuple[frozenset[int], int], list[int]] = {}
    for i, setting in enumerate(tried):
        served.setdefault((frozenset(setting.features), setting.multiplier), []).append(i)
    return [(tried[settings[0]].edit, settings) for settings in served.values()]


def _edited_scores(
    bench: Workbench, known: Known, part: Rows, sae: Autoencoder, reading: Reading, edit: Clamp
) -> tuple[Int[Tensor, " rows"], Tensor]:
    """Rows of the batch that the edit changes, and their scores."""
    change = edit(reading)
    rows = (change.where & reading.mask).any(1).nonzero().squeeze(1).cpu()
    acts = applied(sae, reading, change)
    return rows, scores(bench, known.asked, part, acts, rows)
