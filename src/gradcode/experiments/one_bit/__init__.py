"""1-bit gradient coding and COCO-EF beside uncoded training and other compressors, on drawn linear regressions.

Sources: Li, Skoglund, "Distributed Learning based on 1-Bit Gradient Coding in the Presence of Stragglers", arXiv
2403.14716, and Li, Xiao, Skoglund, "Biased Compression in Gradient Coding for Distributed Learning", arXiv 2603.16353.
Of both the abstracts were read, which give no numbers. Every expected number is MEASURED in the project's one_bit.md
(13.2), apart from this code, on a few drawn problems that are not known.
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.curves import one_thread
from gradcode.experiments.one_bit import gaps, noise, sweeps
from gradcode.experiments.registry import Request, experiment


@experiment(
    "one_bit",
    summary="1-bit gradient coding and error feedback: gaps of all methods, against bits, redundancy and straggling",
    source="Li, Skoglund 2024 (arXiv 2403.14716); Li, Xiao, Skoglund 2026 (arXiv 2603.16353); expected numbers are "
    "this project's own (one_bit.md)",
)
def run(request: Request) -> Comparisons:
    """Writes into ``request.output``: comparison, gaps, ratios, sweeps, unbiasedness and ball as CSV and Markdown, gaps
    and sweeps as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    found = Comparisons()
    with one_thread():
        noise.unbiasedness(request, found)
        noise.ball(request, found)
        gaps.gaps(request, found)
        sweeps.sweeps(request, found)
    found.write(request.output / "comparison")
    return found
