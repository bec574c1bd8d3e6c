"""`notes.md`: a run in words, complete enough to write it up without running it again."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chronosae.config import UserError
from chronosae.config import flags as flag_words
from chronosae.config.files import read_object, write_text
from chronosae.config.run_folder import FINAL, NOTES, MetricsLine, SAEResult
from chronosae.report.compare import Row, comparison, needs_letters
from chronosae.report.runs import Run, read_run
from chronosae.report.table import UNDEFINED, evaluations, format_estimate, metric_cell
from chronosae.report.verdict import bullets, code, escape, table, verdict

ABSENT = "(absent)"
# ValueError: YAML's impossible dates, JSON's endless integers; RecursionError: a mapping that holds itself.
DAMAGE = (UserError, OSError, ValueError, RecursionError)


def write_notes(run_folder: Path | str, previous: Path | str | None = None) -> Path:
    """Write `notes.md` into a complete run folder and return its path.

    Args:
        previous: the run to show the difference in configuration to; `previous_run(run_folder)` when absent.

    Raises:
        UserError: the folder holds no complete run, or a file is damaged.
    """
    folder = Path(run_folder)
    before = Path(previous) if previous is not None else previous_run(folder)
    write_text(folder / NOTES, notes(read_run(folder), read_run(before) if before else None))
    return folder / NOTES


def previous_run(folder: Path | str) -> Path | None:
    """The complete run beside `folder` that started last before it; None when there is none.

    Runs that can't be read are passed over, so that a damaged neighbour never stops a run from being told.
    """
    folder = Path(folder).resolve()
    own = _started(folder)
    if own is None:
        return None
    started = [(when, child.name, child) for child in _beside(folder) if (when := _started(child)) and when <= own]
    return next((child for _, _, child in sorted(started, reverse=True) if _readable(child)), None)


def _beside(folder: Path) -> list[Path]:
    try:
        return [child for child in folder.parent.iterdir() if child.is_dir() and child != folder]
    except OSError:  # the folder may be ours, and the one around it not
        return []


def _started(folder: Path) -> str | None:
    """When a complete run started: ISO 8601 in UTC, which sorts as text."""
    try:
        started = read_object(folder / FINAL).get("started")
    except DAMAGE:
        return None
    return started if isinstance(started, str) and started else None


def _readable(folder: Path) -> bool:
    """Whether the notes of another run can tell the difference to this one."""
    try:
        flat(read_run(folder).config())
    except DAMAGE:
        return False
    return True


def notes(run: Run, before: Run | None) -> str:
    """The text of notes.md."""
    sections = [
        f"# {escape(run.name)}",
        escape(run.info.description or "") or "No description was given.",
        _facts(run),
        "## Verdict",
        bullets(verdict(run)),
        "## Results",
        _results(run),
        *_evaluations(run),
        "## Training",
        _training(run),
        "## Flags",
        _flags(run),
        "## Difference to the run before",
        _difference(run, before),
        "## Configuration",
        table(("key", "value"), ([code(key), code(value)] for key, value in flat(run.config()).items()), left=2),
        "## Again",
        _again(run),
    ]
    return "\n\n".join(sections) + "\n"


def _facts(run: Run) -> str:
    info = run.info
    facts = {
        "date": info.started or "unknown",
        "wall time": "unknown" if info.wall_seconds is None else f"{info.wall_seconds:.0f} s",
        "machine": ", ".join(f"{key} {value}" for key, value in info.machine.items()) or "unknown",
        "subject": f"{info.subject.model or 'unknown'} (fingerprint {str(info.subject.fingerprint)[:12]})",
        "versions": ", ".join(f"{key} {value}" for key, value in info.versions.items()) or "unknown",
        "configuration": f"sha256 {info.config_sha256 or 'unknown'}",
    }
    return bullets(f"{key}: {escape(value)}" for key, value in facts.items())


RESULT_COLUMNS = {
    "L0": ("novel_l0", ".1f"),
    "FVE": ("explained_variance", ".4f"),
    "FVE of PCA": ("pca_explained_variance", ".4f"),
    "CE recovered": ("ce_loss_score", ".4f"),
    "KL recovered": ("kl_div_score", ".4f"),
    "MSE": ("mse", ".4g"),
    "cosine": ("cossim", ".4f"),
    "alive": ("frac_alive", ".4f"),
}


def _results(run: Run) -> str:
    compared = comparison([run])
    if not compared.rows:
        return "The run trained no autoencoder."

    lettered = needs_letters(compared.rows)

    def cells(row: Row) -> list[str]:
        asked = UNDEFINED if row.k is None and row.target_l0 is None else f"{row.k or row.target_l0:g}"
        measured = [format_estimate(row.metrics.get(name), spec, row.n) for name, spec in RESULT_COLUMNS.values()]
        measured[0] += f" {row.l0_group}" if lettered and row.l0_group else ""
        return [code(row.sae), code(row.site), str(row.d_sae or UNDEFINED), asked, str(row.n), *measured]

    header = ["SAE", "site", "d_sae", "k or target L0", "n", *RESULT_COLUMNS]
    legend = (
        "FVE: share of the variance explained, about the mean; FVE of PCA: of as many principal components as features"
        " are active; CE and KL recovered: against zero ablation; MSE: per element; alive: share of the features that"
        " fired on the evaluated tokens; n: seeds; `-`: undefined."
    )
    return "\n\n".join([table(header, map(cells, compared.rows), left=2), legend, *map(escape, compared.notes)])


def _evaluations(run: Run) -> list[str]:
    """The headline number of each evaluation beside core; nothing where there was none."""
    compared = comparison([run])
    found = evaluations(compared.rows)
    if not found:
        return []
    header = ["evaluation", *(f"{code(row.sae)} (n = {row.n})" for row in compared.rows)]
    rows = ([title, *(metric_cell(name, ".3f")(row) for row in compared.rows)] for name, title in found.items())
    legend = (
        "One number an evaluation, mean over seeds with the 95 % t-interval; ≈: not told apart from the first (paired"
        " by seed, Holm over the table). Intervals over examples, all metrics and what each rests on: `evals/`."
    )
    return ["## Evaluations", table(header, rows), legend]


def _training(run: Run) -> str:
    if not run.saes:
        return "Nothing was trained."
    rows = run.training()

    def cells(sae: SAEResult) -> list[str]:
        last = (rows.get(sae.name) or [MetricsLine()])[-1]
        values = (sae.seed, sae.training_steps, sae.tokens, sae.final_loss)
        values += (last.l0, last.dead, sae.learning_rate, sae.sparsity_penalty)
        return [code(sae.name), *(_short(value) for value in values)]

    header = ("SAE", "seed", "steps", "tokens", "final loss", "L0", "dead", "peak lr", "L1 weight")
    return table(header, map(cells, run.saes)) + "\n\nL0 and dead features are those of the last line of metrics.jsonl."


def _short(value: float | int | None) -> str:
    if value is None:
        return UNDEFINED
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _flags(run: Run) -> str:
    of_saes = {f"{sae.name}: {flag}": f"{code(sae.name)}: {_explained(flag)}" for sae in run.saes for flag in sae.flags}
    # Some older runs say in the run's flags again which autoencoders stopped.
    of_run = [_explained(flag) for flag in run.info.flags if flag not in of_saes]
    return bullets([*of_run, *of_saes.values()]) or "None."


def _explained(flag: str) -> str:
    return escape(flag_words.explain(flag))


def _difference(run: Run, before: Run | None) -> str:
    if before is None:
        return "There is no complete run before this one in the same folder."
    changes = config_changes(before.config(), run.config())
    if not changes:
        return f"None: {code(before.label)} had the same configuration."
    rows = ([code(key), code(old), code(new)] for key, (old, new) in changes.items())
    return f"To {code(before.label)}:\n\n" + table(("key", "old", "new"), rows, left=3)


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Dotted key -> (old, new) for every value that differs; `(absent)` where only one has the key."""
    was, now = flat(old), flat(new)
    keys = dict.fromkeys([*now, *was])
    return {key: (was.get(key, ABSENT), now.get(key, ABSENT)) for key in keys if was.get(key) != now.get(key)}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as JSON; lists stay whole."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False, default=str)
    return found


def _again(run: Run) -> str:
    name = run.folder.resolve().name
    command = f"chronosae run {shlex.quote(f'{name}/config.yaml')} --out-dir {shlex.quote(f'{name}_again')}"
    return (
        f"From the folder that holds {code(name)}:\n\n    {command}\n\nThe configuration's hash is"
        f" {code(run.info.config_sha256 or 'unknown')}; equal hash, versions and machine: equal numbers."
    )
