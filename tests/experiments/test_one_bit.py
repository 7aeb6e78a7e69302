"""The experiment on few bits: batched messages and trainings are those of the library, and its numbers agree."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

import gradcode
from gradcode import schemes
from gradcode.compression import (
    Compressor,
    Differences,
    ErrorFeedback,
    GroupedSign,
    Half,
    OneBit,
    Plain,
    RandomK,
    TopK,
)
from gradcode.delays import DelayTable
from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.one_bit import gaps, noise, simulation, sweeps
from gradcode.experiments.one_bit.messages import decoded
from gradcode.experiments.one_bit.methods import METHODS, B, Best, Method, Setting, best
from gradcode.experiments.one_bit.simulation import Codec, Problem, answering, train, weights

N, LENGTH, STRAGGLING, SEED, ITERATIONS = 8, 16, 0.5, 5, 12
# Powers of two, as N and 1/(1 − p): then numbers are rounded to float32 alike in whatever units they are.
STEPS = 2.0**-6, 2.0**-8


def one_by_one(compressor: Compressor, vector: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """C(x) by the library, of one vector."""
    x = torch.from_numpy(np.ascontiguousarray(vector))
    message = torch.empty(compressor.size(len(x), x.itemsize), dtype=torch.uint8)
    used = compressor.compress(x, message, key)
    found = torch.empty_like(x)
    compressor.decompress(message[:used], found)
    return found.numpy()


def session(problem: Problem, codec: Codec | None, answers: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """(T + 1, D) parameters of a training on the simulated cluster, those that do not answer being infinitely late."""
    summed = schemes.sgc(N, 3, straggling=STRAGGLING, deadline=1.0, allocation="random", rng=SEED)
    scheme = summed if codec is None else schemes.compressed(summed, codec)
    objective = gradcode.training.LeastSquares(problem.rows, problem.targets, N)
    cluster = gradcode.SimulatedCluster(N, DelayTable.from_array(np.where(answers, 0.0, np.inf)))
    theta, found = objective.model.theta, []
    with gradcode.Session.of(objective, scheme, cluster, seed=SEED) as running:
        torch.nn.init.zeros_(theta)
        running.optimizer = torch.optim.SGD([theta], lr=1.0)
        for rate in rates:
            found.append(theta.detach().numpy().copy())
            running.optimizer.param_groups[0]["lr"] = N * rate  # the objective is a mean, the specification's F a sum
            next(running.epoch()).backward()
            running.optimizer.step()
        found.append(theta.detach().numpy().copy())
    return np.array(found)


@pytest.mark.parametrize("decaying", [False, True], ids=["constant", "decaying"])
@pytest.mark.parametrize(
    "codec",
    [
        None,
        Plain(OneBit("linf")),
        Plain(OneBit("l2")),
        Plain(GroupedSign(4)),
        Plain(RandomK(k=3)),
        ErrorFeedback(GroupedSign(4)),
        ErrorFeedback(TopK(k=3)),
        Differences(RandomK(k=3), rate=0.25),
    ],
    ids=repr,
)
def test_a_training_is_that_of_a_session(codec: Codec | None, decaying: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same parameters in every iteration, from the same stragglers and, message by message, the same bits."""
    problem = Problem.drawn(N, LENGTH, SEED)
    answers = answering(ITERATIONS, N, STRAGGLING, SEED)
    answers[~answers.any(axis=1), 0] = True  # a session waits until somebody answers
    rates = np.tile(STEPS, (ITERATIONS, 1)) / (np.sqrt(np.arange(1, ITERATIONS + 1))[:, None] if decaying else 1)

    def library(compressor: Compressor, vectors: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        seed, t = key
        up = np.flatnonzero(answers[t])
        return np.array(
            [
                [one_by_one(compressor, x, (seed, t, i)) for i, x in zip(up.tolist(), run, strict=True)]
                for run in vectors
            ]
        )

    monkeypatch.setattr(simulation, "decoded", library)
    path: list[np.ndarray] = []
    coefficients = weights(N, N, 3, STRAGGLING, SEED)
    losses = train(problem, coefficients, codec, rates, answers, SEED, look=lambda _, theta: path.append(theta.copy()))
    assert losses.shape == (ITERATIONS + 1, 2) and len(path) == ITERATIONS
    for run in range(2):
        expected = session(problem, codec, answers, rates[:, run])
        own = np.array(path)[:, run]
        # With a decaying step the memory is kept in other units than in a session: float32 is rounded otherwise.
        tolerance = 1e-5 if decaying else 1e-12
        assert np.abs(own - expected[:-1]).max() <= tolerance * np.abs(expected).max()
        assert losses[:, run] == pytest.approx(problem.losses(expected), rel=10 * tolerance)
        assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("compressor", [GroupedSign(4), TopK(k=3), TopK(density=0.2)], ids=repr)
def test_a_batch_is_what_the_library_makes_of_each(compressor: Compressor) -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 5, LENGTH))
    vectors[1, 2] = 0.0
    expected = [[one_by_one(compressor, x, (0,)) for x in run] for run in vectors]
    assert np.array_equal(decoded(compressor, vectors, (0,)), expected)


