"""From absorption at each word to the result of one autoencoder: SAEBench's names, our flags."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from chronosae.evals.absorption.data import AbsorptionOptions, draws
from chronosae.evals.absorption.measure import LetterScores, Measured, choose_k
from chronosae.evals.bootstrap import Interval, bootstraps
from chronosae.evals.evaluation import EvalResult
from chronosae.evals.workbench import Workbench

SHARED = 0.1
"""More test words than this share with tokens that train words have too: a flag."""
INTERVALS = ("mean_absorption_fraction_score", "mean_full_absorption_score", "mean_num_split_features")
MEANS = (*INTERVALS, *(name.replace("mean", "std_dev", 1) for name in INTERVALS))
PROBES = ("mean_probe_f1", "mean_k1_f1", "mean_split_f1")
IN_ROWS = ("mean_absorption_fraction", "full_absorption_rate", "num_split_features")

Letters = dict[str, dict[str, Any]]
"""What is told of each letter beside SAEBench's row."""


def report(options: AbsorptionOptions, bench: Workbench, measured: Measured, name: str) -> EvalResult:
    """The result of autoencoder `name`; without scores, a flag says why."""
    found = measured.scores.get(name)
    letters, flags = _letters(measured), _flags(options, measured)
    means: Mapping[str, float | None] = dict.fromkeys(MEANS)
    probes: Mapping[str, float | None] = dict.fromkeys(PROBES)
    rows: list[dict[str, Any]] = []
    found_intervals: Mapping[str, Interval] = {}
    if isinstance(found, LetterScores):
        kept = _kept(measured)
        rows = _rows(kept, found)
        means, probes = _means(rows), _add_probes(letters, kept, found)
        weak = sum(letters[letter]["split_f1"] <= options.min_probe_f1 for letter in kept)
        flags += [f"letters_not_in_codes: {weak} of {len(kept)}"] if weak else []
        seed = draws(options, bench, "bootstrap").initial_seed()
        found_intervals = intervals(found, measured.asked.units["test"], seed)
    elif found is not None:
        flags.append(found)
    block: dict[str, Any] = {"letters": letters, "subject_spelling": measured.spelling._asdict()}
    if measured.known is not None:
        block["words_with_train_tokens"] = measured.shared
    return EvalResult(
        metrics={"mean": means, "probes": probes},
        eval_config=_eval_config(options, bench, measured.asked.token_pos),
        data_sha256=measured.asked.sha256(),
        details=tuple(rows),
        intervals=found_intervals,
        resampled="words with the same tokens up to the one that is read, together",
        flags=tuple(flags),
        block=block,
    )


def _letters(measured: Measured) -> Letters:
    if measured.known is None:
        return {}
    return {
        letter: {"probe_f1": float(f1)} for letter, f1 in zip(measured.asked.letters, measured.known.f1, strict=True)
    }


def _kept(measured: Measured) -> list[str]:
    """The letters that the probe on activations knows."""
    return [] if measured.known is None else [measured.asked.letters[i] for i in measured.known.kept.tolist()]


def _flags(options: AbsorptionOptions, measured: Measured) -> list[str]:
    """What holds for all autoencoders."""
    spelling = measured.spelling
    if measured.known is None:
        return [
            f"subject_does_not_know: right first letter for {spelling.accuracy:.1%} of {spelling.n} words,"
            f" not above chance ({spelling.chance:.1%})"
        ]
    flags, kept = [], _kept(measured)
    left_out = [*measured.asked.absent, *(c for c in measured.asked.letters if c not in kept)]
    if len(kept) < options.min_letters:
        flags.append(
            f"subject_does_not_know: a probe on the {options.token} token knows {len(kept)} letters (F1 above"
            f" {options.min_probe_f1:g}); {options.min_letters} are needed"
        )
    elif left_out:
        flags.append(f"letters_left_out: {' '.join(sorted(left_out))}")
    if measured.shared > SHARED:
        flags.append(
            f"tokens_shared_with_training: {measured.shared:.0%} of the test words begin with tokens of train words, so"
            " the probe may know tokens and not letters"
        )
    return flags


