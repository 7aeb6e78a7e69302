"""Lazy schemes in trainings with mini-batches, schedules, losses and deadlines, against what they are said to do."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gradcode
from clusters.zoo import decoded, plain_gradients
from gradcode import codes, schemes
from gradcode.clusters.worker import OrderBook
from gradcode.delays import DelayTable
from gradcode.schemes.lazy import CodedRows, Innovations
from gradcode.schemes.lazy.voters import Smoothness
from gradcode.training import LeastSquares
from gradcode.training.sampling import Sampling
from schemes.lazy.descents import descend, random_problem

WORKERS, BATCH, SEED = 6, 24, 1
Build = Callable[[], Any]

ALL: dict[str, Build] = {
    "lag worker": lambda: schemes.lag(WORKERS, "worker", xi=0.05),
    "lag server": lambda: schemes.lag(WORKERS, "server", xi=0.05),
    "glag worker": lambda: schemes.glag(WORKERS, 2, "worker", xi=0.05),
    "glag server": lambda: schemes.glag(WORKERS, 2, "server", xi=0.05),
    "lagc coded": lambda: schemes.lagc(WORKERS, 2, xi=0.05),
    "lagc switch": lambda: schemes.lagc(WORKERS, 2, "switch", xi=0.05),
    "lagc wait_F": lambda: schemes.lagc(WORKERS, 2, "wait_F", xi=0.05),
}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Few voters are meant here, and optimizers other than SGD."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradcode.errors.GradcodeWarning)
        yield


def classifier(samples: int = 120) -> tuple[nn.Module, TensorDataset]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(samples, 5, generator=generator, dtype=torch.float64)
    labels = (inputs @ torch.randn(5, 3, generator=generator, dtype=torch.float64)).argmax(dim=1)
    torch.manual_seed(6)
    return nn.Linear(5, 3).double(), TensorDataset(inputs, labels)


class Training:
    """A classifier trained on a simulated cluster, step by step."""

    def __init__(self, scheme: Any, samples: int = 120, make: Any = None, batch: int = BATCH, **options: Any) -> None:
        self.scheme, self.batch = scheme, batch
        self.model, self.data = classifier(samples)
        self.optimizer = (make or (lambda own: torch.optim.SGD(own, lr=0.2)))(self.model.parameters())
        self.sampling = Sampling(samples, scheme.partitions, batch, SEED)
        self.reports: list[gradcode.Report] = []
        self.session = gradcode.Session(
            self.model,
            nn.CrossEntropyLoss(),
            self.data,
            batch,
            scheme,
            gradcode.SimulatedCluster(WORKERS, **options),
            SEED,
            optimizer=self.optimizer,
            listeners=[self.reports.append],
        )
        self.steps = (step for _ in iter(int, 1) for step in self.session.epoch())

    def go(self, move: bool = True) -> Tensor:
        next(self.steps).backward()
        found = decoded(self.model)
        if move:
            self.optimizer.step()
        return found

    def state(self) -> dict[str, Any]:
        own = {"session": self.session, "model": self.model, "optimizer": self.optimizer}
        return {name: copy.deepcopy(part.state_dict()) for name, part in own.items()}

    def load(self, state: dict[str, Any]) -> None:
        self.session.load_state_dict(state["session"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.steps = (step for _ in iter(int, 1) for step in self.session.epoch())


# The rule, computed again


@pytest.mark.parametrize("side", ["worker", "server"])
def test_two_gradients_on_the_same_samples_decide(side: str) -> None:
    """CADA's second rule: ‖g_v(θ^k; samples of k) − g_v(θ̂_v; samples of k)‖² against the last steps (lagc.md 8).

    On the server's side L_v²·‖θ̂_v − θ^k‖² stands for it.
    """
    constants = np.linspace(0.02, 0.4, WORKERS)
    options: dict[str, Any] = {"smoothness": constants.tolist()} if side == "server" else {}
    training = Training(schemes.lag(WORKERS, side, xi=0.1, oldest=7, **options))  # type: ignore[arg-type]
    schedule = torch.optim.lr_scheduler.ExponentialLR(training.optimizer, 0.9)
    here = [copy.deepcopy(training.model)] * WORKERS
    stored: list[Tensor] = []
    ages, steps = np.zeros(WORKERS, dtype=int), []
    kinds = set()
    with training.session:
        for number in range(25):
            now = plain_gradients(training.model, training.data, training.sampling, number)
            threshold = 0.1 * sum(steps[:10]) / WORKERS**2
            expected = []
            for v in range(WORKERS):
                then = plain_gradients(here[v], training.data, training.sampling, number)[v]
                change = float((now[v] - then).square().sum())
                if side == "server":
                    change = constants[v] ** 2 * distance(training.model, here[v])
                if not stored or change > threshold or ages[v] >= 7:
                    expected.append(v)
            stored = [now[v] if v in expected else stored[v] for v in range(WORKERS)]
            for v in expected:
                here[v], ages[v] = copy.deepcopy(training.model), 0
            ages += 1
            found = training.go()
            assert training.scheme.selected == tuple(expected), number
            assert float((found - torch.stack(stored).sum(0)).norm() / found.norm()) < 1e-12
            steps.insert(0, float(found.square().sum()))  # under SGD the displacement over its rate, squared
            schedule.step()
            kinds.add(len(expected))
    assert len(kinds) > 2 and min(kinds) < WORKERS


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum(float((p - q).detach().square().sum()) for p, q in pairs)


@pytest.mark.parametrize("name", ["lag worker", "lag server", "glag worker", "lagc coded"])
def test_what_is_old_is_sent_anyway(name: str) -> None:
    huge: dict[str, Any] = {"xi": 1e9, "oldest": 3}
    build: dict[str, Build] = {
        "lag worker": lambda: schemes.lag(WORKERS, "worker", **huge),
        "lag server": lambda: schemes.lag(WORKERS, "server", smoothness=1.0, **huge),
        "glag worker": lambda: schemes.glag(WORKERS, 3, "worker", **huge),
        "lagc coded": lambda: schemes.lagc(WORKERS, 2, smoothness=1.0, **huge),
    }
    training = Training(build[name]())
    with training.session:
        sent = []
        for number in range(8):
            training.go()
            if training.reports[-1].uploads:
                sent.append(number)
    assert sent == [0, 3, 6]


@pytest.mark.parametrize("name", ALL)
def test_a_training_resumed_selects_as_if_it_had_not_stopped(name: str) -> None:
    """With Adam, whose threshold is made of the gradients' norms; ages, estimates and norms are in the state."""

    def training() -> Training:
        scheme = ALL[name]()
        scheme.oldest = 3
        return Training(scheme, make=lambda own: torch.optim.Adam(own, lr=0.05))

    first = training()
    with first.session:
        for _ in range(5):
            first.go()
        state = first.state()
        expected = [(first.go(), first.scheme.selected) for _ in range(8)]
    assert len({selected for _, selected in expected}) > 1
    second = training()
    with second.session:
        for _ in range(2):
            second.go()
        for _ in range(2):  # also twice, and from a later iteration of the same session
            second.load(state)
            for number, (gradient, selected) in enumerate(expected):
                found = second.go()
                assert second.scheme.selected == selected, number
                assert float((found - gradient).norm()) <= 1e-12 * float(gradient.norm())


