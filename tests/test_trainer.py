"""The trainer's loop, and that a resumed run has the numbers of an uninterrupted one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from gradcode import Session, SimulatedCluster, Trainer, codes, delays, schemes
from gradcode.errors import CheckpointError
from gradcode.trainer import EpochResult
from gradcode.training import checkpoint

EPOCHS, ITERATIONS = 3, 5


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(60, 1, 6, 6, generator=generator), torch.randint(3, (60,), generator=generator))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(48, 3)
    )


def accuracy(model: nn.Module) -> dict[str, float]:
    assert not model.training and not torch.is_grad_enabled()
    inputs, targets = dataset().tensors
    return {"accuracy": (model(inputs).argmax(1) == targets).double().mean(), "noise": float(torch.rand(()))}


class Run:
    """A whole training set up anew, as a new process would: Adam, StepLR, dropout, BatchNorm, random delays."""

    def __init__(self, path: Path | None = None, every: int | None = None, **options: Any) -> None:
        self.model = network()
        self.scheme = schemes.coded(codes.cyclic_repetition(4, 1))
        cluster = SimulatedCluster(4, delays=delays.Exponential(1.0))
        self.session = Session(self.model, cross_entropy, dataset(), 12, self.scheme, cluster, options.pop("seed", 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, gamma=0.5)
        self.trainer = Trainer(
            self.session,
            self.optimizer,
            scheduler=self.scheduler,
            evaluate=accuracy,
            checkpoint_path=path,
            checkpoint_every=every,
            **options,
        )

    def numbers(self) -> list[Tensor]:
        """Everything that must be equal bit for bit."""
        states = self.optimizer.state_dict()["state"].values()
        moments = [state[name] for state in states for name in ("step", "exp_avg", "exp_avg_sq")]
        return [*self.model.state_dict().values(), *moments, torch.get_rng_state()]


class Interrupt(Exception):  # noqa: N818
    pass


def interrupt_in(run: Run, iteration: int) -> None:
    """Ends the run while this iteration's report is made, before its step."""

    def listener(report: Any) -> None:
        if report.iteration == iteration:
            raise Interrupt

    run.session.listeners.append(listener)
    with pytest.raises(Interrupt):
        run.trainer.fit(EPOCHS)


@pytest.fixture(scope="module", params=["epoch", "iteration"])
def whole(request: pytest.FixtureRequest) -> tuple[str, Run, list[Tensor]]:
    torch.manual_seed(7)
    run = Run(scheduler_every=request.param)
    torch.manual_seed(7)
    run.trainer.fit(EPOCHS)
    return request.param, run, [tensor.clone() for tensor in run.numbers()]


# Interrupted in the middle, right after and right before a checkpoint, in the first, a middle and the last iteration.
@pytest.mark.parametrize(
    ("every", "iterations"),
    [(None, [5]), (None, [12]), (2, [3]), (2, [4]), (3, [11]), (5, [10]), (1, [14]), (1, [1, 5, 9]), (2, [2, 8, 13])],
)
def test_resumed_is_uninterrupted(
    tmp_path: Path, whole: tuple[str, Run, list[Tensor]], every: int | None, iterations: list[int]
) -> None:
    scheduler_every, reference, numbers = whole
    path = tmp_path / "run" / "checkpoint"
    torch.manual_seed(7)
    for count, iteration in enumerate(iterations):
        run = Run(path, every, scheduler_every=scheduler_every)
        if count:
            run.trainer.resume()
        else:
            torch.manual_seed(7)
        interrupt_in(run, iteration)
        torch.manual_seed(99)  # whatever the next process would find
    run = Run(path, every, scheduler_every=scheduler_every)
    run.trainer.resume()
    done = run.session.iteration
    assert done == iterations[-1] // (every or ITERATIONS) * (every or ITERATIONS)
    results = run.trainer.fit(EPOCHS)
    assert all(torch.equal(a, b) for a, b in zip(run.numbers(), numbers, strict=True))
    assert run.scheduler.state_dict() == reference.scheduler.state_dict()
    for result, expected in zip(results, reference.trainer.results, strict=True):
        assert (result.epoch, result.loss, result.metrics) == (expected.epoch, expected.loss, expected.metrics)
        assert result.clock == pytest.approx(expected.clock, rel=1e-12)  # a sum in two parts


def test_resume_after_the_end_changes_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "checkpoint")
    results = list(run.trainer.fit(2))
    again = Run(tmp_path / "checkpoint")
    again.trainer.resume()
    assert again.trainer.fit(2) == results and again.session.iteration == 2 * ITERATIONS
    assert all(torch.equal(a, b) for a, b in zip(run.numbers(), again.numbers(), strict=True))


