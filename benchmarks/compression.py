"""Compressing, and adding up what was compressed, against reading a vector; and both against copying it.

    python benchmarks/compression.py [--pairs 9] [--length 1e7]

The unit t is the time in which the same run reads a float32 vector of that length once (``torch.sum``), on one thread.
Asked for at 1e7 coordinates: stochastic one-bit messages made in 4 t, signs in 1.5 t, eight messages decoded and added
up in 8 t. The second table has a message made and decoded against a copy of the vector, at three lengths: what a
message costs where no link is slow.

The sides take turns; reported are the median ratio, pair by pair, and its range. What is measured is the thread's
processor time, which other programs on the machine lengthen less than the clock's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from gradcode.compression import Compressor, GroupedSign, Half, OneBit

MESSAGES = 8
COMPRESSORS: tuple[Compressor, ...] = (
    OneBit("linf"),
    OneBit("l2"),
    OneBit("fixed", bound=8.0),
    GroupedSign(64),
    GroupedSign(20),
    Half("bfloat16"),
)


def seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def ratios(sides: Sequence[Callable[[], object]], pairs: int) -> np.ndarray:
    """(pairs, sides) seconds by those of the first side; all are called once before."""
    for side in sides:
        side()
    taken = np.array([[seconds(side) for side in sides] for _ in range(pairs)])
    return taken / taken[:, :1]


def spread(values: np.ndarray) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def messages(compressor: Compressor, vector: torch.Tensor) -> list[torch.Tensor]:
    made = [torch.zeros(compressor.size(len(vector), 4), dtype=torch.uint8) for _ in range(MESSAGES)]
    for number, out in enumerate(made):
        compressor.compress(vector, out, (0, 0, number))
    return made


def against_reading(length: int, pairs: int) -> None:
    vector, total = torch.randn(length), torch.zeros(length)
    reading = ratios([vector.sum, vector.sum], pairs)
    print(
        f"{length:.0e} coordinates; t is {seconds(vector.sum) * 1e3:.2f} ms, and by itself {spread(reading[:, 1])} t\n"
    )
    print("| compressor | a message, in t | adding up 8, in t |\n|---|---|---|")
    for compressor in COMPRESSORS:
        made = messages(compressor, vector)
        sides = (
            vector.sum,
            lambda: compressor.compress(vector, made[0], (0, 0, 0)),  # noqa: B023
            lambda: compressor.add(made, [1.0] * MESSAGES, total),  # noqa: B023
        )
        found = ratios(sides, pairs)
        print(f"| `{compressor!r}` | {spread(found[:, 1])} | {spread(found[:, 2])} |", flush=True)


def against_copying(pairs: int) -> None:
    print("\n| compressor | coordinates | made and decoded, by a copy | bytes, by float32 |\n|---|---|---|---|")
    for compressor in COMPRESSORS:
        for length in (10**5, 10**6, 10**7):
            vector, out = torch.randn(length), torch.zeros(length)
            made = torch.zeros(compressor.size(length, 4), dtype=torch.uint8)
            times = max(1, 10**6 // length)

            def copy() -> None:
                for _ in range(times):  # noqa: B023
                    out.copy_(vector)  # noqa: B023

            def there_and_back() -> None:
                for _ in range(times):  # noqa: B023
                    compressor.compress(vector, made, (0, 0, 0))  # noqa: B023
                    compressor.decompress(made, out)  # noqa: B023

            found = ratios((copy, there_and_back), pairs)
            share = compressor.size(length, 4) / (4 * length)
            print(f"| `{compressor!r}` | {length:.0e} | {spread(found[:, 1])} | {share:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--length", type=float, default=1e7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    against_reading(int(arguments.length), arguments.pairs)
    against_copying(arguments.pairs)


if __name__ == "__main__":
    main()
