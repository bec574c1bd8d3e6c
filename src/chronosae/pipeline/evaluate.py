"""The evaluation stage: every trained autoencoder at its site, results in SAEBench's envelope."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from chronosae.activations import SequenceBatch, heldout_batches
from chronosae.autoencoders import Autoencoder
from chronosae.config import CoreEvalConfig, RunConfig, UserError, config_sha256
from chronosae.evals import CoreResult, Provenance, evaluate_core, write_core
from chronosae.pipeline.plan import Plan, PlannedSAE
from chronosae.pipeline.reporter import Reporter
from chronosae.subject import Subject


def evaluate(
    cfg: RunConfig, plan: Plan, subject: Subject, saes: Mapping[str, Autoencoder], out_dir: Path, reporter: Reporter
) -> tuple[dict[str, CoreResult], list[str]]:
    """Core results by name, and flags for sites that couldn't be evaluated; writes one JSON an autoencoder."""
    if cfg.evals.core is None:
        return {}, []
    return evaluate_core_of(cfg, {sae.name: sae for sae in plan.saes}, subject, saes, out_dir, reporter)


def evaluate_core_of(
    cfg: RunConfig,
    planned: Mapping[str, PlannedSAE],
    subject: Subject,
    saes: Mapping[str, Autoencoder],
    out_dir: Path,
    reporter: Reporter,
) -> tuple[dict[str, CoreResult], list[str]]:
    """The same for autoencoders that were trained earlier; with core's defaults where the run had it off."""
    core = cfg.evals.core or CoreEvalConfig()
    results: dict[str, CoreResult] = {}
    flags = []
    for site in dict.fromkeys(planned[name].site for name in saes):
        at_site = {name: sae for name, sae in saes.items() if planned[name].site == site}

        def batches(n_tokens: int, site: str = site) -> Iterator[SequenceBatch]:
            n_sequences = -(-n_tokens // cfg.activations.context)
            for batch in heldout_batches(cfg, subject, n_sequences, core.batch_sequences, sites=[site]):
                yield batch[site]

        try:
            with reporter.phase(f"evaluating at {site}"):
                results |= evaluate_core(at_site, subject, site, batches, core, seed=cfg.seed)
        except UserError as error:
            # The autoencoders are trained and saved, and other sites may be fine.
            flags.append(f"not_evaluated: {site}: {error}")
    for name, result in results.items():
        path = out_dir / "evals" / "core" / f"{name}_eval_results.json"
        tokens = cfg.steps * cfg.training.batch_tokens
        write_core(path, name, saes[name], result, core, provenance_of(cfg, tokens, subject, planned[name]))
    return results, flags


def text_name(cfg: RunConfig) -> str:
    """The training text, for people."""
    return " + ".join(source.name or source.path for source in cfg.corpus.resolved_sources())


def provenance_of(cfg: RunConfig, tokens: int, subject: Subject, planned: PlannedSAE) -> Provenance:
    """Where a result of `planned` comes from; `tokens` are those it was trained on."""
    return Provenance(
        subject=cfg.subject.model,
        subject_fingerprint=subject.fingerprint,
        subject_dtype=cfg.subject.dtype,
        dataset=text_name(cfg),
        config_sha256=config_sha256(cfg),
        seed=planned.seed,
        device=str(subject.device),
        training_tokens=tokens,
        exclude_special=cfg.activations.exclude_special,
        prepend_bos=cfg.activations.prepend_bos,
    )
