"""Any scheme whose messages travel through a codec: fewer bits for the same orders.

Sources: Li and Skoglund 2024 (1-bit), Li, Xiao and Skoglund 2026 (COCO-EF: its abstract was read, the update is
RECONSTRUCTED, one_bit.md 10).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcode.compression import Compressor, Differences, ErrorFeedback, Plain
from gradcode.protocol import Abandon, Action, Floats, Iteration, Keep, Order, Reply, Scheme
from gradcode.schemes.block_coordinate import BlockCoordinate
from gradcode.schemes.decoding import unit_of
from gradcode.schemes.draco import Draco
from gradcode.schemes.fastest_blocks import FastestBlocks
from gradcode.schemes.lazy import Innovations
from gradcode.schemes.rows import RowScheme
from gradcode.schemes.self_scheduling import SelfScheduling
from gradcode.schemes.two_stage import TwoStage

if TYPE_CHECKING:
    from torch import Tensor


class Compressed:
    """Runs a scheme whose workers' messages are compressed; what it decodes is what was unpacked of them.

    A codec without memory goes with every scheme that uses a message once: with an unbiased compressor the gradient is
    right on average wherever the scheme's is, since it is a weighted sum of messages; its noise grows with the weights.

    With error feedback a worker adds to each message what earlier ones have lost. That is right only where a worker's
    message counts with a weight that does not depend on who else answers (``uncoded``, ``sgc``): then, with
    θ̃ = θ − γ·Σ_i w_i·e_i, plain SGD moves θ̃ as if nothing had been compressed (one_bit.md, eq. 10). A worker whose
    message is not used keeps its memory as it was. Memories are in units of the gradient; if γ·w_i has changed since,
    they are rescaled, so that they stay the same in units of the parameters. They are part of checkpoints. On Ray they
    lie with the worker: that of one which was lost begins again at 0, and what it had to make good is lost, γ·w_i·e_i.

    With differences a worker sends what its message has changed against what it remembers, and the master, which adds
    up the same, has the sum: (rows, L) more memory there.

    Args:
        scheme: without edge nodes and a codec of its own.
        codec: a compressor, or one with a memory.

    Raises:
        ValueError: they do not go together; says why.
    """

    def __init__(self, scheme: Scheme, codec: Compressor | Plain | ErrorFeedback | Differences) -> None:
        self.codec = Plain(codec) if isinstance(codec, Compressor) else codec
        _check(scheme, self.codec)
        self.scheme = scheme
        self.workers, self.partitions = scheme.workers, scheme.partitions
        memory = scheme.layout.rows if self.codec.remembers else 0
        # A worker that has forgotten what it ought to remember is given its order again, in a slot of the second half.
        self._slots = scheme.layout.slots
        slots = 2 * self._slots if memory else self._slots
        self.layout = replace(scheme.layout, codec=self.codec, memory=memory, slots=slots)
        self.error, self.exact = float("nan"), False
        self.done, self.deadline = scheme.done, scheme.deadline
        self._copies = [0] * memory  # which of a row's two memories counts; −1: neither
        self._open: dict[int, Order] = {}  # slot -> order, while it is not answered; of codecs that remember
        self._scales = np.full(memory, np.nan)  # γ·w_i with which a memory came about
        self._now: Floats = np.ones(memory)  # that of this iteration
        self._replies: list[Reply] = []
        self._unpacked: Tensor | None = None  # (rows, width)
        self._known: Tensor | None = None  # (rows, width) h, what workers remember of their differences

    def __repr__(self) -> str:
        return f"compressed({self.scheme!r}, {self.codec!r})"

    @property
    def awaits(self) -> int:
        """Replies that must still come at least; see :class:`gradcode.protocol.Scheme`."""
        return int(getattr(self.scheme, "awaits", 1))

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._replies, self._open = [], {}
        actions = self.scheme.start(iteration)
        if isinstance(self.codec, ErrorFeedback):
            rate = iteration.step.learning_rate
            weights = self.scheme.fixed_weights  # type: ignore[attr-defined]
            self._now = weights * (rate if rate > 0 else 1.0)
        return self._through(actions)

    def receive(self, reply: Reply) -> Sequence[Action]:
        if self._open.pop(reply.order.slot, None) and reply.order.slot >= self._slots:
            reply = replace(reply, order=replace(reply.order, slot=reply.order.slot - self._slots))
        if reply.payload is not None:
            self._replies.append(reply)
        return self._through(self.scheme.receive(reply))

    def lose(self, worker: int) -> Sequence[Action]:
        return self._through(self.scheme.lose(worker))

    def forget(self, worker: int) -> Sequence[Action]:
        """The worker was started again and does not know its memory: that begins with zeros, at once."""
        lost = [order for order in self._open.values() if order.worker == worker]
        self._open = {slot: order for slot, order in self._open.items() if order.worker != worker}
        if any(order.slot >= self._slots for order in lost) or not lost:
            return self._through(self.scheme.lose(worker))
        for order in lost:
            self._copies[order.row], self._scales[order.row] = -1, np.nan
            if self._known is not None:
                self._known[order.row].zero_()
        return [self._coded(order, self._slots) for order in lost]

    def expire(self) -> Sequence[Action]:
        return self._through(self.scheme.expire())

    def _through(self, actions: Iterable[Action]) -> list[Action]:
        """The actions with the codec in their orders; what is kept is what was unpacked, which no worker has."""
        self.done, self.deadline = self.scheme.done, self.scheme.deadline
        changed: list[Action] = []
        for action in actions:
            if isinstance(action, Order):
                changed.append(self._coded(action))
            elif isinstance(action, Keep):
                changed.append(replace(action, origin=None))
            elif isinstance(action, Abandon):
                again = {slot - self._slots for slot in self._open if slot >= self._slots}
                slots = tuple(slot + self._slots * (slot in again) for slot in action.slots)
                self._open = {slot: order for slot, order in self._open.items() if slot not in slots}
                changed.append(Abandon(slots))
            else:
                changed.append(action)
        return changed

    def _coded(self, order: Order, later: int = 0) -> Order:
        if order.hold:
            return order
        if not self.codec.remembers:
            return replace(order, codec=self.codec)
        codec, before = self.codec, self._scales[order.row]
        if isinstance(codec, ErrorFeedback) and not np.isnan(before):
            codec = replace(codec, ratio=float(before / self._now[order.row]))
        coded = replace(order, codec=codec, memory=self._copies[order.row], slot=order.slot + later)
        self._open[coded.slot] = coded
        return coded

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        together = isinstance(self.scheme, RowScheme) and not self.layout.packed and self.layout.fold == 1
        if together and not isinstance(self.codec, Differences):
            self._add(out)
        else:
            self._unpack(out)
        self.exact = False
        # What a compressor loses is not known to the master; what only rounds is.
        self.error = self.scheme.error + self.codec.compressor.rounding(unit_of(out))
        for reply in self._replies if self.codec.remembers else ():
            row = reply.order.row
            self._copies[row] = int(self._copies[row] == 0)
            if isinstance(self.codec, ErrorFeedback):
                self._scales[row] = self._now[row]

    def _add(self, out: Tensor) -> None:
        """Adds up straight from the packed rows."""
        assert isinstance(self.scheme, RowScheme)
        used = {reply.order.worker: reply for reply in self._replies}
        weights = self.scheme.finish()
        chosen = [worker for worker in sorted(used) if weights[worker]]
        payloads = [_payload(used[worker]) for worker in chosen]
        out.zero_()
        self.codec.compressor.add(payloads, [float(weights[worker]) for worker in chosen], out)

    def _unpack(self, out: Tensor) -> None:
        """Unpacks what has arrived, and leaves the rest to the scheme."""
        width = self.layout.width(out.shape[0])
        if self._unpacked is None:
            self._unpacked = out.new_empty(self.layout.rows, width)
        if self._known is None and isinstance(self.codec, Differences):
            self._known = out.new_zeros(self.layout.rows, width)
        for reply in self._replies:
            row = reply.order.row
            unpacked = self._unpacked[row]
            self.codec.compressor.decompress(_payload(reply), unpacked)
            if self._known is not None and isinstance(self.codec, Differences):
                known = self._known[row]
                unpacked += known
                self.codec.compressor.add([_payload(reply)], [self.codec.rate], known)  # as the worker does
        self.scheme.gradient(self._unpacked, out)

    # Beyond an iteration

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """That of the scheme; how long its shorter messages take is in ``communicate``."""
        return self.scheme.duration(compute, communicate)

    def state_dict(self) -> dict[str, Any]:
        return {
            "scheme": self.scheme.state_dict(),
            "copies": list(self._copies),
            "scales": self._scales.tolist(),
            "known": None if self._known is None else self._known.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state.get("copies", ())) != len(self._copies):
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self.scheme.load_state_dict(state["scheme"])
        self._copies = list(state["copies"])
        self._scales = np.array(state["scales"], dtype=np.float64)
        self._known = None if state["known"] is None else state["known"].clone()


def compressed(scheme: Scheme, codec: Compressor | Plain | ErrorFeedback | Differences) -> Compressed:
    """The scheme with its messages compressed; see :class:`Compressed`.

    Raises:
        ValueError: they do not go together; says why.
    """
    return Compressed(scheme, codec)


def _payload(reply: Reply) -> Tensor:
    assert reply.payload is not None
    return reply.payload


def _check(scheme: Scheme, codec: Plain | ErrorFeedback | Differences) -> None:
    """Whether a scheme's messages can go through a codec.

    Raises:
        ValueError: they cannot; says why.
    """
    if any(scheme.inner):
        raise ValueError(
            f"{scheme!r} cannot be compressed: it has edge nodes, which add up what their workers send before anybody "
            f"could unpack it"
        )
    if scheme.layout.codec is not None:
        raise ValueError(f"{scheme!r} has a codec already: compress the scheme inside of it")
    if isinstance(scheme, BlockCoordinate | FastestBlocks):
        raise ValueError(
            f"{scheme!r} cannot be compressed: its messages are blocks of coordinates that share a row, and what each "
            f"takes when compressed does not add up to what the row does"
        )
    if isinstance(scheme, Draco):
        raise ValueError(
            f"{scheme!r} cannot be compressed: it compares replies as numbers when they come, still packed"
        )
    if isinstance(scheme, Innovations):
        raise ValueError(
            f"{scheme!r} cannot be compressed: it adds up changes, and what a codec loses of one would stay in all "
            f"later gradients; lag and glag, whose messages replace earlier ones, can"
        )
    by_partition = isinstance(scheme, TwoStage) and scheme.granularity == "partition"
    if (isinstance(scheme, SelfScheduling) or by_partition) and codec.remembers:
        raise ValueError(
            f"{scheme!r} does not go with {codec!r}: what is in a worker's sum is never the same, and a sum may be "
            f"superseded; wrap a codec without memory in gradcode.compression.Plain"
        )
    if isinstance(codec, ErrorFeedback) and getattr(scheme, "fixed_weights", None) is None:
        raise ValueError(
            f"{scheme!r} does not go with {codec!r}: what a worker remembers is made good only where its messages "
            f"always count alike, whoever else answers, as in schemes.uncoded and schemes.sgc"
        )
