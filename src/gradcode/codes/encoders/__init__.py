"""Encoders: matrices that the *data* is multiplied with, once, so that any k workers hold something of all samples.

    encoder = encoders.hadamard(samples=500, redundancy=2)     # S, (1024, 500), SᵀS = βI
    rows, values = encoder.apply(X), encoder.apply(y)          # fast, without forming S
    encoders.brip(encoder, workers=16, k=12)                   # how much of the worst 12 workers' data is missing

A gradient code encodes gradients and is decoded; here nobody decodes. Least squares on S_A X and S_A y, whoever A is,
are close to least squares on X and y as far as S_AᵀS_A is close to a multiple of the identity.

Source: Karakus, Sun, Diggavi, Yin 2017 and 2019 (the project's encoded_optimization.md). Of the papers the abstracts
were read; constructions and facts are DERIVED there.
"""

from gradcode.codes.encoders.encoder import Encoder
from gradcode.codes.encoders.frames import paley, steiner
from gradcode.codes.encoders.gaussian import gaussian
from gradcode.codes.encoders.isometry import Brip, brip, spectra
from gradcode.codes.encoders.registry import REGISTRY, Entry, create, register
from gradcode.codes.encoders.replication import Replication, replication
from gradcode.codes.encoders.transformed import haar, hadamard

__all__ = [
    "REGISTRY",
    "Brip",
    "Encoder",
    "Entry",
    "Replication",
    "brip",
    "create",
    "gaussian",
    "haar",
    "hadamard",
    "paley",
    "register",
    "replication",
    "spectra",
    "steiner",
]