@pytest.mark.parametrize("compressor", [OneBit("linf"), OneBit("l2"), OneBit("fixed", bound=3.0)], ids=repr)
def test_coins_of_a_batch(compressor: OneBit) -> None:
    """A message alone has the library's very bits; of many, each is right on average and has the library's range.

    A coordinate of the mean of n coins ± r has the standard deviation √((r² − x²)/n); of 96 the largest is beyond 5 of
    them once in 18,000 seeds.
    """
    rng = np.random.default_rng(1)
    for seed in range(20):
        x = rng.standard_normal(200)
        alone, expected = decoded(compressor, x[None], (seed, 1)), one_by_one(compressor, x, (seed, 1))
        assert np.allclose(alone[0], expected, rtol=1e-6, atol=0)
    h, draws = 0.5 * rng.standard_normal((6, LENGTH)), 20_000
    h[3] = 0.0
    found = decoded(compressor, np.broadcast_to(h, (draws, *h.shape)), (2, 0))
    ranges = np.abs([one_by_one(compressor, x, (0,)) for x in h])
    assert np.allclose(np.abs(found), ranges, rtol=1e-6, atol=0)
    spread = np.sqrt((np.maximum(ranges, np.abs(h)) ** 2 - h**2) / draws)
    assert (np.abs(found.mean(axis=0) - h) <= 5 * spread + 1e-6 * ranges).all()


def test_random_coordinates_of_a_batch() -> None:
    """K of them, L/K times as large, each equally often: within 5 standard deviations; alike along the first axis."""
    compressor, draws = RandomK(k=3), 4_000
    vectors = np.random.default_rng(3).standard_normal((2, draws, LENGTH))
    found = decoded(compressor, vectors, (4, 0))
    chosen = found != 0
    assert (chosen.sum(axis=-1) == 3).all() and np.array_equal(chosen[0], chosen[1])
    assert np.allclose(found[chosen], vectors[chosen] * LENGTH / 3, rtol=1e-6, atol=0)
    share = 3 / LENGTH
    assert np.abs(chosen[0].mean(axis=0) - share).max() < 5 * np.sqrt(share * (1 - share) / draws)


def test_what_cannot_be_batched() -> None:
    with pytest.raises(ValueError, match="group=5 must divide the 16 coordinates"):
        decoded(GroupedSign(5), np.ones((2, LENGTH)), (0,))
    with pytest.raises(TypeError, match="must be OneBit, GroupedSign, TopK or RandomK"):
        decoded(Half(), np.ones((2, LENGTH)), (0,))


def test_what_diverges_leaves_the_others_alone() -> None:
    problem = Problem.drawn(N, LENGTH, 0)
    answers = answering(60, N, 0.2, 0)
    rates = np.tile([0.1 / problem.smoothness, 50 / problem.smoothness], (60, 1))
    arguments = (problem, weights(N, N, 3, 0.2, 0), ErrorFeedback(GroupedSign(4)))
    both, alone = (train(*arguments, own, answers, 0) for own in (rates, rates[:, :1]))
    assert np.isinf(both[-1, 1]) and np.isfinite(both[:, 0]).all()
    assert both[:, 0] == pytest.approx(alone[:, 0], rel=1e-12)


def test_the_best_step_of_the_grid() -> None:
    """Gradient descent without stragglers wants a constant 1/L or more, noise a smaller or falling step."""
    descent, noisy = (best(B, METHODS[name], range(2)) for name in ("GD without stragglers", "uncoded float"))
    assert not descent.decaying and descent.step >= 0.5 and descent.gap < 1e-9
    assert noisy.decaying or noisy.step < 0.5
    assert noisy.curves.shape == (2, B.iterations + 1) and noisy.gaps == pytest.approx(
        noisy.curves[:, -50:].mean(axis=1)
    )
    assert noisy.messages[-1] == pytest.approx(0.8 * B.workers * B.iterations, rel=0.01)
    assert descent.messages[-1] == B.workers * B.iterations


