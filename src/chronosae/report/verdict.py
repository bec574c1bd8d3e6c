"""What the numbers of one run say, in plain sentences, by fixed rules.

1. An autoencoder that stopped or never fires, or without metrics, is named as such and enters no comparison.
2. Every other one: share of the variance explained, active features, distance to as many principal components, loss
   recovered.
3. Pairs at one site: compared when their L0 differ by at most 5 %, on the seeds both have; else called not comparable.
   With three seeds or more, a difference counts when the 95 % t-interval of the paired differences leaves out zero.
4. Fewer than five seeds: differences are exploratory, and said to be.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import combinations

from chronosae.config import flags as flag_words
from chronosae.config.run_folder import SAEResult
from chronosae.report.runs import Run
from chronosae.report.statistics import ENOUGH_PAIRS, FEWEST_PAIRS, estimate, l0_matched

# Flags after which reconstruction says nothing.
FATAL = {"stopped", "never_fires", "non_finite_output", "constant_activations"}


def verdict(run: Run) -> list[str]:
    """Markdown sentences, each complete in itself."""
    groups = run.by_base()
    if not groups:
        return ["The run trained no autoencoder."]
    sound = {base: members for base, members in groups.items() if not _unsound(members)}
    sentences = [
        _single(base, members) if base in sound else _failed(base, members) for base, members in groups.items()
    ]
    for (first, a), (second, b) in combinations(sound.items(), 2):
        if a[0].site == b[0].site:
            sentences.append(_pair(first, a, second, b))
    if all(len(members) == 1 for members in groups.values()):
        sentences.append("One seed: differences are exploratory.")
    elif len(groups) > 1 and min(map(len, groups.values())) < ENOUGH_PAIRS:
        sentences.append(f"Fewer than {ENOUGH_PAIRS} seeds: differences are exploratory.")
    return sentences


def _unsound(members: Sequence[SAEResult]) -> bool:
    fatal = any(flag_words.key(flag) in FATAL for sae in members for flag in sae.flags)
    return fatal or _mean(members, "explained_variance") is None or _mean(members, "novel_l0") is None


def _mean(members: Sequence[SAEResult], name: str) -> float | None:
    found = estimate(sae.metrics.get(name) for sae in members)
    return None if found is None else found.mean


def _failed(base: str, members: Sequence[SAEResult]) -> str:
    reasons = {flag_words.explain(flag) for sae in members for flag in sae.flags if flag_words.key(flag) in FATAL}
    if reasons:
        return f"{code(base)} gives no usable result ({escape('; '.join(sorted(reasons)))})."
    if not any(sae.metrics for sae in members):
        return f"{code(base)} was not evaluated."
    return f"{code(base)} has no defined explained variance or L0, so nothing is concluded from it."


def _single(base: str, members: Sequence[SAEResult]) -> str:
    explained, l0 = _mean(members, "explained_variance"), _mean(members, "novel_l0")
    assert explained is not None and l0 is not None
    sentence = f"{code(base)} reconstructs {_percent(explained)} of the variance with {l0:.1f} active features"
    target = members[0].target
    if target:
        off = l0 / target - 1
        sentence += f" ({abs(off):.1%} {'above' if off > 0 else 'below'} the {target:g} asked for)" if off else ""
    pca = _mean(members, "pca_explained_variance")
    if pca is not None:
        side = "above" if explained >= pca else "below"
        sentence += f", {abs(explained - pca) * 100:.1f} points {side} as many principal components"
    recovered = _mean(members, "ce_loss_score")
    if recovered is not None:
        sentence += f"; the subject keeps {_percent(recovered)} of its loss advantage over zero ablation"
    return f"{sentence} ({_seeds(len(members))})."


def _pair(first: str, a: Sequence[SAEResult], second: str, b: Sequence[SAEResult]) -> str:
    l0_a, l0_b = _mean(a, "novel_l0"), _mean(b, "novel_l0")
    assert l0_a is not None and l0_b is not None
    if not l0_matched(l0_a, l0_b):
        return (
            f"{code(first)} (L0 {l0_a:.1f}) and {code(second)} (L0 {l0_b:.1f}) are not comparable at equal L0:"
            " it differs by more than 5 %."
        )
    found = estimate(_paired_differences(a, b))
    if found is None:
        names = f"{code(first)} and {code(second)}"
        return f"{names} have equal L0 within 5 % but no seed in common, so they are not compared."
    points, ahead = found.mean * 100, first if found.mean >= 0 else second
    behind = second if ahead == first else first
    sentence = f"At equal L0 within 5 %, {code(ahead)} explains {abs(points):.1f} points more of the variance than"
    sentence += f" {code(behind)}"
    if found.low is None or found.high is None:
        return sentence + ", on one seed."
    if found.n < FEWEST_PAIRS:
        return f"{sentence}, on {_seeds(found.n)}: too few to tell it from chance."
    low, high = sorted((found.low * 100, found.high * 100) if points >= 0 else (-found.high * 100, -found.low * 100))
    clear = "which leaves out zero" if low > 0 else "which includes zero: no difference is shown"
    return f"{sentence} (95 % interval {low:.1f} to {high:.1f} over {_seeds(found.n)}, paired), {clear}."


def _paired_differences(a: Sequence[SAEResult], b: Sequence[SAEResult]) -> list[float]:
    of_b = {sae.seed: sae.metrics.get("explained_variance") for sae in b if sae.seed is not None}
    pairs = ((sae.metrics.get("explained_variance"), of_b.get(sae.seed)) for sae in a if sae.seed is not None)
    return [x - y for x, y in pairs if x is not None and y is not None]


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


# Small pieces of Markdown. Text from configurations is shown as written, never obeyed.

# What Markdown or HTML would act on inside a line.
_ACTIVE = re.compile(r"([\\`*{}\[\]<>|#~&!]|(?<!\w)_|_(?!\w))")


def escape(text: str) -> str:
    """One line of text that Markdown shows as it is, inside table cells too."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = _ACTIVE.sub(r"\\\1", line)
    # a line that starts like a list or a rule would become one
    return re.sub(r"^([-+=]|\d+[.)])", lambda match: match[0][:-1] + "\\" + match[0][-1], line)


def code(text: str) -> str:
    """Inline code, for table cells too: a fence longer than any in the text; pipes escaped."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()).replace("|", "\\|")
    if not line:
        return "` `"
    ticks = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A pipe table; cells are already escaped. The first `left` columns are aligned left, the rest right."""
    rule = [":--" if i < left else "--:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def bullets(items: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {item}" for item in items)
