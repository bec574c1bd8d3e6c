"""Flags: what a reader must know of a result beside its numbers. One table, for whoever raises one or reads one.

A flag is `name` or `name: detail`. Those of an evaluation other than core carry its name in front (`ravel.few_pairs`)
and are explained on its page.
"""

CORE: dict[str, str] = {
    "never_fires": "no feature fired at any evaluated token",
    "non_finite_output": "codes or reconstruction held NaN or Inf; every metric is absent",
    "non_finite_logits": "the subject's logits held NaN or Inf with this reconstruction; CE and KL are absent",
    "constant_activations": "the activations don't vary, so explained variance doesn't exist",
    "dead_features_over_10_percent": "more than one feature in ten never fired on the evaluated tokens",
    "worse_than_mean": "explained variance at or below 0: the mean activation reconstructs as well",
    "worse_than_pca": "as many principal components as features active a token explain more",
    "ablation_not_worse_than_sae": "the subject loses no more by zero ablation than by this reconstruction",
    "ce_undefined": "zero ablation doesn't raise cross-entropy, so ce_loss_score doesn't exist",
    "ce_undefined_mean_ablation": "mean ablation doesn't raise cross-entropy, so its score doesn't exist",
    "kl_undefined": "zero ablation doesn't change the subject, so kl_div_score doesn't exist",
    "kl_undefined_mean_ablation": "mean ablation doesn't change the subject, so its score doesn't exist",
    "negative_codes": "some codes are negative; SAEBench subtracts those in l1 and leaves them out of densities",
    "fewer_tokens_than_asked": "the held-out text ran out before evals.core.tokens or behaviour_tokens",
}
"""Of the core evaluation; `docs/evaluations/core.md` says more."""
RUN: dict[str, str] = {
    "target_l0_missed": "the number of active features ended more than 5 % away from target_l0",
    "fewer_than_k_fire": "more than 5 % of the k slots a token stay empty on held-out text",
    "text_repeated": "training read the same text more than once",
}
"""Of a run and its training."""
MEANINGS: dict[str, str] = CORE | RUN


def raised(name: str, detail: str) -> str:
    """The flag `name` of the table, with what is to be said of this run."""
    assert name in MEANINGS, f"a flag has its meaning in config/flags.py, and {name} has none"
    return f"{name}: {detail}"


def key(flag: str) -> str:
    """The flag's name without what a run adds after the colon."""
    head = flag.partition(":")[0].strip()
    return "stopped" if head.startswith("stopped at step") else head


def explain(flag: str) -> str:
    """The flag with its meaning: `worse_than_pca: as many principal components ...`."""
    text, seeds, count = flag.rpartition(" (") if flag.endswith(" seeds)") else (flag, "", "")
    head, _, detail = text.partition(":")
    meaning = MEANINGS.get(head.strip())
    if meaning is None:
        return flag
    return f"{head}: {meaning}" + (f" ({detail.strip()})" if detail.strip() else "") + seeds + count
