"""Noise of one-bit messages: the worked example, the closed forms against each other and against draws."""

from __future__ import annotations

import numpy as np
import pytest

from gradcode import codes
from gradcode.planning import one_bit


def test_worked_example() -> None:
    """one_bit.md 14."""
    messages = [[3.0, 4.0], [3.0, 4.0]]
    assert one_bit.second_moment(messages, 0.5, "l2") == pytest.approx(37.5)
    assert one_bit.second_moment(messages, 0.5, "linf") == pytest.approx(19.5)
    assert one_bit.second_moment(messages, 0.5) == pytest.approx(12.5)
    with pytest.raises(ValueError, match="range='fixed', bound=None"):
        one_bit.second_moment(messages, 0.5, "fixed")


@pytest.mark.parametrize("range", ["linf", "l2", "fixed", None])
def test_the_second_moment_is_that_of_draws(range: one_bit.Range | None) -> None:
    """40,000 draws; within 5 standard errors of their mean."""
    rng = np.random.default_rng(1)
    messages, p = rng.standard_normal((6, 5)), rng.uniform(0.0, 0.6, 6)
    bound = 4.0 if range == "fixed" else None
    sizes = {"linf": np.abs(messages).max(axis=1), "l2": np.linalg.norm(messages, axis=1), "fixed": np.full(6, 4.0)}
    sent = np.broadcast_to(messages, (40_000, 6, 5))
    if range is not None:
        r = sizes[range][:, None]
        sent = np.where(rng.random(sent.shape) < 0.5 + messages / (2 * r), r, -r)
    found = (np.where(rng.random((40_000, 6)) < p, 0.0, 1.0)[:, :, None] * sent).sum(axis=1)
    wanted = ((1 - p)[:, None] * messages).sum(axis=0)
    squares = ((found - wanted) ** 2).sum(axis=1)
    expected = one_bit.second_moment(messages, p.tolist(), range, bound)
    assert abs(squares.mean() - expected) <= 5 * squares.std() / 200


def test_mean_squares_are_exact_where_pairs_are_balanced() -> None:
    rng = np.random.default_rng(2)
    code = codes.stochastic(8, 7, 4, allocation="pairwise")
    gradients = rng.standard_normal((7, 3))
    messages = code.encoding @ gradients / (1 - 0.3)
    assert one_bit.mean_squares(gradients, 8, 4, 0.3) == pytest.approx(float((messages**2).sum()), rel=1e-12)
    squares = [
        float(((codes.stochastic(8, 7, 3, allocation="random", rng=seed).encoding @ gradients / 0.7) ** 2).sum())
        for seed in range(400)
    ]
    spread = 4 * float(np.std(squares)) / 20
    assert abs(np.mean(squares) - one_bit.mean_squares(gradients, 8, 3, 0.3)) <= spread


def test_the_noise_bounds_the_second_moment() -> None:
    """Eq. 8 with the squares of these gradients: for l2 it is the second moment itself."""
    rng = np.random.default_rng(3)
    code = codes.stochastic(8, 7, 4, allocation="pairwise")
    gradients = rng.standard_normal((7, 12))
    messages = code.encoding @ gradients / 0.8
    whole = float((gradients.sum(axis=0) ** 2).sum())
    found = one_bit.noise(8, 4, 0.2, float((gradients**2).sum()), 12)
    moment = one_bit.second_moment(messages, 0.2, "l2")
    assert found.constant + found.relative * whole == pytest.approx(moment, rel=1e-12)
    assert one_bit.second_moment(messages, 0.2, "linf") < moment
    plain = one_bit.noise(8, 4, 0.2, float((gradients**2).sum()))
    assert plain.constant + plain.relative * whole == pytest.approx(one_bit.second_moment(messages, 0.2), rel=1e-12)


def test_the_noise_along_a_path_is_its_largest() -> None:
    rng = np.random.default_rng(4)
    path = rng.standard_normal((9, 3, 6, 5))  # iterations, runs, workers, coordinates
    p = rng.uniform(0.0, 0.6, 6).tolist()
    for range, bound in (("linf", None), ("l2", None), ("fixed", 6.0), (None, None)):
        each = [one_bit.second_moment(messages, p, range, bound) for messages in path.reshape(-1, 6, 5)]
        assert one_bit.moments(path, p, range, bound).ravel() == pytest.approx(each)
        assert one_bit.noise_along(path, p, range, bound) == one_bit.Noise(pytest.approx(max(each)), 0.0)
    with pytest.raises(ValueError, match=r"bound=1\.0 must be at least the largest coordinate"):
        one_bit.noise_along(path, p, "fixed", 1.0)


def test_memories_and_decaying_steps() -> None:
    """2·½·(3/2)/(1/4) = 6, and 4·3/(½²·8) = 6."""
    assert one_bit.memory_bound(0.1, [1.0, 2.0], 0.5) == pytest.approx([0.06, 0.24])
    assert one_bit.memory_bound(0.1, [1.0], 0.0) == [0.0]
    assert one_bit.decaying_ball(3.0, 0.5, 8) == pytest.approx(6.0)
    # 4·2/(0.1·10) + 2·0.1·0.16·5 + 2·2·Σ E‖e_i‖²
    assert one_bit.feedback_bound(0.1, 1.0, 2.0, 10, 0.2, [1.0, 2.0], 0.5) == pytest.approx(8 + 0.16 + 4 * 0.3)


def test_steps_and_what_is_refused() -> None:
    noise = one_bit.Noise(constant=2.0, relative=3.0)
    assert noise.largest_step(0.5) == 0.5 and noise.largest_step(0.5, convex=True) == 0.25
    assert noise.ball(0.1, 0.5) == pytest.approx(0.4)
    assert noise.mean_gap(0.1, 2.0, 100) == pytest.approx(0.4 + 0.2)
    assert noise.mean_squared_slope(0.1, 1.0, 5.0, 100) == pytest.approx(1.0 + 0.2)
    for call, problem in (
        (lambda: noise.largest_step(0.0), "smoothness=0.0 must be positive"),
        (lambda: one_bit.noise(8, 9, 0.2, 1.0), "replication=9 must be between 1 and workers=8"),
        (lambda: one_bit.noise(8, 2, 1.0, 1.0), "straggling=1.0 must be a probability below 1"),
        (lambda: one_bit.feedback_bound(1.0, 1.0, 1.0, 1, 0.0, [1.0], 0.5), r"at most 1/\(2L\) = 0.5"),
        (lambda: one_bit.feedback_bound(0.1, 1.0, 1.0, 1, 0.0, [1.0], 1.0), r"must be in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=problem):
            call()
