"""Scores as a result: SAEBench's names, our flags."""

import statistics
from collections.abc import Mapping
from typing import Any

from chronosae.evals.absorption.ability import Spelling
from chronosae.evals.absorption.options import AbsorptionOptions
from chronosae.evals.absorption.scoring import INTERVALS, Known, LetterScores
from chronosae.evals.bootstrap import Interval
from chronosae.evals.result import EvalResult
from chronosae.evals.workbench import Workbench

SHARED = 0.1
"""More test words than this share with tokens that train words have too: a flag."""


class Report:
    """What the results of all autoencoders have in common."""

    def __init__(
        self, options: AbsorptionOptions, bench: Workbench, letters: tuple[str, ...], token_pos: int, sha256: str
    ) -> None:
        self.options, self.bench, self.letters = options, bench, letters
        self.token_pos, self.sha256 = token_pos, sha256
        self.flags: list[str] = []
        self.block: dict[str, Any] = {"letters": {}}

    def asked(self, spelling: Spelling) -> None:
        """Note how well the subject spells."""
        self.block["subject_spelling"] = spelling._asdict()
        if not spelling.knows:
            self.flags.append(
                f"subject_does_not_know: right first letter for {spelling.accuracy:.1%} of {spelling.n} words,"
                f" not above chance ({spelling.chance:.1%})"
            )

    def probed(self, known: Known, absent: tuple[str, ...], shared: float) -> None:
        """Note which letters the probe knows."""
        kept = known.kept.tolist()
        left_out = [*absent, *(c for i, c in enumerate(self.letters) if i not in kept)]
        for i, letter in enumerate(self.letters):
            self.block["letters"][letter] = {"probe_f1": float(known.f1[i])}
        self.block["words_with_train_tokens"] = shared
        if len(kept) < self.options.min_letters:
            self.flags.append(
                f"subject_does_not_know: a probe on the {self.options.token} token knows {len(kept)} letters (F1 above"
                f" {self.options.min_probe_f1:g}); {self.options.min_letters} are needed"
            )
        elif left_out:
            self.flags.append(f"letters_left_out: {' '.join(sorted(left_out))}")
        if shared > SHARED:
            self.flags.append(
                f"tokens_shared_with_training: {shared:.0%} of the test words begin with tokens of train words, so"
                " the probe may know tokens and not letters"
            )

    @property
    def failed(self) -> bool:
        """There is nothing to measure, whatever the autoencoder."""
        return any(flag.startswith("subject_does_not_know") for flag in self.flags)

    def empty(self, *flags: str) -> EvalResult:
        """No score."""
        return self._result(dict.fromkeys(MEANS), dict.fromkeys(PROBES), (), {}, {}, flags)

    def scored(self, scores: LetterScores, kept: list[int], intervals: Mapping[str, Interval]) -> EvalResult:
        """One autoencoder's scores."""
        names = [self.letters[i] for i in kept]
        rows = _rows(names, scores)
        k = scores.k.tolist()
        split_f1 = scores.scores.gather(1, scores.k.unsqueeze(1) - 1).squeeze(1).tolist()
        per_letter = {
            letter: {
                "k1_f1": float(scores.scores[i, 0]),
                "split_f1": split_f1[i],
                "split_features": scores.probes.features[i, : k[i]].tolist(),
            }
            for i, letter in enumerate(names)
        }
        probes = {
            "mean_probe_f1": statistics.mean(self.block["letters"][c]["probe_f1"] for c in names),
            "mean_k1_f1": float(scores.scores[:, 0].mean()),
            "mean_split_f1": statistics.mean(split_f1),
        }
        weak = sum(score <= self.options.min_probe_f1 for score in split_f1)
        flags = [f"letters_not_in_codes: {weak} of {len(names)}"] if weak else []
        return self._result(_means(rows), probes, tuple(rows), per_letter, intervals, tuple(flags))

    def _result(
        self,
        means: Mapping[str, float | None],
        probes: Mapping[str, float | None],
        rows: tuple[Mapping[str, Any], ...],
        per_letter: Mapping[str, Mapping[str, Any]],
        intervals: Mapping[str, Interval],
        flags: tuple[str, ...],
    ) -> EvalResult:
        letters = {letter: {**row, **per_letter.get(letter, {})} for letter, row in self.block["letters"].items()}
        return EvalResult(
            metrics={"mean": means, "probes": probes},
            eval_config=self._eval_config(),
            data_sha256=self.sha256,
            details=rows,
            intervals=intervals,
            resampled="words with the same tokens up to the one that is read, together",
            flags=(*self.flags, *flags),
            block={**self.block, "letters": letters},
        )

    def _eval_config(self) -> dict[str, Any]:
        options = self.options
        return {
            "model_name": self.bench.subject.name,
            "random_seed": self.bench.seed,
            "f1_jump_threshold": options.f1_jump_threshold,
            "max_k_value": options.max_k,
            "prompt_template": options.template,
            "prompt_token_pos": self.token_pos,
            "llm_batch_size": 1,
            "llm_dtype": str(self.bench.subject.dtype).removeprefix("torch."),
            "k_sparse_probe_l1_decay": options.sparse_probe_l1,
            "k_sparse_probe_batch_size": options.probe_batch,
            "k_sparse_probe_num_epochs": options.probe_epochs,
            "min_GT_probe_f1": options.min_probe_f1,
            "min_feats_for_eval": options.min_letters,
            "eval_k_sparse_probe_batch_size": options.probe_batch,
            "precalc_k_sparse_probe_sae_acts": True,
        }


MEANS = (*INTERVALS, *(name.replace("mean", "std_dev", 1) for name in INTERVALS))
PROBES = ("mean_probe_f1", "mean_k1_f1", "mean_split_f1")
IN_ROWS = ("mean_absorption_fraction", "full_absorption_rate", "num_split_features")


def _means(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Means and standard deviations over letters."""
    columns = [[float(row[name]) for row in rows] for name in IN_ROWS]
    spread = [statistics.stdev(column) if len(column) > 1 else None for column in columns]
    return dict(zip(MEANS, [*map(statistics.mean, columns), *spread], strict=True))


def _rows(letters: list[str], scores: LetterScores) -> list[dict[str, Any]]:
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
