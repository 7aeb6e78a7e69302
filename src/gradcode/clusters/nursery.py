"""Where worker processes are forked: Python's fork server, with torch loaded once for all of them.

The server leaves the terminal's foreground group (see ``in_fork_server``), so that Ctrl-C reaches the master alone and
nobody else prints a traceback.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

from gradcode.errors import PlatformError

_server, _tracker = forkserver._forkserver, resource_tracker._resource_tracker
_REGISTERING = ("multiprocessing.shared_memory", "multiprocessing.synchronize")
_users = 0
_our_server = _our_tracker = False


def context(compressing: bool = False) -> ForkServerContext:
    """The context in which workers are made; ``compressing``: the server loads Numba's kernels for them, too.

    Raises:
        PlatformError: there is no fork server here (Windows).
    """
    if "forkserver" not in mp.get_all_start_methods():
        raise PlatformError(
            f"worker processes need a fork server, which {sys.platform} does not have; gradcode runs on Linux and "
            f"macOS, and SimulatedCluster everywhere"
        )
    made = mp.get_context("forkserver")
    others = [name for name in getattr(_server, "_preload_modules", []) if name != "__main__"]
    ours = ["gradcode.clusters.in_fork_server"] + ["gradcode.compression.loaded"] * compressing
    made.set_forkserver_preload(list(dict.fromkeys([*others, *ours])))
    return made


@contextmanager
def open_server(compressing: bool = False) -> Iterator[ForkServerContext]:
    """Keeps the fork server alive while in use, and ends it with its last user: no process is left behind.

    One that runs already stays as it is: workers then load what it has not.

    What was running before the first user is left alone. So is Python's resource tracker where the program may have
    told it of shared memory or semaphores, which it would remove as it ends; it then ends with the interpreter.
    """
    global _users, _our_server, _our_tracker
    made = context(compressing)
    if not _users:
        _our_server, _our_tracker = not _running(_server, "_forkserver_pid"), not _running(_tracker, "_fd")
    _users += 1
    try:
        yield made
    finally:
        _users -= 1
        if not _users and _our_server:
            _stop(_server)
            if _our_tracker and not any(module in sys.modules for module in _REGISTERING):
                _stop(_tracker)


def _running(process: object, sign: str) -> bool:
    return getattr(process, sign, None) is not None


def _stop(process: object) -> None:
    """Ends a process of multiprocessing's, which starts again when needed; Python's own tests do it so."""
    stop = getattr(process, "_stop", None)
    if stop is not None:
        with suppress(FileNotFoundError):  # at the interpreter's end the server's socket is gone already
            stop()


def leave_terminal() -> None:
    """Takes the fork server and its children out of the group that the terminal's Ctrl-C goes to.

    Not out of its session: the kernel would then share the cores between two sessions, and workers that are started
    would push the master aside however polite they are.
    """
    if os.getpid() != os.getpgrp():
        os.setpgrp()


@contextmanager
def ctrl_c_later() -> Iterator[None]:
    """Lets Ctrl-C wait for what is inside, which takes a moment: a second one must not leave half of it undone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
    if pressed:
        signal.raise_signal(signal.SIGINT)
