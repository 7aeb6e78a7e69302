"""Where do few bits win? Encoding, sending and decoding against sending float32, on the local cluster.

    python benchmarks/sending.py [--workers 4] [--pairs 7] [--json FILE]

An iteration of uncoded training whose gradient is one pass over the parameters, so that what is left is what a message
costs: parameters to the workers, messages made, sent and added up. With messages of float32 and with compressed ones it
takes turns, block by block; reported is the median of the ratio compressed / float32, pair by pair, and its range.

Without a link, messages lie in shared memory, which is sending at the speed of memory. With a link, each worker has one
of its own, and a message waits for as long as its bytes take. *Wins below* is the speed of a link at which both take
the same time, from the measured difference without a link and the bytes that are saved.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradcode
from clusters import Half
from gradcode import delays, schemes
from gradcode.compression import Compressor, GroupedSign, OneBit
from gradcode.protocol import Floats, Scheme

LENGTHS = (10**5, 10**6, 10**7)
LINKS = {"none": float("inf"), "10 Gbit/s": 1.25e9, "1 Gbit/s": 1.25e8, "100 Mbit/s": 1.25e7}
COMPRESSORS: tuple[Compressor, ...] = (OneBit("linf"), GroupedSign(64))


def cluster(workers: int, bandwidth: float) -> gradcode.LocalCluster:
    link = delays.Delays(delays.Deterministic(0.0), delays.Link(bandwidth=bandwidth))
    return gradcode.LocalCluster(workers, None if bandwidth == float("inf") else link)


def seconds(session: gradcode.Session, iterations: int) -> float:
    """Of one iteration, on the wall, the median of so many."""
    times = []
    for _ in range(iterations):
        (step,) = session.epoch()
        begin = time.perf_counter()
        step.backward()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def measure(workers: int, length: int, bandwidth: float, compressor: Compressor, pairs: int) -> Floats:
    """(pairs, 2) seconds per iteration: float32, compressed."""
    both: Sequence[Scheme] = (
        schemes.uncoded(workers),
        schemes.compressed(schemes.uncoded(workers), compressor),
    )
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(gradcode.Session.of(Half(length, workers), scheme, cluster(workers, bandwidth)))
            for scheme in both
        ]
        for session in sessions:
            seconds(session, 3)
        iterations = max(3, 10**7 // length // 4) if length * 4 / bandwidth < 0.1 else 3
        return np.array([[seconds(session, min(iterations, 25)) for session in sessions] for _ in range(pairs)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    print("| compressor | coordinates | " + " | ".join(f"link: {link}" for link in LINKS) + " | wins below |")
    print("|---|---|" + "---|" * (len(LINKS) + 1))
    for compressor in COMPRESSORS:
        for length in LENGTHS:
            cells = []
            for link, bandwidth in LINKS.items():
                times = measure(asked.workers, length, bandwidth, compressor, asked.pairs)
                ratios = times[:, 1] / times[:, 0]
                cells.append(f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")
                results.append({"compressor": repr(compressor), "length": length, "link": link, "seconds": times})
                if bandwidth == float("inf"):
                    extra = float(np.median(times[:, 1] - times[:, 0]))
            saved = 4 * length - compressor.size(length, 4)
            even = f"{8 * saved / extra / 1e9:.1f} Gbit/s" if extra > 0 else "any link"
            print(f"| `{compressor!r}` | {length:.0e} | " + " | ".join(cells) + f" | {even} |", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(results, default=np.ndarray.tolist, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
