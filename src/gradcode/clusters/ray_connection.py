"""The program's connection to Ray: made by the first cluster that needs it, ended with the last.

A Ray that the program has connected to by itself is used as it is and left alone. Actors that have ended their work
for one cluster can be kept for the next one (see :func:`connection`): starting one takes seconds, for it loads torch.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from gradcode.errors import GradcodeError, GradcodeWarning

try:
    import ray as ray
except ImportError as error:
    raise GradcodeError("RayCluster needs Ray, which is not installed: pip install 'gradcode[ray]'") from error

Method = TypeVar("Method", bound=Callable[..., Any])
method: Callable[..., Callable[[Method], Method]] = ray.method  # which says nothing of its type

Options = tuple[tuple[str, Any], ...]
"""An actor's resources, placement and environment, in a form that can be compared."""

_ANSWER = 10.0  # seconds in which an actor that waits, or a Ray that is joined, says that it is there
_users = 0
_ours = False
_keepers = 0
_idle: dict[Options, list[Any]] = {}


@contextmanager
def connection(
    address: str | None, cpus: float = 1, runtime_env: Mapping[str, Any] | None = None, keep_actors: bool = False
) -> Iterator[bool]:
    """Keeps this program connected to Ray; yields whether the connection was made here.

    Args:
        address: None starts a Ray on this machine; ``"auto"`` or ``"host:port"`` joins a running one.
        cpus: that a Ray of our own offers to actors at least, however many the machine has.
        runtime_env: of all that runs by a connection that is made here.
        keep_actors: while this is open, actors of clusters that close wait for the next cluster of the same kind.

    Raises:
        GradcodeError: Ray cannot be reached, or refuses this program.
    """
    global _users, _ours, _keepers
    made = not ray.is_initialized()
    if made:
        _connect(address, cpus, runtime_env)
        _ours = True
    _users += 1
    _keepers += keep_actors
    try:
        yield made
    finally:
        _users -= 1
        _keepers -= keep_actors
        if not _keepers:
            for actors in _idle.values():
                for actor in actors:
                    ray.kill(actor)
            _idle.clear()
        if not _users and _ours:
            _ours = False
            ray.shutdown()


def kept_actor(options: Options) -> Any | None:
    """An actor that waits for work, if there is one of this kind."""
    waiting = _idle.get(options, [])
    while waiting:
        actor = waiting.pop()
        try:
            ray.get(actor.is_there.remote(), timeout=_ANSWER)
        except ray.exceptions.RayError:
            ray.kill(actor)
        else:
            return actor
    return None


def keep_actor(options: Options, actor: Any) -> bool:
    """Whether the actor, which has nothing to do, is kept for the next cluster."""
    if _keepers:
        _idle.setdefault(options, []).append(actor)
    return bool(_keepers)


def comparable(options: Mapping[str, Any]) -> Options:
    """Actor options as a key."""
    return tuple(sorted((key, repr(value)) for key, value in options.items()))


def why_not_sent(thing: object, error: BaseException) -> str:
    """Which attribute of ``thing`` cannot be pickled, and why; Ray's own text is long and does not name it."""
    for name, part in vars(thing).items():
        try:
            ray.cloudpickle.dumps(part)
        except Exception as reason:  # whatever a user's own __reduce__ or __getstate__ raises
            return f"{name} ({type(part).__name__}): {reason}"
    return str(error)


def _connect(address: str | None, cpus: float, runtime_env: Mapping[str, Any] | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if runtime_env:
        quiet["runtime_env"] = dict(runtime_env)
    if address is None:
        # A plain ray.init would join what an earlier Ray left of itself.
        offered = max(float(cpus), float(os.cpu_count() or 1))
        quiet |= {"num_cpus": offered, "include_dashboard": False}
    try:
        if address is not None:
            _knock(address)
        with _impatience(address):
            ray.init(address=address or "local", **quiet)
    except BaseException as error:
        with suppress(Exception):  # what is left of a connection that was refused
            ray.shutdown()
        reason = _reason(address, runtime_env, error)
        if reason is None:
            raise
        raise GradcodeError(reason) from error


def _knock(address: str) -> None:
    """Whether anybody listens there: Ray itself goes on trying for minutes, and cannot be told not to.

    Raises:
        OSError: nobody does.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:  # else Ray says what is wrong with it, or finds one by itself
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"nobody answers at {address}: {error}") from error


@contextmanager
def _impatience(address: str | None) -> Iterator[None]:
    """Says so when what was reached does not answer as Ray does: ``ray.init`` waits for it without a word."""
    text = (
        f"the Ray at address={address!r} has not answered for {_ANSWER:g} s. Give the address that `ray start --head` "
        f"shows (port 6379 by default; 8265 is the dashboard's, 10001 Ray Client's), and see that no firewall is "
        f'between; "auto" may have found what an earlier Ray left behind (`ray stop` removes it). Still waiting'
    )
    timer = threading.Timer(_ANSWER, warnings.warn, (text, GradcodeWarning))
    timer.daemon = True
    if address is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _reason(address: str | None, runtime_env: Mapping[str, Any] | None, error: BaseException) -> str | None:
    """What to say of a connection that failed; None: the error speaks for itself."""
    said = textwrap.shorten(re.sub(r"\x1b\[\d+m", "", str(error)), 600, placeholder=" ...").rstrip(".")
    where = "on this machine" if address is None else f"at address={address!r}"
    if runtime_env and isinstance(error, ValueError | TypeError) and "address" not in said:
        return f"Ray cannot make the workers' environment of runtime_env={dict(runtime_env)}: {said}"
    if isinstance(error, ConnectionError | ValueError | TimeoutError):
        return (
            f"no Ray cluster can be reached {where}: {said}. Start one with `ray start --head` there, join further "
            f'machines with `ray start --address=HOST:6379`, and give "auto" on one of them or "HOST:6379"; '
            f"address=None starts a Ray of its own on this machine"
        )
    if isinstance(error, RuntimeError):
        return (
            f"Ray {where} refuses this program: {said}. Every machine needs the same versions of Ray and Python as "
            f"this one (Ray {ray.__version__}, Python {platform.python_version()})"
        )
    if isinstance(error, ray.exceptions.RayError):
        return (
            f"Ray {where} refuses this program: {said}. If it asks for a token, give this machine the cluster's (see "
            f"Ray's `ray get-auth-token`)"
        )
    return None
