"""Edits of an autoencoder's codes inside the running subject."""

from chronosae.interventions.clamp import Clamp
from chronosae.interventions.edit import Change, CodeEdit, SiteEdit, applied, edited
from chronosae.interventions.reading import Reading, at_tokens, code_unit, read

__all__ = ["Change", "Clamp", "CodeEdit", "Reading", "SiteEdit", "applied", "at_tokens", "code_unit", "edited", "read"]