def test_fit_goes_on_where_it_ended() -> None:
    whole, parts = Run(), Run()
    for run, ends in ((whole, [3]), (parts, [1, 1, 3])):
        torch.manual_seed(7)
        for epochs in ends:
            run.trainer.fit(epochs)
    assert parts.trainer.results == whole.trainer.results
    assert all(torch.equal(a, b) for a, b in zip(parts.numbers(), whole.numbers(), strict=True))


def test_results_and_listeners() -> None:
    losses: list[float] = []
    heard: list[EpochResult] = []
    run = Run(on_epoch=[heard.append])
    run.session.listeners.append(lambda report: losses.append(report.loss))
    run.model[3].eval()
    results = run.trainer.fit(2)
    assert heard == results and [result.epoch for result in results] == [0, 1]
    for result in results:
        own = losses[result.epoch * ITERATIONS : (result.epoch + 1) * ITERATIONS]
        assert result.loss == pytest.approx(sum(own) / ITERATIONS, rel=1e-6)
        assert 0 <= result.metrics["accuracy"] <= 1 and isinstance(result.metrics["accuracy"], float)
    assert results[1].clock == run.session.cluster.clock() > results[0].clock > 0
    assert [module.training for module in run.model] == [
        True,
        True,
        True,
        False,
        True,
        True,
    ]
    assert run.optimizer.param_groups[0]["lr"] == 0.005


def test_modes_come_back_when_evaluation_fails() -> None:
    def fail(model: nn.Module) -> dict[str, float]:
        raise Interrupt

    run = Run()
    run.trainer.evaluate = fail
    with pytest.raises(Interrupt):
        run.trainer.fit(1)
    assert all(module.training for module in run.model.modules())


def test_losses_of_no_sample_do_not_count() -> None:
    """See test_session: the third of three iterations hears of no sample."""
    model = nn.Linear(2, 3)
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(9, 2, generator=generator), torch.randint(3, (9,), generator=generator))
    reports: list[Any] = []
    cluster = SimulatedCluster(2, delays.DelayTable.from_array([[1.0, 2.0]]))
    session = Session(model, cross_entropy, data, 4, schemes.fastest(2, 1), cluster, listeners=[reports.append])
    (result,) = Trainer(session, torch.optim.SGD(model.parameters(), lr=0.1)).fit(1)
    assert len(reports) == 3
    assert result.loss == pytest.approx((reports[0].loss + reports[1].loss) / 2, rel=1e-6)


def test_checkpoints_are_written_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    for every, expected in ((None, [5, 10]), (2, [2, 4, 6, 8, 10]), (3, [3, 6, 9, 10]), (1, list(range(1, 11)))):
        run = Run(tmp_path / "checkpoint", every)
        written.clear()
        monkeypatch.setattr(checkpoint, "save", lambda path, state: written.append(state["session"]["iteration"]))
        run.trainer.fit(2)
        assert written == expected
    monkeypatch.undo()
    Run(None, 1).trainer.fit(1)
    assert list(tmp_path.iterdir()) == []


def changed_model() -> Run:
    run = Run()
    run.model.register_buffer("more", torch.zeros(2))
    return run


def changed_optimizer() -> Run:
    run = Run()
    run.trainer.optimizer = torch.optim.Adam([{"params": [p]} for p in run.model.parameters()])
    return run


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Run(seed=4), "the checkpoint is of another run: its seed is 3, this run's is 4"),
        (changed_model, "does not fit this model or optimizer"),
        (changed_optimizer, "does not fit this model or optimizer"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, build: Any, message: str) -> None:
    Run(tmp_path / "checkpoint").trainer.fit(1)
    other = build()
    other.trainer.checkpoint_path = tmp_path / "checkpoint"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        other.trainer.resume()


def test_files_that_are_no_checkpoint_of_a_trainer(tmp_path: Path) -> None:
    run = Run(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        run.trainer.resume()
    checkpoint.save(tmp_path / "checkpoint", {"weights": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="does not fit this model or optimizer"):
        run.trainer.resume()
    (tmp_path / "checkpoint").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="is damaged"):
        run.trainer.resume()
    with pytest.raises(CheckpointError, match="there is no checkpoint_path to resume from"):
        Run().trainer.resume()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler_every": "step"}, 'scheduler_every=\'step\' must be "epoch" or "iteration"'),
        ({"every": 0}, "checkpoint_every=0 must be at least 1 iteration, or None"),
    ],
)
def test_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Run(**options)