def test_spreads() -> None:
    curves = np.ones((4, 60))
    own = Best(np.array([1.0, 2.0, 3.0, 2.0]), curves, curves[0], 1.0, False)
    other = Best(3 * own.gaps, curves, curves[0], 1.0, False)
    assert own.gap == 2 and own.spread() == pytest.approx(np.sqrt(2 / 3) / 2)
    assert own.error == pytest.approx(np.sqrt(2 / 3) / 2)
    assert own.spread(other) == pytest.approx(0.0, abs=1e-15)  # the ratio is the same on every problem


def test_noise_agrees(tmp_path: Path) -> None:
    found = Comparisons()
    noise.unbiasedness(Request(tmp_path, quick=True), found)
    assert len(found) == 11 and found.agree, found.verdict
    assert len(table(tmp_path / "unbiasedness")) == 5


def test_the_ball_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "BALL", {"linf": noise.BALL["linf"]})
    monkeypatch.setattr(noise, "COPIES", 2)
    found = Comparisons()
    noise.ball(Request(tmp_path, quick=True), found)
    assert len(found) == 4 and found.agree, found.verdict
    assert len(table(tmp_path / "ball")) == 3


def test_gaps_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of two methods, and their ratio, from real trainings."""
    names = ("SGC float", "1-bit linf")
    monkeypatch.setattr(gaps, "METHODS", {name: METHODS[name] for name in names})
    monkeypatch.setattr(gaps, "GAPS", {"B": {name: gaps.GAPS["B"][name] for name in names}})
    monkeypatch.setattr(gaps, "CONCLUSIONS", {})
    monkeypatch.setattr(gaps, "BITS", {"B": {"1-bit linf": 52}})
    found = Comparisons()
    gaps.gaps(Request(tmp_path, quick=True), found)
    assert len(found) == 2 + 1 + 1 and found.agree, found.verdict


def made_up(gap: float, setting: Setting, seed: int) -> Best:
    """Three problems around the mean gap."""
    shares = np.random.default_rng(seed).uniform(0.8, 1.2, 3)
    curves = np.full((3, setting.iterations + 1), gap)
    return Best(gap * shares / shares.mean(), curves, np.arange(setting.iterations + 1.0), 0.5, bool(seed % 2))


def test_tables_and_figures_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From gaps that are those expected: then all numbers agree; ten times as large, no gap without ± does."""
    methods, scale = list(METHODS.values()), 1.0

    def table_gap(setting: Setting, method: Method, seeds: range, coarse: bool = False) -> Best:
        expected = gaps.GAPS[setting.name].get(list(METHODS)[methods.index(method)], (1.0, None))[0]
        return made_up(scale * expected, setting, methods.index(method))

    def sweep_gap(setting: Setting, method: Method, seeds: range, coarse: bool = False) -> Best:
        points = sweeps.REDUNDANCY | sweeps.STRAGGLERS
        return made_up(scale * points[method.replication, method.straggling], setting, method.replication)

    monkeypatch.setattr(gaps, "best", table_gap)
    monkeypatch.setattr(sweeps, "best", sweep_gap)
    for scale in (1.0, 10.0):
        found = Comparisons()
        gaps.gaps(Request(tmp_path), found)
        sweeps.sweeps(Request(tmp_path), found)
        for module in (gaps, sweeps):
            monkeypatch.setattr(module, "save", lambda *_: None)  # pictures once are enough
        assert len({item.name for item in found}) == len(found) == 21 + (8 + 5) + (9 + 5) + 12 + 9
        missed = [item.name for item in found if not item.agrees]
        if scale == 1:
            assert not missed, found.verdict
        else:
            assert sum("gap: " in name for name in missed) == 11 + 9
    assert len(table(tmp_path / "gaps")) == 1 + len(METHODS) and len(table(tmp_path / "sweeps")) == 10
    assert len(table(tmp_path / "ratios-A")) == 14 and len(table(tmp_path / "ratios-B")) == 15
    for name in ("gaps", "sweeps"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_what_rounding_allows() -> None:
    assert gaps.rounding(1.22) == pytest.approx(0.005 / 1.22)
    assert gaps.rounding(1.28, 1.22) == pytest.approx(0.005 / 1.28 + 0.005 / 1.22)
    assert gaps.rounding(900) == pytest.approx(0.5 / 900)


def test_every_expected_number_has_its_method() -> None:
    assert set(gaps.GAPS["A"]) | set(gaps.GAPS["B"]) == set(gaps.BITS["A"])
    assert {*METHODS} - {*gaps.BITS["A"]} == {"random-K differences", "GD without stragglers"}
    assert set(gaps.SHOWN) == set(METHODS)
    assert "1-bit" in by_name("one_bit").summary


def table(stem: Path) -> list[list[str]]:
    with stem.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len({len(row) for row in rows}) == 1
    return rows
