"""What a compressor is: it turns a vector into fewer bytes, and bytes into a vector that is near it."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

FLOAT_BITS = 32  # of every number in a message, whatever the gradient's dtype


class Compressor(ABC):
    """Turns a vector x into bytes, and the bytes into C(x), which is x on average or at least in direction.

    A compressor has no state: it is immutable and picklable, and equal to one with the same arguments. What it leaves
    out may be remembered (:class:`~gradcode.compression.ErrorFeedback`). Vectors are on the CPU, of any floating dtype.
    """

    @property
    @abstractmethod
    def unbiased(self) -> bool:
        """Whether E C(x) = x for every x."""

    @property
    def clips(self) -> bool:
        """Whether coordinates beyond a bound are clipped to it."""
        return False

    def clipped(self, vector: Tensor) -> int:
        """How many coordinates of ``vector`` are."""
        return 0

    @abstractmethod
    def size(self, length: int, itemsize: int) -> int:
        """Bytes of the message of ``length`` coordinates of ``itemsize`` bytes, at most."""

    @abstractmethod
    def bits(self, length: int, itemsize: int) -> float:
        """Bits of that message that carry something: exact, or at most where messages differ in length.

        The message has so many, rounded up to whole bytes.
        """

    @abstractmethod
    def compress(self, vector: Tensor, out: Tensor, key: tuple[int, ...]) -> int:
        """Writes the message of ``vector`` (length,) into ``out``, and returns how many bytes it has.

        Args:
            vector: x; it is not changed.
            out: uint8, (size,).
            key: whatever is random is a function of it, (seed, iteration, worker), and of the coordinate, so that it
                does not depend on who comes first, or was started again.

        Raises:
            NonFiniteLoss: x is not finite, or leaves the range of float32.
        """

    @abstractmethod
    def add(self, payloads: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> None:
        """Adds Σ_i weights[i]·C_i to ``out``, where C_i is what payloads[i] says.

        Args:
            payloads: messages, uint8, each as long as its message.
            weights: as many.
            out: (length,), contiguous, float32 or float64.
        """

    def decompress(self, payload: Tensor, out: Tensor) -> None:
        """Overwrites ``out`` (length,), float32 or float64, with what the message ``payload`` says."""
        self.add([payload], [1.0], out.zero_())

    def error_factor(self, length: int) -> float | None:
        """δ < 1 with E‖C(x) − x‖² ≤ δ‖x‖² for every x of that length; None: there is none below 1.

        It is what error feedback needs. Rounding to float32 is left out of it.
        """
        return None

    def rounding(self, unit: float) -> float:
        """A bound on ‖C(x) − x‖ / ‖x‖ that holds for every x, where that is mere rounding; inf for what loses more.

        Args:
            unit: unit roundoff of the gradient's dtype.
        """
        return math.inf


C = TypeVar("C", bound=type[Compressor])

REGISTRY: dict[str, type[Compressor]] = {}
"""All compressors by name."""


def register(name: str) -> Callable[[C], C]:
    """Decorate a compressor: it can be had by its name, in a configuration for instance."""

    def enter(compressor: C) -> C:
        REGISTRY[name] = compressor
        return compressor

    return enter


def create(name: str, **parameters: Any) -> Compressor:
    """The compressor of that name; ValueError for an unknown name or bad arguments.

    >>> create("grouped_sign", group=128)
    GroupedSign(group=128)
    """
    if name not in REGISTRY:
        raise ValueError(f"name={name!r} must be one of the compressors {', '.join(sorted(REGISTRY))}")
    signature = inspect.signature(REGISTRY[name])
    try:
        signature.bind(**parameters)
    except TypeError as error:
        allowed = ", ".join(signature.parameters)
        raise ValueError(f"parameters={parameters!r} must suit {name}({allowed}): {error}") from None
    return REGISTRY[name](**parameters)
