"""`final_info.json`: the run in one file, from what the stages left."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chronosae.autoencoders import Spec, TopK
from chronosae.autoencoders.parts.terms import SteeredTerm
from chronosae.evals import CoreResult
from chronosae.pipeline.plan import PlannedSAE
from chronosae.report.statistics import L0_TOLERANCE
from chronosae.training import Trainee


def last_metrics(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of metrics.jsonl for each autoencoder."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["sae"]: row for row in rows}


def sae_entry(
    planned: PlannedSAE, trainee: Trainee, last: Mapping[str, Any] | None, core: CoreResult | None
) -> dict[str, Any]:
    """One autoencoder's part of final_info.json."""
    spec = trainee.sae.cfg
    last = last or {}
    return {
        "preset": planned.preset,
        "seed": planned.seed,
        "site": planned.site,
        "layer": int(planned.site.split(".")[1]),
        "training_steps": trainee.step_number,
        "tokens": trainee.step_number * trainee.cfg.batch_tokens,
        "final_loss": last.get("loss"),
        "d_in": spec.d_in,
        "dict_size": spec.d_sae,
        "learning_rate": planned.lr,
        "sparsity_penalty": _sparsity_penalty(spec, last),
        "normalisation": spec.normalisation.model_dump(),
        "options": planned.options.model_dump(mode="json"),
        "flags": _flags(spec, trainee, core),
        "metrics": {"core": core.metrics.model_dump()} if core else {},
    }


def _sparsity_penalty(spec: Spec, last: Mapping[str, Any]) -> float | None:
    """The L1 weight at the end; None for autoencoders whose sparsity isn't a penalty."""
    return last.get("sparsity_penalty") if any(isinstance(term, SteeredTerm) for term in spec.terms) else None


def _flags(spec: Spec, trainee: Trainee, core: CoreResult | None) -> list[str]:
    flags = list(core.flags) if core else []
    if trainee.stopped:
        flags.append(trainee.stopped)
    l0 = core.metrics.l0 if core else None
    if l0 is not None:
        flags += _l0_flags(spec, l0)
    return flags


def _l0_flags(spec: Spec, l0: float) -> list[str]:
    targets = [term.target_l0 for term in spec.terms if isinstance(term, SteeredTerm) and term.target_l0]
    flags = [
        f"target_l0_missed: L0 {l0:.2f} on held-out text, target {target:g} (more than {L0_TOLERANCE:.0%} off)"
        for target in targets
        if abs(l0 / target - 1) > L0_TOLERANCE
    ]
    # What TFA predicts from the past is dense, so its L0 says nothing of k.
    k = spec.activation.k if isinstance(spec.activation, TopK) and spec.body.kind != "predictive" else None
    if k is not None and l0 < (1 - L0_TOLERANCE) * k:
        flags.append(f"fewer_than_k_fire: L0 {l0:.2f} of k = {k}")
    return flags


def run_flags(epochs: float) -> list[str]:
    """What a reader of the whole run should know, beside the flags of each autoencoder."""
    return [f"text_repeated: the training text was read {epochs:.1f} times"] if epochs > 1 else []
