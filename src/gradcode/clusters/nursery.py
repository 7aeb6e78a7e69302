"""Where worker processes are forked: Python's fork server, with torch loaded once for all of them.

The server leaves the terminal's session (see ``in_fork_server``), so that Ctrl-C reaches the master alone and nobody
else prints a traceback.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

from gradcode.errors import PlatformError

_users = 0


def context() -> ForkServerContext:
    """The context in which workers are made.

    Raises:
        PlatformError: there is no fork server here (Windows).
    """
    if "forkserver" not in mp.get_all_start_methods():
        raise PlatformError(
            f"worker processes need a fork server, which {sys.platform} does not have; gradcode runs on Linux and "
            f"macOS, and SimulatedCluster everywhere"
        )
    made = mp.get_context("forkserver")
    made.set_forkserver_preload(["gradcode.clusters.in_fork_server"])
    return made


@contextmanager
def open_server() -> Iterator[ForkServerContext]:
    """Keeps the fork server alive while in use, and ends it with its last user: no process is left behind.

    A server that was running before the first user is left alone.
    """
    global _users
    made = context()
    ours = _users > 0 or not _running()
    _users += 1
    try:
        yield made
    finally:
        _users -= 1
        if ours and not _users:
            _stop()


def _running() -> bool:
    return getattr(forkserver._forkserver, "_forkserver_pid", None) is not None


def _stop() -> None:
    """Ends the fork server and the resource tracker that came with it; both start again when needed."""
    for server in (forkserver._forkserver, resource_tracker._resource_tracker):
        stop = getattr(server, "_stop", None)
        if stop is not None:
            stop()


def leave_terminal() -> None:
    """Gives the fork server and its children a session of their own."""
    if os.getpid() != os.getsid(0):
        os.setsid()
