"""The command line: ``gradcode train``, ``gradcode codes``.

Worker processes import the console script's main module, and with it this one: nothing heavy is imported here.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs ``gradcode``; ends with the process's exit status: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    if not sys.platform.startswith(("linux", "darwin")):
        sys.exit(f"error: gradcode runs on Linux and macOS, not on {sys.platform}")
    try:
        from gradcode.cli.app import app

        app()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
