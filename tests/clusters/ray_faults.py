"""Twelve faulty inputs and states of the Ray cluster, and what becomes of each.

A process knows one Ray, and is asked for what it leaves behind: so test_ray_faults.py runs the functions ``joining``,
``training``, ``filling`` and ``interrupted``, each in a process of its own, and judges what they return.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import gradcode
from clusters.zoo import cnn, images
from gradcode import codes, schemes
from gradcode.errors import GradcodeError, GradcodeWarning
from gradcode.training import LeastSquares

MARK = "GRADCODE_TEST_MARK"
DEAD = "127.0.0.1:1"  # nobody listens at the first of all ports


def marked(mark: str) -> dict[int, str]:
    """The processes, and their command lines, that have inherited ``mark``; a zombie has none."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def settled(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it is so, within these seconds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def actors() -> list[str]:
    """Actors that this process has, dead ones left out."""
    return [line for line in marked(os.environ[MARK]).values() if "Actor" in line and "IDLE" not in line]


class Seen:
    """What became of each case: its error, its warnings, and whether actors were left."""

    def __init__(self) -> None:
        self.cases: dict[str, dict[str, Any]] = {}

    @contextmanager
    def case(self, name: str) -> Iterator[dict[str, Any]]:
        told: dict[str, Any] = {}
        began = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield told
            except GradcodeError as error:
                told["kind"], told["error"] = type(error).__name__, str(error)
        told["seconds"] = time.monotonic() - began
        told["warnings"] = [str(warning.message) for warning in caught if warning.category is GradcodeWarning]
        settled(lambda: not actors(), 20)
        told["left"] = actors()
        self.cases[name] = told


def session(cluster: Any, dataset: Any = None, model: nn.Module | None = None, scheme: Any = None) -> gradcode.Session:
    scheme = scheme or schemes.uncoded(cluster.workers)
    return gradcode.Session(model or cnn(), nn.CrossEntropyLoss(), dataset or images(), 48, scheme, cluster)


def joining() -> dict[str, Any]:
    """Addresses, versions, and resources that no node has."""
    import pytest
    import ray
    from ray.cluster_utils import Cluster

    seen = Seen()
    os.environ["RAY_ADDRESS"] = DEAD
    for name, address in {"dead": DEAD, "auto": "auto", "nameless": "no-such-host.invalid:6379", "odd": "6379"}.items():
        with seen.case(name):
            session(gradcode.RayCluster(2, address=address))
    del os.environ["RAY_ADDRESS"]
    with pytest.MonkeyPatch.context() as patch, seen.case("nothing runs"):
        patch.setattr(
            ray._private.services, "find_gcs_addresses", functools.cache(set)
        )  # that of another program may run here
        patch.setattr(ray._private.services, "find_bootstrap_address", lambda _: None)
        session(gradcode.RayCluster(2, address="auto"))
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    machines.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = machines.address
    with pytest.MonkeyPatch.context() as patch, seen.case("version"):
        patch.setattr(ray._private.utils, "compute_version_info", lambda: ("1.2.3", "3.4.5"))
        session(gradcode.RayCluster(2, address="auto"))
    with seen.case("too large"):
        session(gradcode.RayCluster(1, address="auto", resources={"num_cpus": 2}, start_timeout=1.0))
    with seen.case("too many"):
        session(gradcode.RayCluster(3, address="auto", start_timeout=1.0))
    machines.shutdown()
    return seen.cases


class Holding(TensorDataset):
    """Holds something else beside its tensors."""

    def __init__(self, held: Any) -> None:
        super().__init__(*images().tensors)
        self.held = held


