"""The local cluster under attack: real processes, real signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters.zoo import cnn, decoded, images, plain_gradients, relative_error
from gradcode import codes, schemes
from gradcode.clusters.arena import Arena, Region, pack, unpack
from gradcode.delays import DelayTable
from gradcode.errors import GradcodeError, GradcodeWarning, Shortfall, WorkerError
from gradcode.training.sampling import Sampling

WORKERS, SEED, BATCH = 8, 9, 48
TESTS = Path(__file__).parent.parent
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


@contextmanager
def session(
    scheme: Any, loss_fn: Any = None, **options: Any
) -> Iterator[tuple[gradcode.Session, gradcode.LocalCluster, list[gradcode.Report]]]:
    reports: list[gradcode.Report] = []
    cluster = gradcode.LocalCluster(scheme.workers, **options)
    with gradcode.Session(
        cnn(),
        loss_fn or nn.CrossEntropyLoss(),
        images(),
        BATCH,
        scheme,
        cluster,
        SEED,
        listeners=[reports.append],
    ) as opened:
        yield opened, cluster, reports


def endless(opened: gradcode.Session) -> Iterator[gradcode.Step]:
    while True:
        yield from opened.epoch()


def check_plain(opened: gradcode.Session, number: int) -> None:
    """The gradient just decoded is the plain one at the present parameters."""
    reference = cnn()
    reference.load_state_dict(opened.model.state_dict())
    sampling = Sampling(len(images()), opened.scheme.partitions, BATCH, SEED)
    wanted = plain_gradients(reference, images(), sampling, number)
    assert relative_error(decoded(opened.model), wanted) < 1e-6


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"timed out: {what}"
        time.sleep(0.02)


@needs_proc
def test_training_goes_on_under_kills_and_stops() -> None:
    """Somebody sends SIGKILL, SIGSTOP and SIGCONT to random workers all the time; every gradient is exact."""
    rng = np.random.default_rng(1)
    over = threading.Event()
    sent = {signal.SIGKILL: 0, signal.SIGSTOP: 0}
    scheme = schemes.coded(codes.fractional_repetition(WORKERS, 3))
    with session(scheme) as (opened, cluster, reports):

        def attack() -> None:
            stopped: list[int] = []
            while not over.wait(float(rng.uniform(0.02, 0.12))):
                pid = cluster.pids[int(rng.integers(WORKERS))]
                kind = signal.SIGSTOP if rng.random() < 0.5 and len(stopped) < 2 else signal.SIGKILL
                if len(stopped) == 2:
                    kind = signal.SIGKILL
                    released = stopped.pop(0)
                    with suppress(ProcessLookupError):  # it may have gone before
                        os.kill(released, signal.SIGCONT)
                if pid is not None:
                    with suppress(ProcessLookupError):  # it may have gone before
                        os.kill(pid, kind)
                        sent[kind] += 1
                        if kind == signal.SIGSTOP:
                            stopped.append(pid)
            for pid in stopped:
                with suppress(ProcessLookupError):  # it may have gone before
                    os.kill(pid, signal.SIGCONT)

        attacker = threading.Thread(target=attack)
        attacker.start()
        try:
            optimizer = torch.optim.SGD(opened.model.parameters(), lr=0.05)
            for number, step in zip(range(200), endless(opened), strict=False):
                step.backward()
                if number % 4 == 0:
                    check_plain(opened, number)
                optimizer.step()
        finally:
            over.set()
            attacker.join()
        pids = [pid for pid in cluster.pids if pid is not None]
    assert len(reports) == 200
    assert all(report.exact for report in reports)
    assert min(sent.values()) >= 3
    wait_until(lambda: not any(map(alive, pids)), "workers end with the session")


def test_a_stopped_worker_does_not_hold_up_the_master_and_comes_back() -> None:
    scheme = schemes.coded(codes.fractional_repetition(WORKERS, 1))
    with session(scheme) as (opened, cluster, reports):
        steps = endless(opened)
        next(steps).backward()
        os.kill(cluster.pids[3], signal.SIGSTOP)
        for _ in range(30):
            step = next(steps)
            step.backward()
            check_plain(opened, step.number)
            assert 3 in reports[-1].stragglers
        # At most two messages lie unread in its pipe, whatever was sent meanwhile.
        assert cluster._hands[3].unread <= 2
        os.kill(cluster.pids[3], signal.SIGCONT)

        def answers() -> bool:
            step = next(steps)
            step.backward()
            check_plain(opened, step.number)
            return 3 not in reports[-1].stragglers

        wait_until(answers, "worker 3 takes part again")


@pytest.mark.serial
@needs_proc
def test_patience_turns_silence_into_a_loss() -> None:
    with session(schemes.uncoded(WORKERS), patience=0.5) as (opened, cluster, reports):
        steps = endless(opened)
        next(steps).backward()
        silent = cluster.pids[5]
        os.kill(silent, signal.SIGSTOP)
        step = next(steps)
        step.backward()
        check_plain(opened, step.number)
        assert reports[-1].lost == (5,)
        assert not alive(silent)


@pytest.mark.serial
@needs_proc
def test_patience_ends_also_where_iterations_are_shorter() -> None:
    """A coded run does not wait for a stopped worker, but its redundancy should come back."""
    scheme = schemes.coded(codes.fractional_repetition(4, 1))
    with session(scheme, patience=0.4) as (opened, cluster, reports):
        steps = endless(opened)
        next(steps).backward()
        silent = cluster.pids[2]
        os.kill(silent, signal.SIGSTOP)

        def replaced() -> bool:
            next(steps).backward()
            return cluster.pids[2] not in (None, silent)

        wait_until(replaced, "worker 2 is started again")
        assert not alive(silent)
        next(steps).backward()  # reports a death that was seen after the last one
        assert sum(2 in report.lost for report in reports) == 1


def test_deadlines_and_patience_may_be_infinite() -> None:
    scheme = schemes.coded(codes.fractional_repetition(4, 1), deadline=float("inf"))
    with session(scheme, patience=1e9) as (opened, _, reports):
        next(endless(opened)).backward()
    assert reports[0].exact


@needs_proc
def test_the_programs_own_shared_memory_stays(tmp_path: Path) -> None:
    """Python's resource tracker removes what it was told of when it ends, so it does not end with the cluster."""
    script = tmp_path / "shared.py"
    script.write_text(
        MASTER.format(tests=str(TESTS))
        .replace("range(10**6)", "range(1)")
        .replace(
            'if __name__ == "__main__":',
            'if __name__ == "__main__":\n    from multiprocessing.shared_memory import SharedMemory\n'
            "    own = SharedMemory(create=True, size=64)",
        )
        + "    time.sleep(0.3)\n    SharedMemory(own.name).close()\n    own.close()\n    own.unlink()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def slow_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Takes a while, a different one in each process and call: work is really in flight when an iteration ends."""
    time.sleep((time.monotonic_ns() // 1000 + 7919 * os.getpid()) % 20_000 / 1e6)
    return nn.functional.cross_entropy(outputs, targets)


def test_late_workers_never_mix_iterations() -> None:
    """Parameters change under workers that still compute; what they send is never taken for the new iteration's."""
    scheme = schemes.coded(codes.fractional_repetition(WORKERS, 3))
    with session(scheme, slow_loss) as (opened, _, reports):
        optimizer = torch.optim.SGD(opened.model.parameters(), lr=0.5)
        for _, step in zip(range(60), endless(opened), strict=False):
            step.backward()
            check_plain(opened, step.number)
            optimizer.step()
    assert sum(len(report.stragglers) for report in reports) > 60


def _is_worker(number: int) -> bool:
    return multiprocessing.current_process().name == f"gradcode-worker-{number}"


def raising_in_worker_two(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if _is_worker(2):
        raise RuntimeError("the dog ate the batch")
    return nn.functional.cross_entropy(outputs, targets)


def raising_everywhere(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("no batch tastes good")
    return nn.functional.cross_entropy(outputs, targets)


def test_a_worker_that_raises_is_a_straggler_and_shown_once() -> None:
    scheme = schemes.coded(codes.fractional_repetition(WORKERS, 3))
    with (
        session(scheme, raising_in_worker_two) as (opened, _, reports),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        for _, step in zip(range(40), endless(opened), strict=False):
            step.backward()
            check_plain(opened, step.number)
            assert 2 in reports[-1].stragglers
    (message,) = [str(warning.message) for warning in caught if warning.category is GradcodeWarning]
    assert "worker 2 raised" in message
    assert "the dog ate the batch" in message
    assert "raising_in_worker_two" in message  # the traceback


@pytest.mark.parametrize("on_shortfall", ["wait", "raise"])
def test_an_error_everywhere_ends_training_with_its_traceback(on_shortfall: Any) -> None:
    scheme = schemes.coded(codes.fractional_repetition(WORKERS, 3))
    with (
        session(scheme, raising_everywhere, on_shortfall=on_shortfall) as (opened, _, _),
        pytest.raises(WorkerError, match=r"(?s)worker \d raised in iteration 0.*no batch tastes good"),
    ):
        next(endless(opened)).backward()


def dying_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if _is_worker(0) or _is_worker(1):
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.functional.cross_entropy(outputs, targets)


def test_workers_that_die_again_and_again_are_given_up() -> None:
    """Two workers die of every order: "raise" says so, "approximate" goes on without them."""
    code = codes.cyclic_repetition(WORKERS, 1)
    with (
        session(schemes.coded(code), dying_loss, on_shortfall="raise") as (opened, _, _),
        pytest.raises(Shortfall, match=r"iteration 0 cannot be finished: only workers .* \[0, 1\] are lost"),
    ):
        next(endless(opened)).backward()
    with session(schemes.coded(code), dying_loss, on_shortfall="approximate") as (opened, cluster, reports):
        steps = endless(opened)
        for _ in range(3):
            next(steps).backward()
        assert cluster.alive() == (2, 3, 4, 5, 6, 7)
        assert not any(report.exact for report in reports)
        assert all(0.1 < report.decode_error < 2.0 for report in reports)


def test_wait_goes_on_starting_workers() -> None:
    """With "wait" a worker that died is started again for ever: killing it in every iteration loses none."""
    with session(schemes.uncoded(4), on_shortfall="wait") as (opened, cluster, _):
        steps = endless(opened)
        for _ in range(6):
            victim = cluster.pids[1]
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
            step = next(steps)
            step.backward()
            check_plain(opened, step.number)


def test_what_cannot_be_sent_is_refused_with_the_reason() -> None:
    with pytest.raises(GradcodeError, match=r"cannot be sent to worker processes.*top of a module"):
        gradcode.Session(
            cnn(),
            lambda outputs, targets: nn.functional.cross_entropy(outputs, targets),
            images(),
            BATCH,
            schemes.uncoded(2),
            gradcode.LocalCluster(2),
        )


def test_a_cluster_serves_one_session() -> None:
    with session(schemes.uncoded(2)) as (_, cluster, _), pytest.raises(GradcodeError, match="in use already"):
        gradcode.Session(cnn(), nn.CrossEntropyLoss(), images(), BATCH, schemes.uncoded(2), cluster)
    cluster.close()  # again: nothing happens


@needs_proc
def test_an_exception_in_the_loop_leaves_nothing() -> None:
    pids: list[int | None] = []
    with pytest.raises(ZeroDivisionError), session(schemes.uncoded(4)) as (opened, cluster, _):  # noqa: PT012
        pids += cluster.pids
        next(endless(opened)).backward()
        raise ZeroDivisionError
    assert len(pids) == 4
    assert not any(alive(pid) for pid in pids if pid is not None)
    assert all(parameter.isfinite().all() for parameter in opened.model.parameters())  # the model lives on


def test_parameters_are_read_where_they_lie() -> None:
    """No copy per iteration: a change of the master's parameters is what workers see."""
    with session(schemes.uncoded(4)) as (opened, cluster, _):
        first = next(opened.model.parameters())
        assert first.data_ptr() == cluster.parameters.data_ptr()
        steps = endless(opened)
        with torch.no_grad():
            for parameter in opened.model.parameters():
                parameter.mul_(0.5)
        step = next(steps)
        step.backward()
        check_plain(opened, step.number)


@pytest.mark.serial
def test_emulated_time_holds_and_abandoning_is_quick() -> None:
    """One worker takes a hundred times longer than needed: iterations take what the table says, not longer."""
    seconds = np.full((1, 4), 0.05)
    seconds[0, 1] = 5.0
    scheme = schemes.coded(codes.fractional_repetition(4, 1))
    with session(scheme, delays=DelayTable.from_array(seconds), delay_mode="emulate") as (opened, _, reports):
        for _, step in zip(range(10), endless(opened), strict=False):
            step.backward()
    assert all(report.order_statistic == 0.1 for report in reports)
    assert all(0.1 <= report.time < 2.0 for report in reports)
    assert all(1 in report.stragglers for report in reports)
    slow = [work for report in reports for work in report.work if work.worker == 1]
    assert len(slow) == 9  # it hears that its work is not wanted with the next iteration's orders
    assert all(work.kind == "abandon" and work.stop - work.start < 2.0 for work in slow)


# A master of its own, to be killed or interrupted

MASTER = """
import os, sys, time, torch
sys.path.insert(0, {tests!r})
import gradcode
from clusters.zoo import cnn, images
from gradcode import codes, schemes

if __name__ == "__main__":
    cluster = gradcode.LocalCluster(4, delays=gradcode.delays.Deterministic(0.01))
    with gradcode.Session(cnn(), torch.nn.CrossEntropyLoss(), images(), 32, schemes.coded(
        codes.fractional_repetition(4, 1)), cluster) as session:
        for number in range(10**6):
            for step in session.epoch():
                step.backward()
                if number == 0:
                    print("pids", *cluster.pids, flush=True)
"""


@pytest.fixture
def master(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "master.py"
    script.write_text(MASTER.format(tests=str(TESTS)))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


def descendants(pid: int) -> set[int]:
    """Every process below ``pid``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.add(child)
            queue.append(child)
    return found


def named_shared_memory(pids: set[int]) -> set[Path]:
    """Files in /dev/shm that these processes have mapped or open; other programs use it too."""
    found: set[Path] = set()
    for pid in pids:
        with suppress(FileNotFoundError, PermissionError):
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            found |= {Path(line.split()[-1]) for line in maps if "/dev/shm/" in line}
            found |= {
                link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if "/dev/shm/" in str(link.readlink())
            }
    return found


@needs_proc
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_master_that_ends(master: subprocess.Popen[str], how: signal.Signals) -> None:
    assert master.stdout is not None
    assert master.stderr is not None
    workers = [int(pid) for pid in master.stdout.readline().split()[1:]]
    assert len(workers) == 4
    below = descendants(master.pid)
    assert set(workers) <= below
    shared = named_shared_memory({master.pid, *below})
    os.kill(workers[0], signal.SIGSTOP)  # a stopped worker goes as well
    os.kill(master.pid, how)
    master.wait(timeout=20)
    wait_until(lambda: not any(map(alive, below)), f"all processes end after {how.name}")
    errors = master.stderr.read()
    if how == signal.SIGINT:
        assert errors.count("Traceback") == 1  # the master's own: no worker says anything
        assert "KeyboardInterrupt" in errors
    else:
        assert "Traceback" not in errors
    assert not [path for path in shared if path.exists()]


@needs_proc
def test_ctrl_c_twice_is_no_worse(master: subprocess.Popen[str]) -> None:
    """The second one comes while the cluster closes: it waits for that."""
    assert master.stdout is not None
    assert master.stderr is not None
    assert master.stdout.readline().startswith("pids")
    below = descendants(master.pid)
    for _ in range(3):
        with suppress(ProcessLookupError):
            os.kill(master.pid, signal.SIGINT)
        time.sleep(0.01)
    master.wait(timeout=20)
    wait_until(lambda: not any(map(alive, below)), "all processes end")
    errors = master.stderr.read()
    assert "KeyboardInterrupt" in errors
    assert "Exception ignored" not in errors
    assert "FileNotFoundError" not in errors


@needs_proc
def test_leaving_the_block_leaves_no_process(tmp_path: Path) -> None:
    """Not even Python's fork server: the last cluster takes it along."""
    script = tmp_path / "leave.py"
    script.write_text(
        MASTER.format(tests=str(TESTS)).replace("range(10**6)", "range(2)")
        + textwrap.dedent(
            """
            if __name__ == "__main__":
                from clusters.test_local import descendants
                time.sleep(0.2)
                print("left", sorted(descendants(os.getpid())), flush=True)
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "left []"
    assert done.stderr == ""


def test_a_script_without_its_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(MASTER.format(tests=str(TESTS)).replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr.rsplit("WorkerError", 1)[1]


def test_arena_and_parcel() -> None:
    regions = {"a": Region((3, 5), torch.float32), "none": Region((0,), torch.int64), "b": Region((2,), torch.int64)}
    arena = Arena(regions)
    other = Arena(regions, os.dup(arena.fd))
    arena["a"].fill_(2.5)
    other["b"][1] = 7
    assert other["a"].sum() == 37.5
    assert arena["b"].tolist() == [0, 7]
    value = {"tensor": torch.arange(6).view(2, 3), "array": np.arange(4.0), "model": cnn(), "empty": torch.empty(0, 2)}
    parcel = pack(value)
    found = unpack(parcel)
    os.close(parcel.fd)
    assert torch.equal(found["tensor"], value["tensor"])
    assert np.array_equal(found["array"], value["array"])
    assert found["empty"].shape == (0, 2)
    assert all(torch.equal(a, b) for a, b in zip(found["model"].parameters(), cnn().parameters(), strict=True))
    found["tensor"][0, 0] = 9  # private: writing is allowed and seen by nobody else
    assert value["tensor"][0, 0] == 0
    arena.close()
    other.close()
