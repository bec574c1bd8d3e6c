"""What a preset is: a name, a line, the options a user may set, and how they become a `Spec`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from chronosae.autoencoders.spec import Normalisation, Spec
from chronosae.config import Section

Positive = Annotated[int, Field(gt=0)]


class Options(Section):
    """Options that every preset takes."""

    d_sae: Annotated[int, Field(gt=1)] = 2048
    """Number of features."""


@dataclass(frozen=True)
class Preset:
    """One row of the preset table."""

    name: str
    summary: str
    paper: str
    options: type[Options]
    make: Callable[[Any, int, Normalisation], Spec]
    """(options, d_in, normalisation) -> spec; ValueError for options that can't go together."""
