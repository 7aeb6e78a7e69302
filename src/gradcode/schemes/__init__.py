"""The methods: one file each, a state machine without clock, process or socket.

==============  ==================================================================================================
scheme          parts
==============  ==================================================================================================
uncoded         one partition per worker, wait for all
fastest         one partition per worker, or each on several, wait for k, rescale
fastest_blocks  a block of coordinates per worker, wait for k, leave the others' coordinates
coded           rows of an encoding matrix, wait until decodable, or until a deadline and take the least squares
hierarchical    a row of an outer code per edge node, which decodes it from its workers' rows of an inner code
block_coord.    blocks of rows of encoding matrices that tolerate more along the way, wait until each is decodable
heterogeneous   rows of a code whose loads follow the speeds that workers show
clustered       rows of a code in each cluster of workers; clusters are formed anew, with the slow ones spread
coupon          random partitions, each sent by itself; wait until each has come from somebody
partial         one chunk after the other, held; then one message each of what was finished, with coefficients for it
self_sched.     one micro-partition at a time, held by several; one sum each of what was granted to it
greedy          edge nodes without redundancy, wait for the quickest at both levels, rescale
draco           copies, or rows of a cyclic code; wait until so many agree that adversaries cannot have made it up
grouping        fractional repetition, the first of each group ends the others' work
sequential      rows of a code for few stragglers, or chunks and rows; what was missed is repeated iterations later
two_stage       one partition on one worker first; then rows of a code over what the late ones have
lag, glag       a worker's or a group's gradient only if it has changed; else the one it sent last
lagc            coded sums of the changes of those partitions that have changed
sgc             partitions on a few workers each; the sum of what arrives, with weights that make it right on average
one_bit         the same with one random bit per coordinate
coco_ef         the same with signs or the largest coordinates, and error feedback
==============  ==================================================================================================

``elastic`` wraps any of them: it is rebuilt for the workers that are there. ``compressed`` wraps those whose messages
can travel through a codec of :mod:`gradcode.compression`.

A new method is one file here that registers its constructor with :func:`gradcode.schemes.registry.scheme`.
"""

from gradcode.schemes import lazy
from gradcode.schemes.block_coordinate import BlockCoordinate, block_coordinate
from gradcode.schemes.bounds import fluid_bound
from gradcode.schemes.clustered import Clustered, clustered
from gradcode.schemes.coco_ef import coco_ef
from gradcode.schemes.coded import Coded, coded, uncoded
from gradcode.schemes.compressed import Compressed, compressed
from gradcode.schemes.coupon import CouponCollector, coupon
from gradcode.schemes.draco import Draco, draco
from gradcode.schemes.elastic import Elastic, elastic
from gradcode.schemes.fastest import Fastest, fastest
from gradcode.schemes.fastest_blocks import FastestBlocks, fastest_blocks
from gradcode.schemes.grouping import Grouping, grouping
from gradcode.schemes.heterogeneous import Heterogeneous, heterogeneous
from gradcode.schemes.hierarchical import Greedy, Hierarchical, greedy, hierarchical
from gradcode.schemes.lazy import glag, lag, lagc
from gradcode.schemes.one_bit import one_bit
from gradcode.schemes.partial import PartialStragglers, partial
from gradcode.schemes.registry import SchemeEntry, available, by_name
from gradcode.schemes.self_scheduling import SelfScheduling, self_scheduling
from gradcode.schemes.sequential import Multiplexed, SelectiveRepetition, sequential
from gradcode.schemes.sgc import StochasticSum, sgc
from gradcode.schemes.two_stage import TwoStage, two_stage

__all__ = [
    "BlockCoordinate",
    "Clustered",
    "Coded",
    "Compressed",
    "CouponCollector",
    "Draco",
    "Elastic",
    "Fastest",
    "FastestBlocks",
    "Greedy",
    "Grouping",
    "Heterogeneous",
    "Hierarchical",
    "Multiplexed",
    "PartialStragglers",
    "SchemeEntry",
    "SelectiveRepetition",
    "SelfScheduling",
    "StochasticSum",
    "TwoStage",
    "available",
    "block_coordinate",
    "by_name",
    "clustered",
    "coco_ef",
    "coded",
    "compressed",
    "coupon",
    "draco",
    "elastic",
    "fastest",
    "fastest_blocks",
    "fluid_bound",
    "glag",
    "greedy",
    "grouping",
    "heterogeneous",
    "hierarchical",
    "lag",
    "lagc",
    "lazy",
    "one_bit",
    "partial",
    "self_scheduling",
    "sequential",
    "sgc",
    "two_stage",
    "uncoded",
]
