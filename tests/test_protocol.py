from __future__ import annotations

import pickle

import pytest

from gradcode.protocol import Combination, Layout


def test_combination_is_a_mapping_of_numbers() -> None:
    combination = Combination({3: 1, 0: -0.5 + 0j, 2: 1j})
    assert dict(combination) == {3: 1.0, 0: -0.5, 2: 1j}
    assert list(combination) == [3, 0, 2] and len(combination) == 3 and 1 not in combination
    assert isinstance(combination[3], float) and isinstance(combination[0], float)
    assert repr(combination) == "Combination({3: 1.0, 0: -0.5, 2: 1j})"
    assert not Combination({}) and combination


def test_combination_is_real_or_not() -> None:
    assert Combination({0: 1.0, 1: 2 + 0j}).real and Combination({}).real
    assert not Combination({0: 1.0, 1: 2 + 1e-9j}).real


def test_combination_of_folded_messages() -> None:
    """A number for each part, complex where the layout is packed; multiplied by the target's coefficient."""
    combination = Combination({0: (1, 2 + 0j, 1j), 2: (0.5, 1.0, 2.0)})
    assert dict(combination) == {0: (1.0, 2.0, 1j), 2: (0.5, 1.0, 2.0)} and not combination.real
    assert [type(part) for part in combination[0]] == [float, float, complex]  # type: ignore[union-attr]
    assert dict(combination.of(Combination({0: 2.0}))) == {0: (2.0, 4.0, 2j)}
    with pytest.raises(ValueError, match="is folded"):
        Combination({0: 1.0}).of(combination)


def test_combination_is_immutable() -> None:
    given = {0: 1.0}
    combination = Combination(given)
    given[0] = 2.0
    assert combination[0] == 1.0
    with pytest.raises(TypeError):
        combination[0] = 2.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        combination.extra = 1  # type: ignore[attr-defined]


def test_combination_is_equal_by_value_and_order_of_computing() -> None:
    one, same = Combination({0: 1.0, 1: 2.0}), Combination({0: 1, 1: 2 + 0j})
    assert one == same and hash(one) == hash(same) and {one: "found"}[same] == "found"
    assert one != Combination({0: 1.0, 1: 2.5}) and one != Combination({0: 1.0})
    assert one != {0: 1.0, 1: 2.0}
    assert one != Combination({1: 2.0, 0: 1.0})


def test_combination_can_be_pickled() -> None:
    combination = Combination({4: 0.1, 1: 1 - 2j})
    again = pickle.loads(pickle.dumps(combination))
    assert again == combination and hash(again) == hash(combination) and list(again) == [4, 1]


class Halves:
    remembers = False

    def size(self, length: int, itemsize: int) -> int:
        return -(-length // 2) + itemsize


@pytest.mark.parametrize(
    ("layout", "width", "size"),
    [
        (Layout(3, 3), 7, 28),
        (Layout(3, 3, packed=True), 8, 32),
        (Layout(3, 3, fold=2), 4, 16),
        (Layout(3, 3, fold=3), 3, 12),
        (Layout(3, 3, fold=3, packed=True), 4, 16),
        (Layout(3, 3, codec=Halves()), 7, 8),  # type: ignore[arg-type]
        (Layout(3, 3, codec=Halves(), fold=2), 4, 6),  # type: ignore[arg-type]
    ],
)
def test_layout_of_seven_coordinates_of_four_bytes(layout: Layout, width: int, size: int) -> None:
    assert layout.width(7) == width and layout.row_bytes(7, 4) == size
    assert Layout(1, 1, packed=True).width(8) == 8 and Layout(1, 1, fold=4).width(8) == 2
