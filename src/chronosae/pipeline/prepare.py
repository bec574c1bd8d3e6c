"""From a configuration to things that are known to exist: everything that can fail early, fails here."""

import re
from dataclasses import dataclass
from pathlib import Path

from chronosae import world
from chronosae.config import RunConfig, SubjectConfig, UserError
from chronosae.corpora import open_sources
from chronosae.pipeline.plan import Plan, make_plan
from chronosae.subject import SubjectInfo, inspect_subject
from chronosae.training.log import require_extras

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Prepared:
    """A configuration that has been checked against the machine, the subject and the text."""

    cfg: RunConfig
    subject: SubjectConfig
    """The subject with `world` resolved to the folder of the embedded model."""
    info: SubjectInfo | None
    plan: Plan


def prepare(cfg: RunConfig, *, dry: bool = False) -> Prepared:
    """Check the configuration, the extras, the subject, its sites, and that the text can be opened.

    With `dry`, a Hugging Face name that can't be reached is noted instead of refused, so that a recipe can be checked
    on a machine without network.

    Raises:
        UserError: the first thing that is wrong.
    """
    register()
    subject = resolve_subject(cfg.subject)
    require_extras(cfg.logging)
    info, note = _inspect(subject, dry)
    plan = make_plan(cfg, info)
    if note:
        plan.notes.append(note)
    if not (dry and info is None):
        open_sources(cfg.corpus)
    return Prepared(cfg, subject, info, plan)


def register() -> None:
    """Make the embedded world known by name: its text, and its data for evaluations."""
    world.register()


def resolve_subject(subject: SubjectConfig) -> SubjectConfig:
    """`world` becomes the (verified) folder of the embedded model; anything else stays."""
    if subject.model != "world":
        return subject
    return subject.model_copy(update={"model": str(world.model_folder())})


def _inspect(subject: SubjectConfig, dry: bool) -> tuple[SubjectInfo | None, str | None]:
    try:
        return inspect_subject(subject), None
    except UserError as error:
        on_hub = not Path(subject.model).exists() and HUB_NAME.fullmatch(subject.model)
        if dry and on_hub:
            return None, str(error)
        raise
