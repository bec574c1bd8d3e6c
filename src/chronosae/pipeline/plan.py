"""What a configuration amounts to, checked before any work: which autoencoders, how many steps, how much memory."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chronosae.activations import cache_bytes
from chronosae.autoencoders import Normalisation, Spec, build_from_spec
from chronosae.config import RunConfig, UserError
from chronosae.presets import PRESETS, Preset, find_preset, make_spec, read_options
from chronosae.subject import SubjectInfo, check_sites

# Names become file names; '@' marks repeats over seeds.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True)
class PlannedSAE:
    """One autoencoder to be trained."""

    name: str
    preset: str
    site: str
    seed: int
    lr: float
    options: Preset

    def spec(self, d_in: int, normalisation: Normalisation | None = None) -> Spec:
        """Its parts at width `d_in`."""
        return make_spec(self.options, d_in, normalisation)


def planned_saes(cfg: RunConfig) -> list[PlannedSAE]:
    """The autoencoders of `cfg`: one a name and seed, repeats named `name@2`, `name@3` ...

    Raises:
        UserError: naming the key under `saes` that is wrong.
    """
    planned = []
    folded: dict[str, str] = {}
    for name, entry in cfg.saes.items():
        key = f"saes.{name}"
        if not NAME.fullmatch(name):
            raise UserError(f"{key}: a name is 1 to 64 letters, digits, '_', '-', '+' or '.', and starts with neither")
        # Names become folders, and many file systems don't tell upper case from lower.
        if folded.setdefault(name.casefold(), name) != name or name.endswith("."):
            raise UserError(f"{key}: differs from saes.{folded[name.casefold()]} only in case, or ends in '.'")
        preset, site, lr, options = _split_entry(cfg, name, entry)
        for i, seed in enumerate(cfg.training.seeds):
            repeat = name if i == 0 else f"{name}@{i + 1}"
            planned.append(PlannedSAE(repeat, preset, site, seed, lr, options))
    return planned


def _split_entry(cfg: RunConfig, name: str, entry: dict[str, Any]) -> tuple[str, str, float, Preset]:
    key, rest = f"saes.{name}", dict(entry)
    preset = find_preset(rest.pop("preset", name if name in PRESETS else None), f"{key}.preset").name
    sites = cfg.subject.sites
    site = rest.pop("site", sites[0] if len(sites) == 1 else None)
    if site not in sites:
        what = "is missing (subject.sites has several)" if site is None else f"{site!r} isn't among subject.sites"
        raise UserError(f"{key}.site: {what}; legal: {', '.join(sites)}")
    lr = rest.pop("lr", cfg.training.lr)
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < float("inf"):
        raise UserError(f"{key}.lr: a positive number was expected, got {lr!r}")
    unknown = [option for option in rest if option not in PRESETS[preset].model_fields]
    if unknown:
        legal = ["preset", "site", "lr", *PRESETS[preset].model_fields]
        raise UserError(f"{key}: unknown key {key}.{unknown[0]}; legal here: {', '.join(legal)}")
    return preset, site, float(lr), read_options(preset, rest, where="config", prefix=key)


@dataclass(frozen=True)
class Plan:
    """The whole run in numbers. Sizes are bytes; None where the subject's width isn't known (hub not reachable)."""

    saes: list[PlannedSAE]
    steps: int
    tokens: int
    memory: int | None
    disk: int | None
    cache: int | None
    """Of the activation cache at most; the cache's builder checks its own disk against the text there really is."""
    notes: list[str]

    def lines(self) -> list[str]:
        """The plan for people."""
        size = lambda n: "unknown until the subject can be read" if n is None else f"about {n / 1e9:.2f} GB"  # noqa: E731
        return [
            f"{len(self.saes)} autoencoders: {', '.join(sae.name for sae in self.saes)}",
            f"{self.tokens:,} tokens in {self.steps:,} steps each",
            f"memory: {size(self.memory)}",
            f"disk: {size(self.disk)}",
            *([f"activation cache: at most {size(self.cache)}"] if self.cache else []),
            *[f"note: {note}" for note in self.notes],
        ]