# Smoothness


def test_estimates_are_exact_where_gradients_are_linear_in_one_coordinate() -> None:
    rng = np.random.default_rng(0)
    objective = random_problem(rng, WORKERS, features=1)
    constants = objective.smoothness_by(WORKERS)
    step = 0.3 / objective.smoothness()
    options: dict[str, Any] = {"xi": 0.01, "minibatches": False}
    lag = schemes.lag(WORKERS, "server", **options)
    # With a load of 1 a message is of one partition, else of several.
    lagc = schemes.lagc(WORKERS, 1, dtype="float64", **options)
    for scheme in (lag, lagc):
        descend(scheme, objective, step, 12)
        assert scheme.smoothness.values == pytest.approx(constants, rel=1e-6)
    both = schemes.lagc(WORKERS, 2, dtype="float64", **options)
    descend(both, objective, step, 12)
    assert np.all(np.isfinite(both.smoothness.values))
    assert both.smoothness.values.max() <= constants.max() * (1 + 1e-6)


def test_estimates_are_the_largest_of_the_last_ten() -> None:
    smoothness = Smoothness(2, None)
    assert smoothness.wanted(0, 1) and np.isinf(smoothness.values).all()
    smoothness.note(0, 9.0, 1.0)
    for change, moved in ((0.0, 1.0), (4.0, 0.0), (float("nan"), 1.0), (np.inf, 1.0)):  # these say nothing
        smoothness.note(1, change, moved)
    assert smoothness.values.tolist() == [3.0, np.inf]
    for _ in range(9):
        smoothness.note(0, 4.0, 4.0)
    assert smoothness.values[0] == 3.0
    smoothness.note(0, 4.0, 4.0)
    assert smoothness.values[0] == 1.0
    # Where nothing has moved nothing has changed, whatever the constant is.
    assert smoothness.changes(np.array([0.0, 0.0])).tolist() == [0.0, 0.0]
    assert smoothness.changes(np.array([4.0, 1e-300])).tolist() == [4.0, np.inf]


