"""Batched coupon's collector against uncoded training and codes for the worst case; and for uneven workers.

Source: Li, Mousavi Kalan, Avestimehr, Soltanolkotabi, "Near-Optimal Straggler Mitigation for Distributed Gradient
Methods", arXiv 1710.09990. Only its abstract could be read, which reports up to 85.4 % less run time on Amazon EC2; for
want of the paper's clusters that number cannot be compared. The schemes are RECONSTRUCTED; every expected number, the
settings and the constants are OURS (the project's bcc.md, section 7): closed forms, and draws made apart from this
code.
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.coupon.messages import messages
from gradcode.experiments.coupon.thresholds import subsets, thresholds
from gradcode.experiments.coupon.times import times
from gradcode.experiments.coupon.uneven import uneven
from gradcode.experiments.registry import Request, experiment


@experiment(
    "bcc",
    summary="batched coupon's collector: workers waited for, time with a cost per message, uneven workers",
    source="Li, Mousavi Kalan, Avestimehr, Soltanolkotabi 2018 (arXiv 1710.09990); expected numbers are OURS",
)
def run(request: Request) -> Comparisons:
    """Writes into ``request.output``: comparison, thresholds, subsets, times, messages, uneven and training as CSV and
    Markdown; thresholds, messages, uneven and training as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    from gradcode.experiments.coupon.training import training

    found = Comparisons()
    thresholds(request, found)
    subsets(request, found)
    times(request, found)
    messages(request, found)
    uneven(request, found)
    training(request, found)
    found.write(request.output / "comparison")
    return found
