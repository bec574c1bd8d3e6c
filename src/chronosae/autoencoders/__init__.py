"""Autoencoders composed of parts: encode, decode, stream, save, load. `chronosae.presets` builds them by name."""

from chronosae.autoencoders.assembly import (
    build_from_spec,
    computes_body,
    empty_from_spec,
    read_metadata,
)
from chronosae.autoencoders.autoencoder import Autoencoder, Pass
from chronosae.autoencoders.codes import Codes, DenseCodes, SparseCodes
from chronosae.autoencoders.crosscoder import Crosscoder
from chronosae.autoencoders.parts.activations import Activation, JumpReLUActivation, ReLU, TopK
from chronosae.autoencoders.predictive import PredictiveAutoencoder, PredictiveCodes
from chronosae.autoencoders.saelens import export_temporal
from chronosae.autoencoders.spec import Normalisation, Spec
from chronosae.autoencoders.storage import read_safetensors, save, save_trackers
from chronosae.autoencoders.tokens import Draws, Layout, Past, shifted

__all__ = [
    "Activation",
    "Autoencoder",
    "Codes",
    "Crosscoder",
    "DenseCodes",
    "Draws",
    "JumpReLUActivation",
    "Layout",
    "Normalisation",
    "Pass",
    "Past",
    "PredictiveAutoencoder",
    "PredictiveCodes",
    "ReLU",
    "SparseCodes",
    "Spec",
    "TopK",
    "build_from_spec",
    "computes_body",
    "empty_from_spec",
    "export_temporal",
    "read_metadata",
    "read_safetensors",
    "save",
    "save_trackers",
    "shifted",
]
