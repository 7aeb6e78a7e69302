"""The methods: one file each, a state machine without clock, process or socket.

=============  ==================================================================================================
scheme         parts
=============  ==================================================================================================
uncoded        one partition per worker, wait for all
fastest        one partition per worker, wait for k, rescale
coded          rows of an encoding matrix, wait until decodable, or until a deadline and take the least squares
=============  ==================================================================================================

``elastic`` wraps any of them: it is rebuilt for the workers that are there.

A new method is one file here that registers its constructor with :func:`gradcode.schemes.registry.scheme`.
"""

from gradcode.schemes.bounds import fluid_bound
from gradcode.schemes.coded import Coded, coded, uncoded
from gradcode.schemes.elastic import Elastic, elastic
from gradcode.schemes.fastest import Fastest, fastest
from gradcode.schemes.registry import SchemeEntry, available, by_name

__all__ = [
    "Coded",
    "Elastic",
    "Fastest",
    "SchemeEntry",
    "available",
    "by_name",
    "coded",
    "elastic",
    "fastest",
    "fluid_bound",
    "uncoded",
]
