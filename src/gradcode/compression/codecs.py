"""What an order carries: a compressor, and what is remembered of a gradient between iterations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradcode.compression.compressor import Compressor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Compressing:
    """A codec whose messages are those of its compressor."""

    compressor: Compressor

    def size(self, length: int, itemsize: int) -> int:
        """Bytes of a message, at most."""
        return self.compressor.size(length, itemsize)

    def clipped(self, vector: Tensor, memory: Tensor | None) -> int:
        """How many coordinates the compressor clips of what is compressed where ``vector`` is encoded."""
        return self.compressor.clipped(self._given(vector, memory)) if self.compressor.clips else 0

    def _given(self, vector: Tensor, memory: Tensor | None, out: Tensor | None = None) -> Tensor:
        """What the compressor is given: written into ``out`` (None: a new vector) if it is not ``vector`` itself."""
        return vector


@dataclass(frozen=True)
class Plain(_Compressing):
    """C(g) is sent and nothing is remembered.

    Args:
        compressor: C.
    """

    remembers: ClassVar[bool] = False

    def encode(
        self, vector: Tensor, out: Tensor, memory: Tensor | None, remembered: Tensor | None, key: tuple[int, ...]
    ) -> int:
        """Writes the message of C(g); its bytes."""
        return self.compressor.compress(vector, out, key)


@dataclass(frozen=True)
class ErrorFeedback(_Compressing):
    """What was left out is added to the next gradient: a = g + ratio·e, c = C(a) is sent, e ← a − c is remembered.

    The memory e is in units of the gradient. With ratio = γ_{t−1}/γ_t, the last step size over this one, and a
    compressor that scales with its argument, γ_t·c is the message of one_bit.md (9), which keeps γ·e instead.

    Args:
        compressor: C; with δ < 1 (:meth:`Compressor.error_factor`) the memory stays bounded.
        ratio: of step sizes; 1: the step size is constant.

    >>> from gradcode.compression import GroupedSign
    >>> import dataclasses
    >>> dataclasses.replace(ErrorFeedback(GroupedSign(64)), ratio=0.5)
    ErrorFeedback(compressor=GroupedSign(group=64), ratio=0.5)
    """

    ratio: float = 1.0

    remembers: ClassVar[bool] = True

    def encode(
        self, vector: Tensor, out: Tensor, memory: Tensor | None, remembered: Tensor | None, key: tuple[int, ...]
    ) -> int:
        """Writes the message of C(a) and remembers a − C(a); its bytes."""
        assert memory is not None and remembered is not None
        whole = self._given(vector, memory, _wide(remembered))
        used = self.compressor.compress(whole, out, key)
        self.compressor.add([out[:used]], [-1.0], whole)
        _keep(whole, remembered)
        return used

    def _given(self, vector: Tensor, memory: Tensor | None, out: Tensor | None = None) -> Tensor:
        assert memory is not None
        whole = _wide(memory.new_empty(memory.shape)) if out is None else out
        return whole.copy_(vector).add_(memory, alpha=self.ratio)


@dataclass(frozen=True)
class Differences(_Compressing):
    """The gradient's difference to what is remembered is sent: C(g − h), and h ← h + rate·C(g − h).

    The master keeps the same h, for it adds up the same messages, and takes h + C(g − h) for the gradient: unbiased if
    C is, with an error that vanishes as gradients settle (the DIANA type of one_bit.md 9).

    Args:
        compressor: C.
        rate: in (0, 1]; 1/(1 + ω) where E‖C(x) − x‖² ≤ ω‖x‖² is safe.

    Raises:
        ValueError: the rate is not in (0, 1].
    """

    rate: float

    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate={self.rate} must be above 0 and at most 1: how much of a difference is taken over")

    def encode(
        self, vector: Tensor, out: Tensor, memory: Tensor | None, remembered: Tensor | None, key: tuple[int, ...]
    ) -> int:
        """Writes the message of C(g − h) and remembers h + rate·C(g − h); its bytes."""
        assert memory is not None and remembered is not None
        whole = self._given(vector, memory, _wide(remembered))
        used = self.compressor.compress(whole, out, key)
        whole.copy_(memory)
        self.compressor.add([out[:used]], [self.rate], whole)
        _keep(whole, remembered)
        return used

    def _given(self, vector: Tensor, memory: Tensor | None, out: Tensor | None = None) -> Tensor:
        assert memory is not None
        whole = _wide(memory.new_empty(memory.shape)) if out is None else out
        return whole.copy_(vector).sub_(memory)


def _wide(remembered: Tensor) -> Tensor:
    """Where to compute what is remembered: there itself, or in float32 if that is a half."""
    return remembered if remembered.itemsize >= 4 else remembered.float()


def _keep(whole: Tensor, remembered: Tensor) -> None:
    if whole is not remembered:
        remembered.copy_(whole)