def make_plan(cfg: RunConfig, info: SubjectInfo | None) -> Plan:
    """Check `cfg` against the subject (as far as it is known) and estimate what the run takes.

    Raises:
        UserError: an impossible combination, named by its key.
    """
    saes = planned_saes(cfg)
    notes = []
    if info is None:
        notes.append("subject.model can't be read here: sites, context and sizes are unchecked")
        return Plan(saes, cfg.steps, cfg.steps * cfg.training.batch_tokens, None, None, None, notes)
    check_sites(info, cfg.subject.sites)
    if cfg.activations.context > info.max_context:
        raise UserError(
            f"activations.context: {cfg.activations.context} is longer than the {info.max_context} positions that"
            f" {cfg.subject.model} can read; set it to {info.max_context} or less"
        )
    specs = [sae.spec(info.d_model) for sae in saes]
    for sae, spec in zip(saes, specs, strict=True):
        _check_context(sae.name, spec, cfg.activations.context)
    parameters = sum(map(_parameters, specs))
    pre_acts = max(spec.d_sae for spec in specs) * cfg.training.batch_tokens
    # Weights, gradients and two moments in float32; some five copies of the largest pre-activations in flight.
    memory = 16 * parameters + 20 * pre_acts + _subject_bytes(cfg, info)
    # The final weights, and a checkpoint with its moments beside the one it replaces.
    disk = 4 * parameters + 2 * 12 * parameters
    cache = _cache_bytes(cfg, info)
    return Plan(saes, cfg.steps, cfg.steps * cfg.training.batch_tokens, memory, disk, cache, notes)


def _parameters(spec: Spec) -> int:
    """Numbers that are trained or saved."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_from_spec(spec).state_dict().values())


def _check_context(name: str, spec: Spec, context: int) -> None:
    """`UserError` when a part of the autoencoder can't work in contexts of this length."""
    for part in (spec.mixer, spec.kernel):
        if part is not None and part.history >= context:
            raise UserError(
                f"saes.{name}: looks back {part.history} tokens (kernel_size and rates), but activations.context is"
                f" {context}; use smaller rates or a longer context"
            )
    mask = spec.position_mask
    if mask is not None and mask.context < context and mask.beyond == "error":
        raise UserError(
            f"saes.{name}: the position mask knows {mask.context} positions, activations.context is {context};"
            f" set its context to {context}, or beyond to last or wrap"
        )
    # The first token is BOS, as a rule, and masked: no window may need all of them.
    windows = {term.kind: getattr(term, "window", None) or getattr(term, "lags", None) for term in spec.terms}
    windows["window"] = spec.body.receptive_field
    for kind, window in windows.items():
        if isinstance(window, int) and window >= context:
            raise UserError(
                f"saes.{name}: {kind} looks at {window} tokens at once, which never fits in activations.context"
                f" ({context}); use a smaller window"
            )


def _subject_bytes(cfg: RunConfig, info: SubjectInfo) -> int:
    width = 4 if cfg.subject.dtype == "float32" else 2
    batch = cfg.activations.harvest_sequences * cfg.activations.context
    return width * info.n_parameters_estimate + 4 * batch * (8 * info.d_model + info.vocab_size)


def _cache_bytes(cfg: RunConfig, info: SubjectInfo) -> int:
    """Bytes of the activation cache at most (a small corpus takes fewer); 0 when activations are streamed."""
    if cfg.activations.store != "cache":
        return 0
    widths = [info.d_model] * len(cfg.subject.sites)
    n_sequences = cfg.steps * cfg.batch_sequences
    return cache_bytes(n_sequences, cfg.activations.context, widths, cfg.activations.cache_dtype)


def cache_folder(cfg: RunConfig, out_dir: Path) -> Path:
    """Where the activation cache of this run lives."""
    return Path(cfg.activations.cache_dir) if cfg.activations.cache_dir else out_dir / "activations"
