"""Which samples are in which partition of which iteration: a pure function of (seed, epoch, iteration, partition)."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
SamplingMode = Literal["placed", "global"]

_MASK = (1 << 63) - 1  # a NumPy seed is not negative


class Sampling:
    """Cuts a dataset into K partitions and every epoch into iterations.

    ``"placed"``: partition j owns one shard of the dataset, cut once from the seed, and contributes samples of its
    own shard, in an order drawn anew each epoch. ``"global"``: the whole dataset is shuffled each epoch and each
    batch is cut into K pieces; every worker must then be able to read everything.

    Args:
        samples: size of the dataset.
        partitions: K.
        batch_size: samples per iteration, all partitions together; partition j has ⌊B/K⌋ or ⌈B/K⌉ of them.
        seed: fixes everything.
        mode: see above.
        drop_last: leave out the last, smaller iteration of an epoch.

    Raises:
        ValueError: the batch or the dataset cannot be split over the partitions.

    >>> sampling = Sampling(samples=10, partitions=2, batch_size=4, seed=0)
    >>> sampling.iterations, sampling.sizes(2).tolist()
    (3, [1, 1])
    """

    def __init__(
        self,
        samples: int,
        partitions: int,
        batch_size: int,
        seed: int,
        mode: SamplingMode = "placed",
        drop_last: bool = False,
    ) -> None:
        if mode not in ("placed", "global"):
            raise ValueError(f'sampling={mode!r} must be "placed" or "global"')
        if partitions < 1:
            raise ValueError(f"partitions={partitions} must be at least 1")
        if batch_size < partitions:
            raise ValueError(
                f"batch_size={batch_size} cannot be split over partitions={partitions}: give every partition at "
                f"least one sample with batch_size >= {partitions}, or use fewer partitions"
            )
        if samples < partitions:
            raise ValueError(
                f"a dataset of {samples} samples cannot be split over partitions={partitions}: "
                f"use at most {samples} partitions"
            )
        self.samples, self.partitions, self.batch_size = samples, partitions, batch_size
        self.seed, self.mode, self.drop_last = seed, mode, drop_last
        share = np.full(partitions, batch_size // partitions)
        share[: batch_size % partitions] += 1
        self._share: Indices = share
        # Shards in proportion to what they contribute, so that all of them last equally long.
        cuts = np.concatenate(([0], np.cumsum(share)))
        self._bounds = np.rint(samples * cuts / batch_size).astype(np.int64)
        self._shards = np.diff(self._bounds)
        self._orders: dict[int, dict[int, Indices]] = {}  # epoch -> partition -> order
        if mode == "global":
            self.iterations = samples // batch_size if drop_last else -(-samples // batch_size)
        elif drop_last:
            self.iterations = int((self._shards // share).min())
        else:
            self.iterations = int((-(-self._shards // share)).max())
        if self.iterations == 0:
            raise ValueError(
                f"batch_size={batch_size} leaves no whole iteration in a dataset of {samples} samples with "
                f"drop_last=True: use a smaller batch or drop_last=False"
            )

    def epoch(self, number: int) -> tuple[int, int]:
        """(epoch, iteration within it) of iteration ``number``, counted from 0."""
        return divmod(number, self.iterations)

    def sizes(self, number: int) -> Indices:
        """Samples n_j of every partition in iteration ``number``, shape (K,); 0 at a shard's end."""
        within = self.epoch(number)[1]
        if self.mode == "global":
            size = min(self.batch_size, self.samples - within * self.batch_size)
            return np.diff(self._cuts(size))
        left: Indices = np.clip(self._shards - within * self._share, 0, self._share)
        return left

    def indices(self, number: int, partition: int) -> Indices:
        """Dataset indices of the samples of ``partition`` in iteration ``number``, shape (n_j,)."""
        epoch, within = self.epoch(number)
        if self.mode == "global":
            begin = within * self.batch_size
            cuts = self._cuts(min(self.batch_size, self.samples - begin))
            order = self._order(epoch, -1)
            return order[begin + cuts[partition] : begin + cuts[partition + 1]]
        share = self._share[partition]
        return self._order(epoch, partition)[within * share : (within + 1) * share]

    def shard(self, partition: int) -> Indices:
        """Dataset indices that ``partition`` owns (``"placed"``), sorted."""
        if self.mode == "global":
            return np.arange(self.samples)
        start, stop = self._bounds[partition : partition + 2]
        return np.sort(_shuffled(self.seed, self.samples)[start:stop])

    def _order(self, epoch: int, partition: int) -> Indices:
        """The order of one shard in one epoch, kept for two epochs; partition −1 is the whole dataset."""
        if epoch not in self._orders:
            # Gradients of the epoch before are asked for now and then.
            self._orders = {known: orders for known, orders in self._orders.items() if known == max(self._orders)}
            self._orders[epoch] = {}
        orders = self._orders[epoch]
        if partition not in orders:
            shard = np.arange(self.samples)
            if partition >= 0:
                start, stop = self._bounds[partition : partition + 2]
                shard = _shuffled(self.seed, self.samples)[start:stop]
            rng = np.random.default_rng([self.seed & _MASK, 1, epoch, partition + 1])
            orders[partition] = rng.permutation(shard)
        return orders[partition]

    def _cuts(self, size: int) -> Indices:
        cuts: Indices = np.rint(size * np.concatenate(([0], np.cumsum(self._share))) / self.batch_size).astype(np.int64)
        return cuts


@lru_cache(maxsize=2)
def _shuffled(seed: int, samples: int) -> Indices:
    """The dataset in the order in which it is cut into shards."""
    return np.random.default_rng([seed & _MASK, 0]).permutation(samples)