class Stateless(TensorDataset):
    """Does not want to be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        raise RuntimeError("the samples stay in this room")


def only_here() -> Dataset[Any]:
    """A dataset whose module the workers cannot import, for it is in no file."""
    module = types.ModuleType("only_here")
    sys.modules["only_here"] = module
    source = "from torch.utils.data import TensorDataset\nclass Data(TensorDataset):\n    pass\n"
    exec(source, module.__dict__)
    dataset: Dataset[Any] = module.Data(*images().tensors)
    return dataset


def sending(seen: Seen) -> None:
    """What cannot be sent to the workers, or not be taken up there."""
    model = cnn()
    model.generator = (number for number in range(3))
    for name, dataset in {
        "lock": Holding(threading.Lock()),
        "generator": Holding(number for number in range(3)),
        "state": Stateless(*images().tensors),
        "module": only_here(),
    }.items():
        with seen.case(name):
            session(gradcode.RayCluster(2), dataset)
    with seen.case("model"):
        session(gradcode.RayCluster(2), model=model)


class Faulty(LeastSquares):
    """One worker sends NaN, another one number too few; from the iteration ``deadly`` on every worker dies."""

    def __init__(self, partitions: int, nan: int = -1, short: int = -1, deadly: int = 10**9) -> None:
        rng = np.random.default_rng(7)
        super().__init__(rng.normal(size=(24, 9)), rng.normal(size=24), partitions)
        self._nan, self._short, self._deadly, self._worker = nan, short, deadly, -1

    def bind(self, parameters: torch.Tensor, buffers: torch.Tensor, worker: int) -> None:
        super().bind(parameters, buffers, worker)
        self._worker = worker
        self._whole = torch.zeros(self.length, dtype=self.dtype)
        self.length -= worker == self._short

    def accumulate(self, number: int, partition: int, coefficient: float, out: torch.Tensor, first: bool) -> Any:
        if number >= self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._worker not in (self._nan, self._short):
            return super().accumulate(number, partition, coefficient, out, first)
        length, self.length = self.length, len(self._whole)
        statistics = super().accumulate(number, partition, coefficient, self._whole, first)
        self.length = length
        out.copy_(self._whole[:length])
        if self._worker == self._nan:
            out[3] = torch.nan
        return statistics


def answering(seen: Seen) -> None:
    """Replies that cannot be used."""
    with seen.case("tolerated") as told:
        objective, reports, errors = Faulty(6, nan=1, short=4), list[gradcode.Report](), list[float]()
        cluster = gradcode.RayCluster(6)
        scheme = schemes.coded(codes.fractional_repetition(6, 2))
        with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as opened:
            told["actors"] = len(actors())
            theta = opened.model.theta
            while len(cluster.alive()) > 4 and len(reports) < 1000:
                next(opened.epoch()).backward()
                wanted = objective.gradient(theta.data)
                errors.append(float((theta.grad - wanted).norm() / wanted.norm()))
                theta.data -= 0.1 * theta.grad
            told["alive"] = cluster.alive()
            next(opened.epoch()).backward()
        told["refused"] = [report.refused for report in reports]
        told["exact"] = all(report.exact for report in reports)
        told["worst"] = max(errors)
    for name, objective in {"NaN": Faulty(2, nan=1), "misshapen": Faulty(2, short=1)}.items():
        with seen.case(name), gradcode.Session.of(objective, schemes.uncoded(2), gradcode.RayCluster(2)) as opened:
            next(opened.epoch()).backward()


def losing(seen: Seen) -> None:
    """Each of two workers would do, and both die of every order but the first."""
    with seen.case("all lost"):
        cluster = gradcode.RayCluster(2, on_shortfall="raise", max_restarts=1)
        scheme = schemes.coded(codes.fractional_repetition(2, 1))
        with gradcode.Session.of(Faulty(2, deadly=1), scheme, cluster) as opened:
            for _ in range(3):
                next(opened.epoch()).backward()


def training() -> dict[str, Any]:
    """What goes wrong on a Ray of our own."""
    from gradcode.clusters.ray_connection import connection

    seen = Seen()
    os.environ["RAY_ADDRESS"] = DEAD  # which address=None does not look at
    with seen.case("runtime_env"):
        session(gradcode.RayCluster(1, runtime_env={"working_dir": "no/such/folder"}))
    with connection(None, cpus=6):
        with seen.case("too many GPUs"):
            session(gradcode.RayCluster(2, resources={"num_cpus": 0.5, "num_gpus": 256}))
        sending(seen)
        answering(seen)
        losing(seen)
    return seen.cases


def filling() -> dict[str, Any]:
    """A small object store, on a disk that is as good as full: Ray would go on there."""
    import ray

    seen = Seen()
    length, piece = 1_250_000, 625_000  # numbers of 8 bytes: parameters and a reply have 10 MB each, the store 80
    system = {"automatic_object_spilling_enabled": False, "local_fs_capacity_threshold": 0.0001}
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=1, object_store_memory=80_000_000, _system_config=system, **quiet)

    def until_full() -> list[Any]:
        pieces: list[Any] = []
        for _ in range(3):  # what was there before goes a little after its last reference
            with suppress(ray.exceptions.OutOfDiskError, ray.exceptions.ObjectStoreFullError):
                while True:
                    pieces.append(ray.put(np.ones(piece)))
            time.sleep(0.5)
        return pieces

    with seen.case("dataset"):
        data = np.ones((10, length))
        gradcode.Session.of(LeastSquares(data, data[:, 0], 1), schemes.uncoded(1), gradcode.RayCluster(1))
    for name, freed in {"parameters": 0, "reply": 3}.items():
        with seen.case(name):
            data = np.ones((1, length))
            objective = LeastSquares(data, data[:, 0], 1)
            with gradcode.Session.of(objective, schemes.uncoded(1), gradcode.RayCluster(1)) as opened:
                pieces = until_full()
                del pieces[1 : 1 + freed]
                time.sleep(0.5)
                try:
                    next(opened.epoch()).backward()
                finally:
                    pieces.clear()
        time.sleep(0.5)
    ray.shutdown()
    return seen.cases


def interrupted() -> None:
    """Trains until Ctrl-C, tells what is left, and trains again until it is killed."""
    seen = Seen()

    def train() -> None:
        cluster = gradcode.RayCluster(2, delays=gradcode.delays.Deterministic(0.05))
        with gradcode.Session.of(Faulty(2), schemes.uncoded(2), cluster) as opened:
            for number in range(10**6):
                next(opened.epoch()).backward()
                if number == 1:
                    print(json.dumps(cluster.pids), flush=True)

    with seen.case("Ctrl-C") as told:
        try:
            train()
        except KeyboardInterrupt:
            told["interrupted"] = True
    told["left"] = list(marked(os.environ[MARK]).values())  # Ray's own, too
    print(json.dumps(told), flush=True)
    train()
