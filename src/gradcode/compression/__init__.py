"""Fewer bytes per gradient: compressors, and codecs that remember what a compressor left out.

    codec = compression.ErrorFeedback(compression.GroupedSign(64))

A compressor turns a vector into bytes and bytes into a vector that is near it; a codec is what an order carries, and
says what is remembered of a gradient between iterations. Torch and Numba are loaded when the first vector comes.
"""

from gradcode.compression.codecs import Differences, ErrorFeedback, Plain
from gradcode.compression.compressor import REGISTRY, Compressor, create, register
from gradcode.compression.half import Half
from gradcode.compression.one_bit import OneBit
from gradcode.compression.sampled import Sampled, closed_form, greedy, hybrid_bits
from gradcode.compression.sign import GroupedSign
from gradcode.compression.sparse import RandomK, TopK

__all__ = [
    "REGISTRY",
    "Compressor",
    "Differences",
    "ErrorFeedback",
    "GroupedSign",
    "Half",
    "OneBit",
    "Plain",
    "RandomK",
    "Sampled",
    "TopK",
    "closed_form",
    "create",
    "greedy",
    "hybrid_bits",
    "register",
]