def test_a_gradient_that_stood_still_is_not_taken_for_smooth() -> None:
    """Dead units give no change at all; the voter's constant is then still unknown, and it is selected."""
    data = TensorDataset(torch.zeros(24, 3, dtype=torch.float64), torch.zeros(24, 1, dtype=torch.float64))
    model = nn.Linear(3, 1, bias=False).double()
    scheme = schemes.lag(WORKERS, "server", xi=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cluster = gradcode.SimulatedCluster(WORKERS)
    with gradcode.Session(model, nn.MSELoss(), data, 24, scheme, cluster, optimizer=optimizer) as session:
        for _ in range(4):
            for step in session.epoch():
                step.backward()
                with torch.no_grad():
                    model.weight.add_(1.0)
            assert scheme.selected == tuple(range(WORKERS))


# What is stored


@pytest.mark.parametrize("name", ALL)
def test_weights_add_up_to_one_at_an_epochs_end_too(name: str) -> None:
    """All samples are alike and nothing moves, so every mean of gradients is the same; 50 = 2·24 + 2 samples."""
    scheme = ALL[name]()
    training = Training(scheme, samples=50)
    inputs, labels = training.data.tensors
    inputs[:], labels[:] = inputs[0].clone(), labels[0].clone()
    assert np.count_nonzero(training.sampling.sizes(2)) < WORKERS
    with training.session:
        expected = training.go(move=False)
        for number in range(8):
            if number == 4:  # all are sent again, also in an iteration in which some have no samples
                scheme.oldest = 1
            found = training.go(move=False)
            assert float((found - expected).norm()) <= 1e-9 * float(expected.norm()), number


def test_workers_remember_two_gradients_of_each_partition_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[int, int] = {}
    plain = OrderBook.__init__

    def watched(self: OrderBook, *given: Any, **options: Any) -> None:
        plain(self, *given, **options)
        workers.append(self)

    workers: list[OrderBook] = []
    monkeypatch.setattr(OrderBook, "__init__", watched)
    scheme = schemes.lagc(WORKERS, 3, xi=0.3, oldest=4)
    training = Training(scheme)
    with training.session:
        for _ in range(30):
            training.go()
            for place, worker in enumerate(workers):
                known[place] = max(known.get(place, 0), len(worker._past._known))
    assert workers and 0 < max(known.values()) <= 2 * scheme.code.load * (WORKERS if len(workers) == 1 else 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_sum_of_changes_begins_anew_before_rounding_has_spoilt_it(dtype: torch.dtype) -> None:
    """Each iteration's gradient is that of what was computed last, to the drift that is allowed."""
    rng = np.random.default_rng(2)
    rows, targets = rng.standard_normal((60, 3)), rng.standard_normal(60)
    objective = LeastSquares(rows, targets, WORKERS, regularisation=0.1, dtype=dtype)
    exact = LeastSquares(rows, targets, WORKERS, regularisation=0.1)
    code = "float64" if dtype == torch.float64 else "float32"
    scheme = schemes.lagc(WORKERS, 2, xi=0.05, smoothness=exact.smoothness_by().tolist(), minibatches=False, dtype=code)
    found = descend(scheme, objective, 0.5 / exact.smoothness(), 200)
    shards = [torch.from_numpy(own).chunk(WORKERS) for own in (rows, targets)]
    unit = float(torch.finfo(dtype).eps) / 2
    here: list[Tensor] = [found.points[0]] * WORKERS
    anew = 0
    for point, gradient, report, chosen in zip(
        found.points, found.gradients, found.reports, found.selected, strict=False
    ):
        for j in chosen:
            here[j] = point
        anew += len(chosen) == WORKERS
        parts = [
            gradient_of(features, values, own.double()) for features, values, own in zip(*shards, here, strict=True)
        ]
        wanted, sizes = torch.stack(parts).sum(0), sum(float(own.norm()) for own in parts)
        # The gradients themselves round relative to Σ‖g_j‖ + L·‖θ‖, whatever is done with them afterwards.
        inputs = 60 * unit * (sizes + float(exact.smoothness()) * max(float(point.double().norm()), 1.0))
        allowed = max(1e-5, 20 * unit) * float(gradient.double().norm()) + inputs
        assert float((gradient.double() - wanted).norm()) <= allowed * 8, report.iteration
    assert 1 <= anew < 200
    assert min(map(len, found.selected)) < WORKERS
    assert float(found.gradients[-1].double().norm()) < (1e-4 if dtype != torch.bfloat16 else 0.05)


def gradient_of(features: Tensor, values: Tensor, theta: Tensor) -> Tensor:
    """Of one of the partitions of 60 samples, by the formula: n_j/n of the ridge is its own."""
    return (features.T @ (features @ theta - values) + 0.1 * len(values) * theta) / 60


# Deadlines


@pytest.mark.parametrize("name", ["lag", "glag", "lagc"])
def test_somebody_always_answers_before_a_deadline_ends_an_iteration(name: str) -> None:
    """All are slower than it: the first answer ends the iteration; what is due is waited for."""
    build: dict[str, Build] = {
        "lag": lambda: schemes.lag(WORKERS, "worker", xi=0.0, deadline=0.15, oldest=3),
        "glag": lambda: schemes.glag(WORKERS, 2, "worker", xi=0.0, deadline=0.15, oldest=3),
        "lagc": lambda: schemes.lagc(WORKERS, 2, xi=0.0, smoothness=1.0, deadline=0.15, oldest=3),
    }
    seconds = np.linspace(0.3, 0.8, WORKERS)
    training = Training(build[name](), delays=constant(seconds))
    with training.session:
        for _ in range(7):
            training.go()
    times = [report.time for report in training.reports]
    complete, first = max(times), min(times)
    assert times[0] == complete > first > 0.15
    for report in training.reports:
        assert report.time == pytest.approx(report.order_statistic)
    assert any(time == first for time in times[1:])
    assert times[1:].count(complete) >= 1


def constant(seconds: float | Sequence[float]) -> DelayTable:
    return DelayTable.from_array(np.broadcast_to(np.asarray(seconds, dtype=float), (1, WORKERS)).copy())


# What is refused


def test_switch_needs_everybody_to_hold_a_partition_of_its_own() -> None:
    encoding = np.roll(np.eye(4), 1, axis=1)

    class Shifted(codes.GradientCode):
        def __init__(self) -> None:
            super().__init__(encoding, np.ones(4, dtype=np.int64), 0, "float64")

        def _solve(self, alive: np.ndarray) -> None:
            return None

        def _beyond(self, alive: frozenset[int]) -> bool:
            return False

        def _worst(self) -> Any:
            raise NotImplementedError

        def __repr__(self) -> str:
            return "shifted()"

    rule = schemes.lazy.Rule(4, 0.1, None)
    with pytest.raises(ValueError, match=r"shifted\(\) does not place partition j on worker j for every j"):
        Innovations(Shifted(), rule, mode="switch")
    Innovations(Shifted(), rule)


def test_groups_must_divide_the_workers() -> None:
    with pytest.raises(ValueError, match=r"redundancy=3 .*workers=8.*1, 2, 4"):
        schemes.glag(8, 3)
    assert isinstance(schemes.lagc(4, 2, "wait_F"), CodedRows)
