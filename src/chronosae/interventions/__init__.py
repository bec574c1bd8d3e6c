"""Edits of an autoencoder's codes inside the running subject."""

from chronosae.interventions.edit import (
    Change,
    CodeEdit,
    Reading,
    SiteEdit,
    applied,
    at_tokens,
    code_unit,
    edited,
    read,
)
from chronosae.interventions.intervention import INTERVENTIONS, Clamp, Intervention, InterventionField, where_firing

__all__ = [
    "INTERVENTIONS",
    "Change",
    "Clamp",
    "CodeEdit",
    "Intervention",
    "InterventionField",
    "Reading",
    "SiteEdit",
    "applied",
    "at_tokens",
    "code_unit",
    "edited",
    "read",
    "where_firing",
]
