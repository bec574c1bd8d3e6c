"""Autoencoders composed of parts: build one from a preset, encode, decode, save, load."""

from chronosae.autoencoders.autoencoder import Autoencoder
from chronosae.autoencoders.codes import Codes, DenseCodes, SparseCodes
from chronosae.autoencoders.draws import Draws
from chronosae.autoencoders.parts.activations import ReLU, TopK
from chronosae.autoencoders.parts.terms import AuxKTerm, L1Term
from chronosae.autoencoders.passes import Pass
from chronosae.autoencoders.presets import PRESETS, build, build_from_spec, find_preset, make_spec, read_options
from chronosae.autoencoders.spec import Normalisation, Spec
from chronosae.autoencoders.storage import load, load_trackers, read_safetensors, save, save_trackers

__all__ = [
    "PRESETS",
    "Autoencoder",
    "AuxKTerm",
    "Codes",
    "DenseCodes",
    "Draws",
    "L1Term",
    "Normalisation",
    "Pass",
    "ReLU",
    "SparseCodes",
    "Spec",
    "TopK",
    "build",
    "build_from_spec",
    "find_preset",
    "load",
    "load_trackers",
    "make_spec",
    "read_options",
    "read_safetensors",
    "save",
    "save_trackers",
]
