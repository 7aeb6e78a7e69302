"""What every code object promises: names, arguments, survivors, cache, pickling, imports."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from gradcode import codes

SAMPLES = {
    "uncoded": {"workers": 5, "partitions": 11},
    "fractional_repetition": {"workers": 7, "stragglers": 2},
    "cyclic_repetition": {"workers": 6, "stragglers": 2},
    "cyclic_mds": {"workers": 6, "stragglers": 2},
    "reed_solomon": {"workers": 6, "stragglers": 1},
    "heterogeneous": {"speeds": [1, 1, 2, 2], "partitions": 6, "stragglers": 1},
    "hierarchical": {"workers_per_edge": [3, 3, 6], "edge_stragglers": 1, "worker_stragglers": 1, "dtype": "float64"},
    "clustered": {"workers": 6, "clusters": 2, "stragglers": 1, "partitions": 10},
    "communication_efficient": {"workers": 6, "load": 4, "stragglers": 1, "reduction": 2},
    "stochastic": {"workers": 8, "partitions": 7, "replication": 3},
    "bernoulli": {"workers": 8, "replication": 3},
    "batched_coupon": {"workers": 9, "partitions": 8, "load": 2},
}


@pytest.fixture(params=sorted(SAMPLES))
def sample(request):
    return codes.create(request.param, **SAMPLES[request.param])


def test_there_is_a_sample_of_every_code():
    assert set(SAMPLES) == set(codes.REGISTRY)


def test_shapes(sample):
    n, k = sample.workers, sample.partitions
    folds = (sample.reduction,) if sample.reduction > 1 else ()
    assert sample.encoding.shape == (n, k, *folds)
    assert sample.encoding.dtype in (np.float64, np.complex128)
    assert len(sample.placement) == n
    for row, held in zip(sample.encoding, sample.placement, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(row.reshape(k, -1).any(axis=1)), held)
    assert sample.load == max(map(len, sample.placement))
    decoding = sample.decode(range(n))
    assert decoding.weights.shape == (n, *folds)
    assert decoding.exact
    assert decoding.error <= sample.worst.error * (1 + 1e-6)
    with pytest.raises(AttributeError):
        decoding.residual = 0.0
    for array in (sample.encoding, sample.placement[0], decoding.weights):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7


def test_repr():
    assert repr(codes.cyclic_repetition(workers=6, stragglers=2)) == "cyclic_repetition(workers=6, stragglers=2)"
    assert repr(codes.cyclic_mds(6, 3, None, permute=4)) == "cyclic_mds(workers=6, stragglers=3, permute=4)"
    speeds = np.array([1.0, 2.0])
    assert repr(codes.heterogeneous(speeds, 4)) == "heterogeneous(speeds=[1.0, 2.0], partitions=4)"


def test_repr_builds_the_code_again(sample):
    again = eval(repr(sample), vars(codes))
    np.testing.assert_array_equal(again.encoding, sample.encoding)


def test_pickle(sample):
    before = sample.decode(range(1, sample.workers))
    copy = pickle.loads(pickle.dumps(sample))
    assert repr(copy) == repr(sample)
    np.testing.assert_array_equal(copy.encoding, sample.encoding)
    np.testing.assert_array_equal(copy.decode(range(1, sample.workers)).weights, before.weights)


def test_decodings_are_cached_within_bounds():
    code = codes.cyclic_mds(12, 3, dtype="float64")
    first = code.decode([11, *range(8)])
    assert code.decode(set(range(8)) | {11}) is first
    for number in range(2 * code.cache_size):
        code.decode(i for i in range(12) if number >> i & 1)
    assert len(code._decodings) == code.cache_size
    again = code.decode([11, *range(8)])
    assert again is not first
    np.testing.assert_array_equal(again.weights, first.weights)


def test_recently_used_decodings_stay():
    code = codes.fractional_repetition(12, 3)
    kept = code.decode(range(12))
    for number in range(2 * code.cache_size):
        code.decode(i for i in range(12) if number >> i & 1)
        assert code.decode(range(12)) is kept


def test_survivors_are_any_indices():
    code = codes.fractional_repetition(6, 2)
    expected = code.decode([3, 4]).weights
    for alive in ((4, 3, 3, 4), np.array([3, 4]), {np.int64(3), 4}, (i for i in (3, 4))):
        np.testing.assert_array_equal(code.decode(alive).weights, expected)
    for wrong in ([0, 6], [-1, 2]):
        with pytest.raises(ValueError, match=r"survivors=\[(6|-1)\] must be worker indices between 0 and 5"):
            code.decode(wrong)
        with pytest.raises(ValueError, match="survivors="):
            code.decodable(wrong)


def test_randomness_comes_from_the_argument():
    for build in (
        lambda rng: codes.cyclic_repetition(8, 2, variant="random", rng=rng, dtype="float64"),
        lambda rng: codes.heterogeneous([1, 2, 3], 6, 1, variant="random", rng=rng, dtype="float64"),
        lambda rng: codes.hierarchical([3, 3, 3], 1, 1, variant="random", rng=rng, dtype="float64"),
        lambda rng: codes.communication_efficient(8, 3, 1, 2, construction="gaussian", rng=rng, dtype="float64"),
        lambda rng: codes.stochastic(8, 8, 3, rng=rng),
        lambda rng: codes.bernoulli(8, 8, 3, rng=rng),
        lambda rng: codes.batched_coupon(8, 8, 4, rng=rng),
    ):
        np.testing.assert_array_equal(build(3).encoding, build(3).encoding)
        np.testing.assert_array_equal(build(3).encoding, build(np.random.default_rng(3)).encoding)
        assert any((build(seed).encoding != build(3).encoding).any() for seed in (4, 5, 6))


BAD = [
    ("uncoded", {"workers": 0}, "workers=0 must be an integer, at least 1"),
    ("uncoded", {"workers": 4, "partitions": 3}, "partitions=3 must be an integer, at least 4"),
    ("uncoded", {"workers": True}, "workers=True must"),
    ("uncoded", {"workers": 2, "dtype": "int8"}, "dtype='int8' must be one of 'float32', 'float64'"),
    ("fractional_repetition", {"workers": 4, "stragglers": 4}, "stragglers=4 must be an integer, between 0 and 3"),
    ("fractional_repetition", {"workers": 4, "stragglers": -1}, "stragglers=-1 must"),
    ("fractional_repetition", {"workers": 4, "stragglers": 1.5}, "stragglers=1.5 must be an integer"),
    ("fractional_repetition", {"workers": 4, "stragglers": 1, "partitions": 1}, "partitions=1 must"),
    ("fractional_repetition", {"workers": 4, "stragglers": 1, "replicas": "far"}, "replicas='far' must be one of"),
    ("cyclic_mds", {"workers": 4, "stragglers": 1, "partitions": 3}, "partitions=3 must"),
    ("cyclic_mds", {"workers": 4, "stragglers": 1, "dtype": "half"}, "dtype='half' must"),
    ("cyclic_mds", {"workers": 4, "stragglers": 1, "max_error": 0.0}, "max_error=0.0 must be positive"),
    ("cyclic_mds", {"workers": 4, "stragglers": 1, "max_error": float("nan")}, "max_error=nan must be positive"),
    ("reed_solomon", {"workers": 4, "stragglers": 7}, "stragglers=7 must"),
    ("cyclic_repetition", {"workers": 4, "stragglers": 1, "variant": "best"}, "variant='best' must be one of"),
    ("cyclic_repetition", {"workers": 4, "stragglers": 1, "draws": 0}, "draws=0 must"),
    ("cyclic_repetition", {"workers": 4, "stragglers": 1, "rng": None}, "rng=None must"),
    ("heterogeneous", {"speeds": []}, r"speeds=\[\] must be positive"),
    ("heterogeneous", {"speeds": [1, 0]}, "speeds="),
    ("heterogeneous", {"speeds": [[1, 2]]}, "speeds="),
    ("heterogeneous", {"speeds": [1, 2], "stragglers": 2}, "stragglers=2 must"),
    ("heterogeneous", {"speeds": [1, 2], "mixing": [[1, 1]]}, r"mixing=\(1, 2\) must have the shape"),
    ("heterogeneous", {"speeds": [1, 1], "mixing": [[1, 1], [1, 1]]}, "mixing must have independent columns"),
    ("heterogeneous", {"speeds": [1, 1], "variant": "sorted"}, "variant='sorted' must"),
    ("stochastic", {"workers": 4, "replication": 5}, "replication=5 must be an integer, between 1 and 4"),
    ("stochastic", {"workers": 4, "allocation": "even"}, "allocation='even' must"),
    ("bernoulli", {"workers": 4, "replication": 0}, "replication=0 must"),
    ("bernoulli", {"workers": 4, "partitions": 0}, "partitions=0 must"),
    ("batched_coupon", {"workers": 4, "load": 5}, "load=5 must be an integer, between 1 and 4"),
    ("batched_coupon", {"workers": 2, "partitions": 9, "load": 2}, "load=2 must be at least 5"),
    ("batched_coupon", {"workers": 4, "on_uncovered": "ignore"}, "on_uncovered='ignore' must"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        codes.create(name, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "best"}, "decoder='best' must be one of"),
        ({"decoder": "fixed"}, "straggling=None must be given for decoder='fixed'"),
        ({"straggling": 0.1}, "straggling=0.1 must be given for decoder='fixed' and for no other"),
        ({"decoder": "fixed", "straggling": 1.0}, r"straggling=1.0 must lie in \[0, 1\), one for all"),
        ({"decoder": "fixed", "straggling": [0.5, -0.1, 0, 0]}, "straggling="),
        ({"decoder": "fixed", "straggling": [0.5, 0.1]}, "straggling="),
    ],
)
def test_bad_decoders(options, message):
    with pytest.raises(ValueError, match=message):
        codes.uncoded(4).decode([0, 1], **options)


def test_codes_need_no_torch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from gradcode import codes\n"
        "assert codes.cyclic_mds(6, 3).decode([3, 4, 5]).exact\n"
        "print(sorted(m for m in sys.modules if m.startswith('scipy.') and m.count('.') == 1))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