def _rows(letters: Sequence[str], scores: LetterScores) -> list[dict[str, Any]]:
    """SAEBench's row of each letter."""
    fraction, full = (scores.at_k(values).sum(0) for values in (scores.fraction, scores.full))
    counted = scores.counted.sum(0)
    return [
        {
            "first_letter": letter,
            "mean_absorption_fraction": float(fraction[i] / counted[i]),
            "full_absorption_rate": float(full[i] / counted[i]),
            "num_full_absorption": int(full[i]),
            "num_probe_true_positives": int(counted[i]),
            "num_split_features": int(scores.k[i]),
        }
        for i, letter in enumerate(letters)
    ]


def _means(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Means and standard deviations over letters."""
    columns = [[float(row[name]) for row in rows] for name in IN_ROWS]
    spread = [statistics.stdev(column) if len(column) > 1 else None for column in columns]
    return dict(zip(MEANS, [*map(statistics.mean, columns), *spread], strict=True))


def _add_probes(letters: Letters, kept: Sequence[str], scores: LetterScores) -> dict[str, float | None]:
    """Add what the k-sparse probes say of each kept letter; means over those letters."""
    k = scores.k.tolist()
    split_f1 = scores.scores.gather(1, scores.k.unsqueeze(1) - 1).squeeze(1).tolist()
    for i, letter in enumerate(kept):
        letters[letter] |= {
            "k1_f1": float(scores.scores[i, 0]),
            "split_f1": split_f1[i],
            "split_features": scores.probes.features[i, : k[i]].tolist(),
        }
    return {
        "mean_probe_f1": statistics.mean(letters[letter]["probe_f1"] for letter in kept),
        "mean_k1_f1": float(scores.scores[:, 0].mean()),
        "mean_split_f1": statistics.mean(split_f1),
    }


def intervals(scores: LetterScores, units: Int[Tensor, " words"], seed: int) -> dict[str, Interval]:
    """95 % intervals of the means; words with the same tokens up to the one that is read are drawn together."""
    groups = units.unique(return_inverse=True)[1]
    return bootstraps(lambda counts: _resampled_means(scores, counts[:, groups]), int(groups.max()) + 1, seed)


def _resampled_means(
    scores: LetterScores, counts: Float[Tensor, "resamples words"]
) -> dict[str, Float[Tensor, " resamples"]]:
    """SAEBench's means over letters by its names, with each word counted so often.

    The split features by which absorption is measured stay those of all words; their number is counted anew. A letter
    of which a resample has no word has no rate there and is left out.
    """
    counted = counts @ scores.counted.double()
    means = (
        (counts @ scores.at_k(scores.fraction) / counted).nanmean(1),
        (counts @ scores.at_k(scores.full) / counted).nanmean(1),
        choose_k(scores.resampled(counts), scores.jump).double().mean(1),
    )
    return dict(zip(INTERVALS, means, strict=True))


def _eval_config(options: AbsorptionOptions, bench: Workbench, token_pos: int) -> dict[str, Any]:
    return {
        "model_name": bench.subject.name,
        "random_seed": bench.seed,
        "f1_jump_threshold": options.f1_jump_threshold,
        "max_k_value": options.max_k,
        "prompt_template": options.template,
        "prompt_token_pos": token_pos,
        "llm_batch_size": 1,
        "llm_dtype": str(bench.subject.dtype).removeprefix("torch."),
        "k_sparse_probe_l1_decay": options.sparse_probe_l1,
        "k_sparse_probe_batch_size": options.probe_batch,
        "k_sparse_probe_num_epochs": options.probe_epochs,
        "min_GT_probe_f1": options.min_probe_f1,
        "min_feats_for_eval": options.min_letters,
        "eval_k_sparse_probe_batch_size": options.probe_batch,
        "precalc_k_sparse_probe_sae_acts": True,
    }
