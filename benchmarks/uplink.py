"""The fair uplink's own time: 1,000 workers and 10,000 slots, against drawing what the slots bring.

    python benchmarks/uplink.py [--workers 1000] [--slots 10000] [--rounds 3]

One thread. Both sides take turns in one run; reported are medians, and the median and range of the ratios.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from gradcode.network import BestChannel, FairUplink, Radio, Slot

CHUNK = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    radio = Radio(given.workers, channels=given.workers // 4)
    battery = FairUplink(radio).energy_bound
    controllers = {
        "fair": lambda: FairUplink(radio),
        "fair, bandwidth shared": lambda: FairUplink(radio, sharing=True),
        "best channel": lambda: BestChannel(radio, battery),
    }
    print(f"{given.workers} workers, {given.slots} slots, {radio.channels} channels")
    print("| controller | seconds | seconds of drawing | ratio | range |")
    print("|---|---|---|---|---|")
    for name, build in controllers.items():
        taken = np.array([measure(build(), given.slots, seed) for seed in range(given.rounds)])
        ratios = taken[:, 1] / taken[:, 0]
        drawing, deciding = np.median(taken, axis=0)
        print(
            f"| {name} | {deciding:.2f} | {drawing:.2f} | {np.median(ratios):.2f} | "
            f"{ratios.min():.2f} – {ratios.max():.2f} |"
        )


def measure(controller: FairUplink | BestChannel, slots: int, seed: int) -> tuple[float, float]:
    """Seconds of drawing the slots, and of the controller's steps."""
    rng, radio = np.random.default_rng(seed), controller.radio
    drawing = deciding = 0.0
    for first in range(0, slots, CHUNK):
        shape = (min(CHUNK, slots - first), radio.workers)
        start = time.perf_counter()
        offered = rng.random(shape) * radio.offer_max
        gains = radio.channel.sample(rng, shape)
        harvest = rng.random(shape) * radio.harvest_max
        drawn = time.perf_counter()
        for slot in map(Slot, offered, gains, harvest):
            controller.step(slot)
        drawing, deciding = drawing + drawn - start, deciding + time.perf_counter() - drawn
    return drawing, deciding


if __name__ == "__main__":
    main()
