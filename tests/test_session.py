"""A session against plain PyTorch training on one process."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import TensorDataset

import gradcode
from gradcode import Session, SimulatedCluster, codes, delays, schemes
from gradcode.errors import CheckpointError, GradcodeError, NonFiniteLoss
from gradcode.schemes.rows import RowScheme
from gradcode.training import LeastSquares, Sampling

N, SAMPLES, BATCH = 6, 100, 24
Optimizers = Callable[[Any], torch.optim.Optimizer]


def network(dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(48, 3)]
    return nn.Sequential(*layers).to(dtype)


def images(dtype: torch.dtype = torch.float64, samples: int = SAMPLES) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 1, 6, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(inputs.to(dtype), torch.randint(3, (samples,), generator=generator))


def coded(dtype: str = "float64") -> RowScheme:
    return schemes.coded(codes.cyclic_repetition(N, 2, dtype=dtype))


def cluster(seed: int = 0) -> SimulatedCluster:
    return SimulatedCluster(N, delays=delays.Exponential(1.0), seed=seed)


def session_on(model: nn.Module, dtype: torch.dtype = torch.float64, **options: Any) -> Session:
    scheme = options.pop("scheme", None) or coded(str(dtype).removeprefix("torch."))
    where = options.pop("cluster", None) or cluster()
    return Session(model, cross_entropy, images(dtype), BATCH, scheme, where, **options)


def batches(epochs: int, seed: int = 0, partitions: int = N) -> list[Tensor]:
    """The sample indices of every iteration."""
    plan = Sampling(SAMPLES, partitions, BATCH, seed)
    return [
        torch.from_numpy(np.concatenate([plan.indices(number, j) for j in range(partitions)]))
        for number in range(epochs * plan.iterations)
    ]


def difference(one: nn.Module, other: nn.Module) -> float:
    """Relative to the norm of all parameters."""
    a, b = (nn.utils.parameters_to_vector(model.parameters()).detach() for model in (one, other))
    return float((a - b).norm() / b.norm())


RECIPES: dict[str, Optimizers] = {
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-4),
    "parameter groups": lambda p: torch.optim.SGD(
        [{"params": p[:2], "lr": 0.1}, {"params": p[2:], "weight_decay": 0.01}], lr=0.02, momentum=0.5
    ),
}


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_coded_training_is_plain_training(recipe: str, dtype: torch.dtype, bound: float, set_to_none: bool) -> None:
    model, plain, data = network(dtype), network(dtype), images(dtype)
    optimizer, reference = (RECIPES[recipe](list(m.parameters())) for m in (model, plain))
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.7) for o in (optimizer, reference)]
    stragglers: set[tuple[int, ...]] = set()
    listeners = [lambda report: stragglers.add(report.stragglers)]
    with session_on(model, dtype, listeners=listeners) as session:
        numbers = iter(batches(2))
        for _ in range(2):
            for step in session.epoch():
                chosen = next(numbers)
                loss = step.backward()
                expected = cross_entropy(plain(data.tensors[0][chosen]), data.tensors[1][chosen])
                reference.zero_grad()
                expected.backward()
                assert loss.dtype == dtype and float(loss) == pytest.approx(float(expected.detach()), rel=10 * bound)
                for m, o in ((model, optimizer), (plain, reference)):
                    nn.utils.clip_grad_norm_(m.parameters(), 0.5)
                    o.step()
                optimizer.zero_grad(set_to_none=set_to_none)
            for scheduler in schedulers:
                scheduler.step()
        assert next(numbers, None) is None
    assert difference(model, plain) <= bound
    assert len(stragglers) > 3


@pytest.mark.parametrize("name", ["uncoded", "fractional_repetition", "cyclic_mds", "reed_solomon", "heterogeneous"])
def test_every_exact_code_gives_the_same_gradient_with_dropout(name: str) -> None:
    """Masks are drawn by partition, so the codes must have the same partitions."""
    build: dict[str, Callable[[], codes.GradientCode]] = {
        "uncoded": lambda: codes.uncoded(N, dtype="float64"),
        "fractional_repetition": lambda: codes.fractional_repetition(N, 2, dtype="float64"),
        "cyclic_mds": lambda: codes.cyclic_mds(N, 2, dtype="float64"),
        "reed_solomon": lambda: codes.reed_solomon(N, 2, dtype="float64"),
        "heterogeneous": lambda: codes.heterogeneous([1, 1, 2, 2, 3, 3], N, 2, dtype="float64"),
    }
    gradients = []
    for scheme in (schemes.coded(build[name]()), coded()):
        model = network(dropout=0.5)
        with session_on(model, scheme=scheme) as session:
            next(session.epoch()).backward()
            assert scheme.exact and scheme.error <= 1e-10
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() <= 1e-10 * gradients[1].norm()


def test_a_few_iterations_on_local_processes() -> None:
    ours, theirs = network(dropout=0.5), network(dropout=0.5)
    losses: list[list[float]] = []
    for model, where in ((ours, cluster()), (theirs, gradcode.LocalCluster(N))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses.append([])
        with session_on(model, cluster=where) as session:
            for step in session.epoch():
                losses[-1].append(float(step.backward()))
                optimizer.step()
    assert difference(ours, theirs) <= 1e-12
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "reply"),
    [(torch.float64, torch.bfloat16), (torch.float32, torch.bfloat16), (torch.bfloat16, None)],
)
@pytest.mark.parametrize("build", [codes.fractional_repetition, codes.cyclic_repetition, codes.cyclic_mds])
def test_bfloat16_is_within_the_reported_error(
    dtype: torch.dtype, reply: torch.dtype | None, build: Callable[..., codes.GradientCode]
) -> None:
    code = build(N, 2)
    scheme = schemes.coded(code)
    model, reports = network(dtype), []
    with session_on(model, dtype, scheme=scheme, reply_dtype=reply, listeners=[reports.append]) as session:
        next(session.epoch()).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert gradient.dtype == dtype
    plan, (inputs, targets) = Sampling(SAMPLES, N, BATCH, 0), images(dtype).tensors
    plain, parts = network(dtype), []
    for j in range(N):
        chosen = torch.from_numpy(plan.indices(0, j))
        loss = cross_entropy(plain(inputs[chosen]), targets[chosen]) * (len(chosen) / BATCH)
        parts.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(plain.parameters()))]).double())
    error = (gradient.double() - sum(parts)).norm() / sum(float(part.norm()) for part in parts)
    (report,) = reports
    assert 1e-4 < error <= report.decode_error
    if reply is not None:  # rounded once: 2⁻⁸ for each coefficient |a_i||B_ij| of a partition's gradient
        weights = code.decode(np.flatnonzero(np.isfinite(report.arrivals)).tolist()).weights
        coefficients = float((np.abs(weights) @ np.abs(code.encoding)).max())
        assert error <= 1.01 * 2.0**-8 * coefficients
        assert report.decode_error <= 1.02 * 2.0**-8 * coefficients
        assert report.bytes_up % (2 * session.cluster.rows.shape[1]) == 0


def test_parameters_that_took_no_part_have_no_gradient() -> None:
    model = network()
    model.add_module("6", nn.Identity())
    model[1].extra = nn.Parameter(torch.ones(3, dtype=torch.float64))  # in the middle of the vector
    with session_on(model) as session:
        model[1].extra.grad = torch.ones(3, dtype=torch.float64)
        next(session.epoch()).backward()
    assert model[1].extra.grad is None
    assert all(p.grad is not None for name, p in model.named_parameters() if "extra" not in name)


def test_replaced_data_is_trained_on() -> None:
    model, plain, data = network(), network(), images()
    start = torch.linspace(-0.1, 0.1, sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    with session_on(model) as session:
        optimizer, reference = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, plain))
        steps = iter(session.epoch())
        next(steps).backward()
        for m in (model, plain):
            nn.utils.vector_to_parameters(start, m.parameters())
        for chosen in batches(1)[1:4]:
            next(steps).backward()
            reference.zero_grad()
            cross_entropy(plain(data.tensors[0][chosen]), data.tensors[1][chosen]).backward()
            optimizer.step()
            reference.step()
    assert difference(model, plain) <= 1e-12


def test_two_parameters_may_change_places() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    data = TensorDataset(torch.randn(12, 4).double(), torch.randn(12, 4).double())
    with Session(model, mse_loss, data, 12, coded(), cluster()) as session:
        first, second = model[0].weight, model[1].weight
        values = first.detach().clone(), second.detach().clone()
        first.data, second.data = second.data, first.data
        next(session.epoch()).backward()
        assert torch.equal(first, values[1]) and torch.equal(second, values[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.requires_grad_(False), "a parameter was frozen during the session"),
        (
            lambda p: setattr(p, "data", torch.zeros(2, dtype=torch.float64)),
            "a parameter was (3,) of torch.float64 and",
        ),
    ],
)
def test_changed_parameters_are_refused(change: Callable[[nn.Parameter], object], message: str) -> None:
    model = network()
    with session_on(model) as session:
        steps = iter(session.epoch())
        next(steps).backward()
        change(model[0].bias)
        with pytest.raises(GradcodeError, match=re.escape(message)):
            next(steps).backward()


def test_close_gives_the_parameters_memory_of_their_own() -> None:
    model = network()
    session = session_on(model)
    shared = session.cluster.parameters
    steps = iter(session.epoch())
    next(steps).backward()
    values = nn.utils.parameters_to_vector(model.parameters()).clone()
    session.close()
    session.close()
    shared.fill_(torch.nan)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), values)
    with pytest.raises(GradcodeError, match="the session is closed: its cluster is gone"):
        next(steps).backward()


def test_epochs_go_on_after_steps_without_backward_and_after_a_break() -> None:
    numbers: list[int] = []
    with session_on(network(), listeners=[lambda report: numbers.append(report.iteration)]) as session:
        assert session.iterations_per_epoch == 5
        for step in session.epoch():
            if step.number in (0, 3):
                step.backward()
        assert session.iteration == 5 and numbers == [0, 3]
        for step in session.epoch():
            step.backward()
            if step.number == 6:
                break
        assert [step.number for step in session.epoch()] == [7, 8, 9]
        assert [step.number for step in session.epoch()] == [10, 11, 12, 13, 14]
    assert numbers == [0, 3, 5, 6]


def test_a_nan_loss_changes_nothing() -> None:
    model, data = network(), images()
    bad = 40
    data.tensors[0][bad] = torch.nan
    model.insert(1, nn.BatchNorm2d(3).double())
    scheme = coded()
    with Session(model, cross_entropy, data, BATCH, scheme, cluster()) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in session.epoch():
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            chosen = np.concatenate([session.objective.sampling.indices(step.number, j) for j in range(N)])  # type: ignore[attr-defined]
            if bad in chosen:
                with pytest.raises(
                    NonFiniteLoss, match=f"iteration {step.number} is not finite: .*loss is nan.*; no parameter"
                ):
                    step.backward()
                break
            step.backward()
            optimizer.step()
        else:
            pytest.fail("every sample is in an epoch")
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_global_generators_are_left_alone() -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002

    model = network(dropout=0.5)
    before = states()
    with session_on(model, collate_fn=torch.utils.data.default_collate) as session:
        for step in session.epoch():
            step.backward()
    assert states() == before


def test_the_same_seed_repeats_and_another_does_not() -> None:
    def trained(seed: int) -> Tensor:
        model = network(dropout=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with session_on(model, seed=seed) as session:
            for step in session.epoch():
                step.backward()
                optimizer.step()
        return nn.utils.parameters_to_vector(model.parameters()).detach()

    assert torch.equal(trained(1), trained(1)) and not torch.allclose(trained(1), trained(2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: session_on(network(), cluster=SimulatedCluster(5)), "is for 6 workers, the cluster has 5"),
        (
            lambda: Session.of(LeastSquares(np.eye(3), np.ones(3), 3), coded(), cluster()),
            "has 6 partitions, the objective is cut into 3",
        ),
        (lambda: session_on(network(), reply_dtype=torch.int32), "reply_dtype=torch.int32 must be a floating dtype"),
        (
            lambda: Session(network(), nn.CrossEntropyLoss(reduction="sum"), images(), BATCH, coded(), cluster()),
            "loss_fn is not a mean over samples",
        ),
        (
            lambda: Session(network(), cross_entropy, images(), 5, coded(), cluster()),
            "batch_size=5 cannot be split over partitions=6",
        ),
        (
            lambda: Session(network(), cross_entropy, images(samples=5), BATCH, coded(), cluster()),
            "a dataset of 5 samples cannot be split over partitions=6",
        ),
    ],
)
def test_what_does_not_fit_together(build: Callable[[], Session], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(reduction="none"), lambda outputs, targets: 1.0])
def test_a_loss_that_is_no_scalar_is_said_by_the_worker_too(loss_fn: Any) -> None:
    session = Session(network(), loss_fn, images(), BATCH, coded(), cluster(), check_loss=False)
    with session, pytest.raises(ValueError, match="it must return the mean loss over the samples as a scalar tensor"):
        next(session.epoch()).backward()


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("seed", lambda: session_on(network(), seed=1)),
        ("scheme", lambda: session_on(network(), scheme=schemes.uncoded(N))),
        ("objective", lambda: Session(network(), cross_entropy, images(), BATCH + 1, coded(), cluster())),
        ("objective", lambda: Session(network(), cross_entropy, images(samples=99), BATCH, coded(), cluster())),
        ("objective", lambda: session_on(network(torch.float32), torch.float32, scheme=coded())),
        ("objective", lambda: session_on(network(), sampling="global")),
    ],
)
def test_state_of_another_run_is_refused(key: str, other: Callable[[], Session]) -> None:
    with session_on(network()) as session, pytest.raises(CheckpointError, match=f"another run: its {key} is .* resume"):
        session.load_state_dict(other().state_dict())
