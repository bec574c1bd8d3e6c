"""What SCR and TPP put into their results alike: configuration under SAEBench's names, flags, preflight."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.evals.preflight import Missing
from chronosae.evals.scr_tpp.measure import Measured
from chronosae.evals.scr_tpp.options import AblationOptions
from chronosae.evals.scr_tpp.scores import known
from chronosae.evals.scr_tpp.summary import Summary
from chronosae.evals.workbench import PASS_TOKENS, Workbench

DISPUTED = "disputed: SCR and TPP rank autoencoders unreliably (arXiv 2605.18229); don't compare autoencoders by them"


def missing_data(
    names: Sequence[str], key: str, lacking: Callable[[LabelledTexts], str | None] = lambda data: None
) -> list[Missing]:
    """Data sets that can't be opened, or lack what is needed of them."""
    found = [LABELLED.missing(name, key, lacking) for name in names]
    return [missing for missing in found if missing is not None]


def saebench_config(
    options: AblationOptions, names: Sequence[str], bench: Workbench, *, perform_scr: bool
) -> dict[str, Any]:
    """SAEBench's `eval_config`, its fields as this evaluation ran."""
    return {
        "random_seed": bench.seed,
        "dataset_names": list(names),
        "perform_scr": perform_scr,
        "early_stopping_patience": options.probe_epochs,
        "train_set_size": options.train_size,
        "test_set_size": options.test_size,
        "context_length": options.context,
        "probe_train_batch_size": options.probe_batch,
        "probe_test_batch_size": 500,
        "probe_epochs": options.probe_epochs,
        "probe_lr": options.probe_lr,
        "probe_l1_penalty": options.probe_l1,
        "sae_batch_size": max(1, PASS_TOKENS // options.context),
        "llm_batch_size": max(1, PASS_TOKENS // options.context),
        "llm_dtype": str(bench.subject.dtype).removeprefix("torch."),
        "lower_vram_usage": False,
        "model_name": bench.subject.name,
        "n_values": list(options.ns),
        "column1_vals_lookup": {},
    }


def flags(options: AblationOptions, sets: Sequence[Measured], name: str, sae: Autoencoder, found: Summary) -> list[str]:
    """Everything a reader must know beside the numbers of one autoencoder."""
    return [DISPUTED, *_too_many(options, sae), *_about_sets(sets, name), *_undefined(sets, name, found)]


def has_features(measured: Measured, name: str) -> bool:
    """Some feature of this autoencoder has an effect on some probe."""
    return any(bool(chosen.any()) for one in measured.logits[name] for chosen in one.chosen.values())


def _too_many(options: AblationOptions, sae: Autoencoder) -> Iterator[str]:
    above = [n for n in options.ns if n > sae.d_sae]
    if above:
        yield f"more_than_d_sae: no score for n = {', '.join(map(str, above))}, there are {sae.d_sae} features"


def _about_sets(sets: Sequence[Measured], name: str) -> Iterator[str]:
    for data in sets:
        tasks = data.tasks
        knows = known(tasks, data.logits[name])
        unknown = [task for task, yes in zip(tasks.names, knows.tolist(), strict=True) if not yes]
        if unknown:
            yield f"subject_does_not_know: {tasks.name}: probes on {', '.join(unknown)} are not above chance"
        if not has_features(data, name):
            yield f"no_feature_has_an_effect: {tasks.name}: nothing could be zeroed"
            continue
        short = [n for one in data.logits[name][:1] for n, chosen in one.chosen.items() if int(chosen.min()) < n]
        if short:
            yield f"fewer_features_than_n: {tasks.name}: n = {', '.join(map(str, short))}: not so many have an effect"


def _undefined(sets: Sequence[Measured], name: str, found: Summary) -> Iterator[str]:
    for data in sets:
        tasks, missing = data.tasks, found.undefined.get(data.tasks.name, {})
        feasible = {n for one in data.logits[name] for n in one.ablated}
        gone = {
            f"{metric.split('_threshold_')[0]} ({n} of {len(data.logits[name])} seeds)": None
            for metric, n in missing.items()
            if int(metric.split("_threshold_")[1].split("_")[0]) in feasible
        }
        if gone:
            yield f"undefined: {tasks.name}: {', '.join(gone)}"


def data_sha256(sets: Sequence[Measured]) -> str:
    """Over the token rows and labels of all data sets."""
    digest = hashlib.sha256()
    for data in sets:
        digest.update(repr((data.tasks.name, data.tasks.names, data.hashes)).encode())
        digest.update(data.tasks.positive.numpy().tobytes())
    return digest.hexdigest()


def chosen_features(sets: Sequence[Measured], name: str) -> dict[str, dict[str, dict[str, float]]]:
    """Data set -> n -> task -> how many features were zeroed, in the mean over seeds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for data in sets:
        seeds = data.logits[name]
        found[data.tasks.name] = {
            str(n): {
                task: sum(int(one.chosen[n][i]) for one in seeds) / len(seeds)
                for i, task in enumerate(data.tasks.names)
            }
            for n in seeds[0].chosen
        }
    return found
